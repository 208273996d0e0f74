package keyservice

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/backup"
	"ramzban/keyservice/store"
)

// Backup is one that is being taken: a snapshot, which holds what is to be written whatever is decided meanwhile. It must be
// closed.
type Backup struct {
	Header  backup.Header
	service *Service
	caller  authz.Caller
	snap    store.Snapshot
	ended   bool
}

// BackupTaken is what was written.
type BackupTaken struct {
	backup.Summary
	FileBytes  uint64
	FileDigest [sha256.Size]byte // SHA-256 of the file: what a proposal to restore it names
}

// TakeBackup begins a backup: the log says so, and then the state of the database is held. One is taken at a time, else
// CodeBusy.
func (s *Service) TakeBackup(ctx context.Context, c authz.Caller) (*Backup, error) {
	if err := s.authorise(ctx, c, authz.TakeBackup, ""); err != nil {
		return nil, err
	}
	if !s.backingUp.TryLock() {
		return nil, &Error{Code: CodeBusy, Detail: "a backup is being taken by this node; one at a time"}
	}
	b, err := s.beginBackup(ctx, c)
	if err != nil {
		s.backingUp.Unlock()
		return nil, hsmError(err)
	}
	return b, nil
}

func (s *Service) beginBackup(ctx context.Context, c authz.Caller) (*Backup, error) {
	now := s.Clock()
	if _, err := s.commit(ctx, c, authz.TakeBackup, decision{entry: audit.Entry{Outcome: audit.Begun}}); err != nil {
		return nil, err
	}
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, storeError(err)
	}
	b := &Backup{service: s, caller: c, snap: snap, Header: backup.Header{Node: s.Node, Time: now.UnixMilli()}}
	if err := b.describe(ctx); err != nil {
		snap.Close()
		return nil, err
	}
	return b, nil
}

// describe fills in the header from the snapshot.
func (b *Backup) describe(ctx context.Context) error {
	row, err := rowIn(ctx, b.snap, ringKey)
	if err != nil {
		return storeError(err)
	}
	ring, err := b.service.unsealRing(ctx, row)
	if err != nil {
		return err
	}
	b.Header.Installation, b.Header.Ring = ring.Installation, ring.Revision
	logs, _, err := b.service.logs(ctx, b.snap, 0)
	if err != nil {
		return storeError(err)
	}
	for _, log := range logs {
		end, err := b.service.logEnd(ctx, b.snap, log.Node)
		if err != nil {
			return storeError(err)
		}
		note, err := rowIn(ctx, b.snap, audit.CheckpointKey(log.Node))
		if err != nil {
			return storeError(err)
		}
		b.Header.Logs = append(b.Header.Logs, backup.LogEnd{Node: log.Node, Entries: end, Checkpoint: note.Value})
	}
	return nil
}

// Write writes the file. It is whole once the log says what was written, and only then is there no error; a backup that was
// cut is logged too.
func (b *Backup) Write(ctx context.Context, to io.Writer) (BackupTaken, error) {
	if b.ended {
		return BackupTaken{}, &Error{Code: CodeInternal, Detail: "a backup is written once"}
	}
	b.ended = true
	file := &summing{to: to, sum: sha256.New()}
	total, err := b.write(ctx, file)
	if err != nil {
		return BackupTaken{}, b.cut(ctx, err)
	}
	taken := BackupTaken{Summary: total, FileBytes: file.bytes}
	file.sum.Sum(taken.FileDigest[:0])
	d := decision{entry: audit.Entry{
		Outcome: audit.Done, Detail: fmt.Sprintf("%d rows, SHA-256 of the file %x", total.Rows, taken.FileDigest),
	}}
	if _, err := b.service.commit(ctx, b.caller, authz.TakeBackup, d); err != nil {
		return BackupTaken{}, err
	}
	return taken, nil
}

// errBackupOut: the file could not be written where it goes.
var errBackupOut = errors.New("writing the backup where it goes")

func (b *Backup) write(ctx context.Context, to io.Writer) (backup.Summary, error) {
	w, err := backup.NewWriter(to, backup.Recipient(ctx, b.service.HSM), b.Header)
	if err != nil {
		return backup.Summary{}, err
	}
	var wrong error
	err = b.snap.Scan(ctx, "", "", func(it store.Item) error {
		wrong = w.Add(it.Key, it.Value)
		return wrong
	})
	switch {
	case wrong != nil:
		return backup.Summary{}, wrong
	case err != nil:
		return backup.Summary{}, storeError(err)
	}
	return w.Close()
}

// cutLimit bounds the entry about a backup that was cut.
const cutLimit = 10 * time.Second

// cut logs that a backup did not come to its end. Whoever was to get it may be gone, and with it ctx.
func (b *Backup) cut(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = tooLate(errors.Join(err, ctx.Err()))
	}
	err = hsmError(err)
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), cutLimit)
	defer cancel()
	d := decision{entry: audit.Entry{Outcome: audit.Failed, Reason: string(CodeOf(err))}}
	if _, cerr := b.service.commit(late, b.caller, authz.TakeBackup, d); cerr != nil {
		return errors.Join(err, cerr)
	}
	return err
}

// Close gives the snapshot back. It must be called once.
func (b *Backup) Close() {
	b.snap.Close()
	b.service.backingUp.Unlock()
}

// summing counts and sums up what goes through it.
type summing struct {
	to    io.Writer
	sum   hash.Hash
	bytes uint64
}

// Write implements io.Writer.
func (s *summing) Write(p []byte) (int, error) {
	n, err := s.to.Write(p)
	s.sum.Write(p[:n])
	s.bytes += uint64(n)
	if err != nil {
		err = fmt.Errorf("%w: %w", errBackupOut, err)
	}
	return n, err
}

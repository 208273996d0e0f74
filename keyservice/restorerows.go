package keyservice

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/store"
)

// others writes every row that is no token's.
func (r *restoring) others(ctx context.Context) error {
	trees, err := r.treeRows(ctx)
	if err != nil {
		return err
	}
	err = r.file.Each(ctx, "", func(row store.Put) error {
		kind, _, _ := strings.Cut(string(row.Key), "/")
		_, newer := trees[row.Key]
		all, guessed := r.guesses[row.Key]
		switch {
		case !restoredKinds[kind], kind == "t", kind == "s", kind == "d", row.Key == ringKey, row.Key == officersKey, newer, r.newerSeed(row.Key), r.dropped[row.Key]:
			return nil
		case kind == "p":
			return r.proposalRow(ctx, row)
		case guessed:
			delete(r.guesses, row.Key) // who is left was made after the backup
			return r.budget(ctx, itemOf(row), all)
		}
		return r.out.add(ctx, row)
	})
	if err != nil {
		return err
	}
	for _, row := range trees {
		if err := r.out.add(ctx, row); err != nil {
			return err
		}
	}
	return r.ownRows(ctx)
}

// treeRows are the tiles and checkpoints of logs that go on: of all that is there, so that no anchor tells of more. What the
// archive has no checkpoint of is signed now.
func (r *restoring) treeRows(ctx context.Context) (map[store.Key]store.Put, error) {
	rows := map[store.Key]store.Put{}
	for _, l := range r.logs {
		signed := l.note
		if signed == nil && l.complete() && l.end > uint64(l.stored.Tree.N) {
			tree, err := l.tree.Tree()
			if err != nil {
				return nil, err
			}
			c := audit.Checkpoint{Origin: r.service.origin(l.node), Tree: tree, Time: r.now.UTC().Truncate(time.Millisecond), Ring: r.ring.Revision, Officers: r.officers.Revision, Witness: l.stored.Witness}
			if signed, err = c.Sign(ctx, r.service.signAudit); err != nil {
				return nil, err
			}
		}
		if signed == nil {
			continue
		}
		for _, row := range l.tree.Rows() {
			rows[row.Key] = row
		}
		key := audit.CheckpointKey(l.node)
		rows[key] = store.Put{Key: key, Value: signed}
	}
	return rows, nil
}

// ownRows writes the key ring, and the row that says that the database was restored.
func (r *restoring) ownRows(ctx context.Context) error {
	ring, err := r.service.sealRing(ctx, r.ring)
	if err != nil {
		return err
	}
	closed, err := r.closedLogs()
	if err != nil {
		return err
	}
	for _, c := range r.before.Closed {
		if !slices.ContainsFunc(closed, func(n closedLog) bool { return n.Node == c.Node }) {
			closed = append(closed, c)
		}
	}
	for _, c := range closed {
		r.result.Closed = append(r.result.Closed, ClosedLog{c.Node, c.Entries, c.Signed})
	}
	digest, err := hex.DecodeString(r.digest)
	if err != nil {
		return err
	}
	row, err := r.service.mac(restoredKey, restored{
		Schema: schema, Count: r.before.Count + 1, At: r.now.UnixMilli(), Backup: digest, Proposal: approval.ID(r.Proposal.Document), Closed: closed,
	})
	if err != nil {
		return err
	}
	return r.out.add(ctx, ring, row)
}

// entries puts the archive's entries back where they stood, and the restore's own behind those of the node's log.
func (r *restoring) entries(ctx context.Context) error {
	logs := map[string]*audit.Log{}
	for _, l := range r.logs {
		logs[l.node] = audit.NewLog(l.node)
		logs[l.node].Use(r.service.ring.Load().host)
	}
	err := r.grow(ctx, func(node string, index uint64, leaf []byte) error {
		rows, err := logs[node].Sequence(index, [][]byte{leaf})
		if err != nil {
			return err
		}
		r.result.Entries++
		return r.out.add(ctx, rows...)
	})
	if err != nil {
		return err
	}
	next := map[string]uint64{r.Node: 0}
	for _, l := range r.logs {
		next[l.node] = l.end
	}
	own, err := r.ownEntries()
	if err != nil {
		return err
	}
	rows, err := r.service.Audit.Sequence(next[r.Node], own)
	if err != nil {
		return err
	}
	if err := r.out.add(ctx, rows...); err != nil {
		return err
	}
	next[r.Node] += uint64(len(own))
	return r.Into.SetLogs(ctx, r.out.under, next)
}

// ownEntries are what the log says of the restore: who wanted what, how each log goes on, what tokens have become, which are
// gone, and the sum of it.
func (r *restoring) ownEntries() ([][]byte, error) {
	var own []audit.Entry
	for _, signed := range []approval.Signed{r.Proposal, r.Approval} {
		own = append(own, audit.Entry{
			Action: ActionRestore, Outcome: audit.Begun, Detail: "SHA-256 of the backup " + r.digest,
			Document: signed.Document, Signature: signed.Signature, Certificate: signed.Certificate,
		})
	}
	for _, l := range r.logs {
		own = append(own, r.logEntry(l))
	}
	why := audit.EntriesLost
	if r.complete {
		why = ""
	}
	own = append(own, r.ended...)
	own = append(own, inParts(restoreTokens, why, r.parts)...)
	var gone []audit.Part
	for _, serial := range r.gone() {
		gone = append(gone, audit.Part{Serial: serial})
	}
	own = append(own, inParts(restoreGone, "", gone)...)
	r.summarise()
	own = append(own, audit.Entry{Action: ActionRestore, Outcome: audit.Done, Revision: r.ring.Revision, Detail: r.result.summary()})
	return r.encoded(own)
}

func (r *restoring) encoded(all []audit.Entry) ([][]byte, error) {
	encoded := make([][]byte, len(all))
	for i, e := range all {
		e.Time, e.Node, e.Actor, e.Proposal = r.now.UnixMilli(), r.Node, r.proposal.Proposer, cmp.Or(e.Proposal, approval.ID(r.Proposal.Document))
		var err error
		if encoded[i], err = audit.Encode(e); err != nil {
			return nil, err
		}
	}
	return encoded, nil
}

// logEntry says how a node's log goes on. What is said to be signed is the anchor's.
func (r *restoring) logEntry(l *nodeLog) audit.Entry {
	e := audit.Entry{Action: string(restoreLog), Outcome: audit.Done, Detail: fmt.Sprintf("the log of %s goes on at %d", l.node, l.end)}
	if l.anchor != nil {
		if root, err := l.anchor.root(); err == nil { // was read before
			e.Tree = &audit.Head{Size: l.anchor.Size, Root: root[:]}
		}
	}
	switch {
	case r.wasClosed(l):
		e.Detail = fmt.Sprintf("the log of %s ended with an earlier restore at %d", l.node, l.end)
	case !l.complete() && l.anchor != nil:
		e.Detail = fmt.Sprintf("the log of %s ends at %d: entries %d to %d are lost", l.node, l.end, l.end, l.anchor.Size-1)
	case !l.complete():
		e.Detail = fmt.Sprintf("the log of %s ends at %d: nobody can say what came after", l.node, l.end)
	}
	return e
}

// inParts makes entries that each tell of some tokens.
func inParts(action authz.Action, why string, parts []audit.Part) (entries []audit.Entry) {
	for some := range slices.Chunk(parts, restoredParts) {
		entries = append(entries, audit.Entry{Action: string(action), Outcome: audit.Done, Reason: why, Also: some})
	}
	return entries
}

func (r *restoring) summarise() {
	r.result.Installation, r.result.Proposal = r.ring.Installation, approval.ID(r.Proposal.Document)
	r.result.TakenAt, r.result.Now = time.UnixMilli(r.file.Header.Time).UTC(), r.now.UTC()
	r.result.Complete = r.complete
}

// summary is how a restore's last entry ends.
func (d Restored) summary() string {
	how := "complete up to the anchor"
	if !d.Complete {
		how = "entries are lost"
	}
	return fmt.Sprintf("backup of %s, %s: %d entries put back, %d tokens written, %d suspended, %d gone, %d unreadable",
		d.TakenAt.Format("2006-01-02T15:04:05Z"), how, d.Entries, d.Tokens, d.Suspended, d.Gone, d.Unreadable)
}

// loading gathers rows for the target.
type loading struct {
	into  RestoreTarget
	under store.Fence
	told  func(uint64)
	batch []store.Put
	bytes int
	rows  uint64
}

// A batch of rows is written when it has so many rows or bytes.
const (
	loadRows  = 512
	loadBytes = 1 << 20
)

func (l *loading) add(ctx context.Context, rows ...store.Put) error {
	for _, row := range rows {
		l.batch = append(l.batch, store.Put{Key: row.Key, Value: bytes.Clone(row.Value)})
		l.bytes += len(row.Key) + len(row.Value)
		if len(l.batch) < loadRows && l.bytes < loadBytes {
			continue
		}
		if err := l.flush(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (l *loading) flush(ctx context.Context) error {
	if len(l.batch) == 0 {
		return nil
	}
	err := ctx.Err()
	if err == nil {
		err = l.into.Load(ctx, l.under, l.batch)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", l.into.Name(), err)
	}
	l.rows += uint64(len(l.batch))
	l.batch, l.bytes = nil, 0
	if l.told != nil {
		l.told(l.rows)
	}
	return nil
}

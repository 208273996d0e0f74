package keyservice

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit/archive"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/backup"
	"ramzban/keyservice/store"
)

// Only two different officers who agree on this file and this anchor can restore; whatever else is shown writes nothing.
func TestOneOfficerAloneCannotRestore(t *testing.T) {
	w := newWorld(t)
	w.enrol(card(1), "counter-6")
	good := w.lostNow(w.takeBackup(), true)
	other := w.takeBackup()
	resign := func(change func(l *lost)) func(l *lost) {
		return func(l *lost) {
			change(l)
			l.change = func(o *Restore) { o.Proposal, o.Approval = l.documents() }
		}
	}
	for name, c := range map[string]struct {
		change func(l *lost)
		code   Code
	}{
		"one signs both":         {resign(func(l *lost) { l.by[1] = alice }), CodeSamePerson},
		"the approver is nobody": {resign(func(l *lost) { l.by[1] = ex }), CodeSignatureInvalid},
		"the approver is none":   {resign(func(l *lost) { l.by[1] = zoe }), CodeNotOfficer},
		"the proposer is none":   {resign(func(l *lost) { l.by[0] = zoe }), CodeNotOfficer},
		"a renewed certificate": {func(l *lost) {
			l.change = func(o *Restore) {
				o.Approval = officersCA().sign(l.w.encoded(approval.Approve(o.Proposal.Document, "alice", l.clock())), "alice-renewed")
			}
		}, CodeSamePerson},
		"another file": {func(l *lost) {
			sign := *l
			l.file = other
			l.change = func(o *Restore) { o.Proposal, o.Approval = sign.documents() }
		}, CodeDocumentInvalid},
		"an approval of another": {func(l *lost) { l.change = func(o *Restore) { _, o.Approval = l.documents() } }, CodeDocumentInvalid},
		"expired": {func(l *lost) {
			sign := *l
			l.now = w.now().Add(2 * time.Hour)
			l.change = func(o *Restore) { o.Proposal, o.Approval = sign.documents() }
		}, CodeProposalClosed},
		"another action": {func(l *lost) {
			l.change = func(o *Restore) { o.Proposal, o.Approval = l.signed(ActionOfficers, w.newOfficers("alice", "bob")) }
		}, CodeDocumentInvalid},
		"an anchor twice":        {resign(func(l *lost) { l.anchor = append(l.anchor, l.anchor...) }), CodeDocumentInvalid},
		"an anchor without root": {resign(func(l *lost) { l.anchor = []Anchor{{Node: "node-1", Size: 3, Time: w.now()}} }), CodeDocumentInvalid},
		"a changed proposal": {func(l *lost) {
			l.change = func(o *Restore) {
				o.Proposal.Document = []byte(strings.Replace(string(o.Proposal.Document), `"size":`, `"size":1`, 1))
			}
		}, CodeSignatureInvalid},
		"another authority":    {func(l *lost) { l.change = func(o *Restore) { o.Proposal = newCA().sign(o.Proposal.Document, "alice") } }, CodeSignatureInvalid},
		"nobody is configured": {func(l *lost) { l.change = func(o *Restore) { o.Persons = Persons{} } }, CodeSignatureInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			l, to := good, places["badger"](t)
			c.change(&l)
			_, err := l.run(to)
			require.Equal(t, c.code, CodeOf(err), "%v", err)
			to.requireUntouched(t)
		})
	}
	_, err := good.run(places["badger"](t))
	require.NoError(t, err)
}

func (p place) requireUntouched(t *testing.T) {
	t.Helper()
	into, err := p.transfer()
	require.NoError(t, err)
	defer func() { require.NoError(t, into.Close()) }()
	fence, err := into.Fence(context.Background())
	require.NoError(t, err)
	require.Zero(t, fence)
	rows, err := into.Count(context.Background())
	require.NoError(t, err)
	require.Zero(t, rows)
}

// A database that holds something is not written over; nor is one that another command is at work on.
func TestOnlyAnEmptyDatabaseIsRestoredInto(t *testing.T) {
	w := newWorld(t)
	l := w.lostNow(w.takeBackup(), true)
	used := places["badger"](t)
	_, err := l.run(used)
	require.NoError(t, err)
	_, err = l.run(used)
	require.ErrorContains(t, err, "holds a database already")
	for _, state := range []store.FenceState{store.Filling, store.Copying, store.Moved} {
		into, err := places["badger"](t).transfer()
		require.NoError(t, err)
		require.NoError(t, into.SetFence(context.Background(), store.Fence{}, store.Fence{Own: store.NewID(), State: state, Where: "elsewhere"}))
		_, err = l.into(into)
		require.ErrorContains(t, err, "ramzban store copy")
		require.NoError(t, into.Close())
	}
}

// What the archive and the anchor say must fit the backup; a log of which entries are lost is closed.
func TestLogsThatDoNotFitAreRefused(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	file := w.takeBackup()
	require.True(t, w.try(p, p.password()).Accepted)
	good := w.lostNow(file, true)
	stranger := newWorld(t)
	stranger.enrol(card(1), "counter-6")
	for range 4 {
		stranger.issued(card(int(stranger.head.Load())), "offline-60")
	}
	for name, c := range map[string]struct {
		change func(l *lost)
		is     error
	}{
		"the anchor is of another log": {func(l *lost) { l.anchor = stranger.anchor() }, ErrLogClosed},
		"the anchor has another root":  {func(l *lost) { l.anchor[0].Root = strings.Repeat("A", 43) + "=" }, ErrOtherLog},
		"an old anchor has another root": {func(l *lost) {
			l.anchor = []Anchor{{Node: "node-1", Size: 2, Root: strings.Repeat("A", 43) + "=", Time: w.now()}}
		}, ErrOtherLog},
		"the archive is of another installation": {func(l *lost) { l.archive = stranger.archiveDir(); stranger.export(l.archive) }, archive.ErrArchive},
		"an entry is missing":                    {func(l *lost) { l.editArchive(func(lines []string) []string { return lines[:len(lines)-2] }) }, archive.ErrArchive},
		"an entry was changed": {func(l *lost) {
			l.editArchive(func(lines []string) []string {
				lines[len(lines)-2] = strings.Replace(lines[len(lines)-2], `"leaf":"`, `"leaf":"AAAA`, 1)
				return lines
			})
		}, archive.ErrArchive},
		"two entries changed places": {func(l *lost) {
			l.editArchive(func(lines []string) []string {
				n := len(lines)
				lines[n-3], lines[n-2] = lines[n-2], lines[n-3]
				return lines
			})
		}, archive.ErrArchive},
		"the end is missing": {func(l *lost) { l.archive = "" }, ErrLogClosed},
		"there is no anchor": {func(l *lost) { l.anchor = nil }, ErrLogClosed},
	} {
		t.Run(name, func(t *testing.T) {
			l, to := good, places["badger"](t)
			l.anchor = slices.Clone(good.anchor)
			c.change(&l)
			_, err := l.run(to)
			require.ErrorIs(t, err, c.is)
			to.requireUntouched(t)
		})
	}
}

// editArchive copies the archive and changes the lines of its last segment.
func (l *lost) editArchive(edit func(lines []string) []string) {
	dir := l.w.archiveDir()
	require.NoError(l.w.t, os.CopyFS(dir, os.DirFS(l.archive)))
	l.archive = dir
	segments, err := filepath.Glob(filepath.Join(dir, "*", "entries-*"))
	require.NoError(l.w.t, err)
	name := segments[len(segments)-1]
	text, err := os.ReadFile(name)
	require.NoError(l.w.t, err)
	lines := edit(strings.SplitAfter(string(text), "\n"))
	require.NoError(l.w.t, os.WriteFile(name, []byte(strings.Join(lines, "")), 0o600))
}

// A node whose log is closed cannot serve under its old name, nor can a later restore bring it back; what is missing was
// declared, and more than that is not.
func TestAClosedLogStaysClosed(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	file := w.takeBackup()
	end := uint64(len(w.leavesOf("node-1"))) - 1 // but for the entry that says that it was written
	require.True(t, w.try(p, p.password()).Accepted)
	l := w.lostNow(file, false)
	to := places["badger"](t)
	result, err := l.run(to)
	require.NoError(t, err)
	require.Equal(t, []ClosedLog{{Node: "node-1", Entries: end, Signed: end + 2}}, result.Closed)

	after := l.serve(to)
	require.NoError(t, after.CheckAnchor(context.Background(), l.seen), "it was declared that this is lost")
	w.decideSome(1)
	require.ErrorIs(t, after.CheckAnchor(context.Background(), w.signed()), ErrRollback, "and this was not")
	c := after.Config
	c.Node = "node-1"
	_, err = New(context.Background(), c)
	require.ErrorIs(t, err, ErrLogClosed)

	again := after.lostNow(after.takeBackup(), true)
	again.anchor = append(again.anchor, l.anchor...)
	third, result := again.restored()
	require.True(t, result.Complete, "what is missing was declared before")
	require.Equal(t, []ClosedLog{{Node: "node-1", Entries: end, Signed: end + 2}}, result.Closed)
	third.requireNothingFound()
	again.node = "node-1"
	_, err = again.run(places["badger"](t))
	require.ErrorIs(t, err, ErrLogClosed)
}

// Every byte of the head of a file, any of the rest, its end, what is put behind it, and parts that change places: all is
// found, and nothing is written.
func TestEveryDamageToABackupIsFound(t *testing.T) {
	w := newWorld(t)
	for i := range 60 {
		w.issued(card(i), "offline-60")
	}
	file := w.takeBackup()
	const chunk = 64<<10 + 16
	payload := strings.Index(string(file), "\n--- ") + 5 + 43 + 1 + 16
	require.Greater(t, len(file), payload+chunk)
	damages := map[string][]byte{"cut to nothing": {}, "something behind it": append(slices.Clone(file), 0), "itself behind it": slices.Concat(file, file)}
	for i := range payload {
		damages[fmt.Sprintf("byte %d", i)] = flipped(file, i)
	}
	for range 100 {
		i := payload + int(randomBelow(len(file)-payload))
		damages[fmt.Sprintf("byte %d", i)] = flipped(file, i)
		damages[fmt.Sprintf("cut at %d", i)] = file[:i]
		damages[fmt.Sprintf("without byte %d", i)] = slices.Delete(slices.Clone(file), i, i+1)
	}
	damages["the last chunk missing"] = file[:payload+chunk]
	damages["chunks in another order"] = slices.Concat(file[:payload], file[payload+chunk:], file[payload:payload+chunk])
	for name, damaged := range damages {
		_, err := checkBackup(damaged)
		require.Error(t, err, name)
		require.False(t, errors.Is(err, context.Canceled))
	}
	_, err := checkBackup(file)
	require.NoError(t, err)
	l := w.lostNow(file, false)
	l.file = flipped(file, len(file)-1)
	to := places["badger"](t)
	_, err = l.run(to)
	require.ErrorIs(t, err, backup.ErrDamaged)
	to.requireUntouched(t)
}

func checkBackup(file []byte) (backup.Summary, error) {
	f, err := backup.OpenFile(context.Background(), strings.NewReader(string(file)), int64(len(file)), theHSM)
	if err != nil {
		return backup.Summary{}, err
	}
	return f.Check(context.Background())
}

func flipped(file []byte, i int) []byte {
	damaged := slices.Clone(file)
	damaged[i] ^= 1
	return damaged
}

func randomBelow(n int) uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:])
	return (uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])) % uint32(n)
}

// Only who has the role takes a backup; each stands in the log before and after, also one that is cut.
func TestABackupIsLogged(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	for _, c := range []authz.Caller{branch, mobileBank, smsGateway, coreBanking, auditor, alice} {
		_, err := w.TakeBackup(ctx, c)
		require.Equal(t, CodeDenied, CodeOf(err))
	}
	b, err := w.TakeBackup(ctx, operator)
	require.NoError(t, err)
	_, err = w.TakeBackup(ctx, operator)
	require.Equal(t, CodeBusy, CodeOf(err))
	_, err = b.Write(ctx, failingWriter{})
	require.ErrorIs(t, err, errBackupOut)
	b.Close()
	w.takeBackup()
	var said []string
	for _, e := range w.entries() {
		if e.Action == string(authz.TakeBackup) && e.Actor == operator.Name {
			said = append(said, string(e.Outcome))
		}
	}
	require.Equal(t, []string{"begun", "failed", "begun", "done"}, said)
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("no room") }

// Of every kind of row that the service writes a restore knows what becomes of it.
func TestARestoreKnowsEveryKindOfRow(t *testing.T) {
	for prefix := range kindsOfRows {
		require.Contains(t, restoredKinds, strings.TrimSuffix(prefix, "/"))
	}
	for _, prefix := range logRows {
		require.Contains(t, restoredKinds, strings.TrimSuffix(prefix, "/"))
	}
}

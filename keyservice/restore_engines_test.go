package keyservice

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/backup"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// From either engine into either engine, of a cluster too: every token is what the logs say, and goes on from there.
func TestBackupsCrossEngines(t *testing.T) {
	sources := map[string]func(*testing.T) []*world{
		"badger":   func(t *testing.T) []*world { return []*world{newWorld(t)} },
		"postgres": func(t *testing.T) []*world { return newCluster(t, 0, 0) },
	}
	for from, open := range sources {
		for to, place := range places {
			t.Run(from+" to "+to, func(t *testing.T) {
				nodes := open(t)
				p, first, last := nodes[0].enrol(card(1), "counter-6"), nodes[0], nodes[len(nodes)-1]
				q := last.enrol(card(2), "offline-60")
				file := first.takeBackup()
				require.True(t, first.try(p, p.password()).Accepted)
				require.True(t, last.try(p, p.password()).Accepted)
				require.True(t, last.try(q, q.password()).Accepted)
				l := first.lostNow(file, true)
				if last != first {
					last.export(l.archive)
					l.anchor = append(l.anchor, last.anchor()...)
				}
				after, result := l.restoredTo(place(t))
				require.True(t, result.Complete)
				used := p.counter - 1
				require.Equal(t, ReasonAlreadyUsed, after.try(p.on(after), p.at(used)).Reason)
				require.True(t, after.try(p.on(after), p.password()).Accepted)
				after.clock.add(5 * time.Minute)
				require.True(t, after.try(q.on(after), q.on(after).password()).Accepted)
				for i, node := range nodes {
					n := l.anchor[i].Size
					before, now := node.leavesOf(node.node)[:n], after.leavesOf(node.node)[:n]
					require.True(t, slices.EqualFunc(before, now, bytes.Equal), "the entries stand where they stood")
				}
				after.requireNothingFound()
			})
		}
	}
}

// failingTarget ends a restore at one of its steps, before or after that was made.
type failingTarget struct {
	closable
	left  int
	after bool
}

var errCut = errors.New("cut short")

func (f *failingTarget) step(do func() error) error {
	f.left--
	if f.left < 0 && !f.after {
		return errCut
	}
	err := do()
	if f.left < 0 && err == nil {
		return errCut
	}
	return err
}

func (f *failingTarget) SetFence(ctx context.Context, was, now store.Fence) error {
	return f.step(func() error { return f.closable.SetFence(ctx, was, now) })
}

func (f *failingTarget) Clear(ctx context.Context, under store.Fence) error {
	return f.step(func() error { return f.closable.Clear(ctx, under) })
}

func (f *failingTarget) Load(ctx context.Context, under store.Fence, rows []store.Put) error {
	return f.step(func() error { return f.closable.Load(ctx, under, rows) })
}

func (f *failingTarget) SetLogs(ctx context.Context, under store.Fence, next map[string]uint64) error {
	return f.step(func() error { return f.closable.SetLogs(ctx, under, next) })
}

// Wherever a restore ends early, nobody can serve from what is there, and the next one begins anew.
func TestACutRestoreLeavesNoDatabase(t *testing.T) {
	w := newWorld(t)
	for i := range 200 {
		w.issued(card(i), "offline-60")
	}
	l := w.lostNow(w.takeBackup(), true)
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			to := place(t)
			cut := 0
			for ; ; cut++ {
				into, err := to.transfer()
				require.NoError(t, err)
				f := &failingTarget{closable: into, left: cut / 2, after: cut%2 == 1}
				_, err = l.into(f)
				require.NoError(t, into.Close())
				if err == nil {
					break
				}
				require.ErrorIs(t, err, errCut)
				if f.released(t, to) {
					continue
				}
				w := &world{node: "node-1", clock: w.clock, logbook: audit.NewLog("node-1")}
				_, err = to.node(w)
				if cut > 0 {
					require.ErrorIs(t, err, store.ErrMoved)
					require.ErrorContains(t, err, "ramzban restore")
				}
			}
			require.Greater(t, cut, 8)
		})
	}
}

// released says whether the last step was made though it was said to have failed: then all is there. It begins anew.
func (f *failingTarget) released(t *testing.T, at place) bool {
	into, err := at.transfer()
	require.NoError(t, err)
	defer func() { require.NoError(t, into.Close()) }()
	fence, err := into.Fence(context.Background())
	require.NoError(t, err)
	rows, err := into.Count(context.Background())
	require.NoError(t, err)
	if fence.State != store.Serving || rows == 0 {
		return fence.State == store.Serving
	}
	fenced := fence
	fenced.State = store.Restoring
	require.NoError(t, into.SetFence(context.Background(), fence, fenced))
	return true
}

// A backup that is taken while passwords are verified is a state that was: what it holds agrees with what its logs say.
func TestABackupUnderLoadIsConsistent(t *testing.T) {
	w := newWorld(t)
	var phones []*phone
	for i := range 8 {
		phones = append(phones, w.enrol(card(i), "counter-6"))
	}
	var wg sync.WaitGroup
	var accepted atomic.Int64
	ctx, stop := context.WithCancel(context.Background())
	for _, p := range phones {
		wg.Go(func() {
			for ctx.Err() == nil {
				v, err := w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: p.password()})
				if err != nil || !v.Accepted {
					t.Errorf("%v %v", v, err)
					return
				}
				accepted.Add(1)
			}
		})
	}
	var files [][]byte
	for range 3 {
		before := accepted.Load()
		require.Eventually(t, func() bool { return accepted.Load() > before+20 }, 30*time.Second, time.Millisecond)
		files = append(files, w.takeBackup())
	}
	stop()
	wg.Wait()
	for _, file := range files {
		f, err := backup.OpenFile(context.Background(), bytes.NewReader(file), int64(len(file)), theHSM)
		require.NoError(t, err)
		l := w.lost(file, "")
		l.seen = nil
		l.anchor = []Anchor{w.anchorOf("node-1", w.leavesOf("node-1")[:f.Header.Logs[0].Entries])}
		after, result := l.restored()
		require.True(t, result.Complete)
		after.requireNothingFound()
	}
}

// What was set after the backup is not in its log: the token is suspended, and what was replaced is not used again.
func TestWhatTheLogDoesNotTellIsNotGuessedAt(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	pinned := w.enrol(card(1), "pin-60")
	_, err := w.SetPIN(ctx, branch, pinned.serial, seed.NewPIN("12345678"))
	require.NoError(t, err)
	moved, connected := w.enrol(card(2), "offline-60"), w.enrol(card(3), "counter-6")
	_, err = w.SetMobile(ctx, branch, moved.serial, seed.NewMobile("09121234567"))
	require.NoError(t, err)
	file := w.takeBackup()
	_, err = w.SetPIN(ctx, branch, pinned.serial, seed.NewPIN("87654321"))
	require.NoError(t, err)
	_, err = w.SetMobile(ctx, branch, moved.serial, seed.NewMobile("09127654321"))
	require.NoError(t, err)
	_, err = w.SetUses(ctx, branch, connected.serial, nil)
	require.NoError(t, err)

	after, result := w.lostNow(file, true).restored()
	require.Equal(t, fateNoPIN, result.whyOf(pinned.serial))
	require.Equal(t, fateNoMobile, result.whyOf(moved.serial))
	require.Contains(t, result.whyOf(connected.serial), "token.set-uses")
	for _, p := range []*phone{pinned, moved, connected} {
		require.Equal(t, Suspended, after.status(p.serial))
	}
	v, err := after.Token(ctx, branch, pinned.serial)
	require.NoError(t, err)
	require.False(t, v.PINSet)
	v, err = after.Token(ctx, branch, moved.serial)
	require.NoError(t, err)
	require.Empty(t, v.Mobile)
	after.requireNothingFound()
}

// Guesses that were made after the backup count on; what was forgiven since is not.
func TestGuessesCountOnAfterARestore(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	p := w.enrol(card(1), "counter-6")
	file := w.takeBackup()
	for range limits.FreeMisses {
		require.Equal(t, ReasonMismatch, w.try(p, p.wrong()).Reason)
	}
	after, _ := w.lostNow(file, true).restored()
	require.Equal(t, ReasonThrottled, after.try(p.on(after), p.password()).Reason)
	_, err := w.Unlock(ctx, branch, p.serial)
	require.NoError(t, err)
	after, _ = w.lostNow(file, true).restored()
	require.Equal(t, ReasonThrottled, after.try(p.on(after), p.password()).Reason)
	_, err = after.Unlock(ctx, branch, p.serial)
	require.NoError(t, err)
	require.True(t, after.try(p.on(after), p.password()).Accepted)
	after.requireNothingFound()
}

// A row that was changed in the database before the backup is no better afterwards.
func TestARestoreMendsNoTamperedRow(t *testing.T) {
	w := newWorld(t)
	p, q := w.enrol(card(1), "counter-6"), w.enrol(card(2), "counter-6")
	older := w.row(stateRowKey(p.serial))
	w.attack([]store.Put{{Key: older.Key, Value: append(older.Value, 0)}})
	after, result := w.lostNow(w.takeBackup(), true).restored()
	require.Equal(t, 1, result.Unreadable)
	_, err := after.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: p.password()})
	require.Equal(t, CodeTampered, CodeOf(err))
	require.True(t, after.try(q.on(after), q.password()).Accepted)
}

package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/storetest"
	"ramzban/keyservice/store/transfer"
)

// TestThereAndBack: all is the same in the other database, nodes go on with their logs there, and later here again.
func TestThereAndBack(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		from, to := p.from(t), p.to(t)
		all := from.fill(t, 1500)
		next := map[string]uint64{"a": 4 + 8, "b-1": 2}
		for trip := range 3 {
			result, err := from.copyTo(to)
			require.NoError(t, err)
			require.EqualValues(t, len(all), result.Rows)
			require.EqualValues(t, 1500, result.Kinds["s"])
			require.Equal(t, next, result.Logs)
			require.Equal(t, trip > 0, result.Restarted, "the way back clears what is superseded")
			to.with(t, func(d database) { require.Equal(t, all, content(t, d)) })
			from.requireMoved(t, "it was moved to")

			again, err := from.copyTo(to)
			require.NoError(t, err)
			require.True(t, again.Already)
			for node := range next {
				to.serve(t, node, func(s storetest.Store) {
					require.Equal(t, next[node], commit(t, s, store.Key("k/new of "+node), fmt.Append(nil, trip)))
					next[node]++
					all = content(t, s)
				})
			}
			from, to = to, from
		}
	})
}

// TestDigestIsOfTheRowsAlone, wherever they are and whatever their versions.
func TestDigestIsOfTheRowsAlone(t *testing.T) {
	digests := map[[32]byte]bool{}
	eachPair(t, func(t *testing.T, p pair) {
		from, to := p.from(t), p.to(t)
		from.fill(t, 300)
		result, err := from.copyTo(to)
		require.NoError(t, err)
		digests[result.Digest] = true
	})
	require.Len(t, digests, 1)
	p := engines["badger"](t)
	p.fill(t, 301)
	result, err := p.copyTo(engines["badger"](t))
	require.NoError(t, err)
	require.NotContains(t, digests, result.Digest)
}

// TestRefusals: nothing that somebody may still need is overwritten, and the origin goes on.
func TestRefusals(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		from, to, third := p.from(t), p.to(t), p.to(t)
		refused := func(err error, says string) {
			t.Helper()
			require.ErrorIs(t, err, transfer.ErrRefused)
			require.ErrorContains(t, err, says)
			require.NotContains(t, err.Error(), "\n")
		}
		_, err := from.copyTo(to)
		refused(err, "holds nothing to copy")
		all := from.fill(t, 20)
		third.serve(t, "x", func(s storetest.Store) { commit(t, s, "k", []byte("theirs")) })
		_, err = from.copyTo(third)
		refused(err, "holds a database already: name an empty one")
		refused(from.abandon(to), "no copy from")
		refused(from.abandon(third), "no copy from")
		from.serve(t, "a", func(s storetest.Store) { require.Equal(t, all, content(t, s)) })
		third.serve(t, "x", func(s storetest.Store) { require.EqualValues(t, 1, commit(t, s, "k", nil)) })

		_, err = from.copyTo(to)
		require.NoError(t, err)
		refused(from.abandon(to), "has all of it, and a node may have served from it")
		_, err = from.copyTo(p.to(t))
		refused(err, "copy from the database that nodes serve from now")
		_, err = third.copyTo(from)
		refused(err, "was moved to")
		_, err = third.copyTo(to)
		refused(err, "holds a database already")
		fourth := p.from(t)
		_, err = to.copyTo(fourth)
		require.NoError(t, err)
		_, err = to.copyTo(from)
		refused(err, "was moved to")
		_, err = fourth.copyTo(from)
		refused(err, "name an empty destination, or copy to the one that it was moved to first")
		_, err = fourth.copyTo(to)
		require.NoError(t, err)
		_, err = to.copyTo(from)
		require.NoError(t, err, "that is the way")
	})
}

// TestNotToItself: PostgreSQL lets a database be opened twice, Badger does not.
func TestNotToItself(t *testing.T) {
	eachEngine(t, func(t *testing.T, p place) {
		p.fill(t, 5)
		_, err := p.copyTo(p)
		require.Error(t, err)
		p.serve(t, "a", func(s storetest.Store) { commit(t, s, "k", nil) })
	})
}

// faulty is a database of which the copy cannot write any more from a call on.
type faulty struct {
	transfer.Database
	left *int // calls that still succeed, of both databases
	did  bool // the call that fails writes all the same
}

var errCut = errors.New("cut off")

func (f faulty) call(name string, do func() error) error {
	*f.left--
	switch {
	case *f.left > 0:
		return do()
	case *f.left == 0 && f.did:
		if err := do(); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: %w", name, errCut)
}

func (f faulty) SetFence(ctx context.Context, was, now store.Fence) error {
	return f.call("fence", func() error { return f.Database.SetFence(ctx, was, now) })
}
func (f faulty) Clear(ctx context.Context, under store.Fence) error {
	return f.call("clear", func() error { return f.Database.Clear(ctx, under) })
}
func (f faulty) Load(ctx context.Context, under store.Fence, rows []store.Put) error {
	return f.call("load", func() error { return f.Database.Load(ctx, under, rows) })
}
func (f faulty) SetLogs(ctx context.Context, under store.Fence, next map[string]uint64) error {
	return f.call("logs", func() error { return f.Database.SetLogs(ctx, under, next) })
}

// cutShort runs a copy, or its abandonment, that is cut off at its n-th write. It tells whether it got to its end.
func cutShort(t *testing.T, from, to place, abandon bool, n int, did bool) (finished bool) {
	t.Helper()
	_, err := both(from, to, func(from, to transfer.Database) (transfer.Result, error) {
		from, to = faulty{Database: from, left: &n, did: did}, faulty{Database: to, left: &n, did: did}
		if abandon {
			return transfer.Result{}, transfer.Abandon(context.Background(), from, to)
		}
		return transfer.Copy(context.Background(), from, to, nil)
	})
	if err != nil {
		require.ErrorIs(t, err, errCut)
	}
	return err == nil
}

// TestCutOffAnywhere, before or after each write: at no time can both be served from, the same copy finishes, and until
// the destination is released it can be abandoned, which can be cut off anywhere as well.
func TestCutOffAnywhere(t *testing.T) {
	eachCrossing(t, func(t *testing.T, p pair) {
		for _, did := range []bool{false, true} {
			from, to := p.from(t), p.to(t)
			all := from.fill(t, 700)
			finished := false
			for n := 1; !finished; n++ {
				finished = cutShort(t, from, to, false, n, did)
				requireOneServes(t, from, to, finished)
				if finished {
					break
				}
				released := false
				to.with(t, func(d database) {
					fence, err := d.Fence(context.Background())
					require.NoError(t, err)
					released = fence.State == store.Serving && fence.Own != store.ID{}
				})
				if released {
					err := from.abandon(to)
					require.ErrorIs(t, err, transfer.ErrRefused)
					finishing := strings.Contains(err.Error(), "run the copy without --abandon, which finishes it, and to come back")
					require.Equal(t, from.state(t) == store.Copying, finishing, "%v", err)
					continue
				}
				for m := 1; from.abandonable(t, to) && !cutShort(t, from, to, true, m, did); m++ {
					requireOneServes(t, from, to, false)
				}
				requireOneServes(t, from, to, true)
				from.serve(t, "a", func(s storetest.Store) { require.Equal(t, all, content(t, s)) })
			}
			from.requireMoved(t)
			to.serve(t, "a", func(s storetest.Store) { require.Equal(t, all, content(t, s)) })
		}
	})
}

func (p place) state(t *testing.T) (state store.FenceState) {
	p.with(t, func(d database) {
		fence, err := d.Fence(context.Background())
		require.NoError(t, err)
		state = fence.State
	})
	return state
}

// abandonable tells whether a copy has left anything to give up.
func (p place) abandonable(t *testing.T, to place) (yes bool) {
	to.with(t, func(d database) {
		fence, err := d.Fence(context.Background())
		require.NoError(t, err)
		yes = fence.State == store.Filling || fence.State == store.Abandoned
	})
	return yes
}

// TestAbandonedDestination stays fenced, and can be filled again, from wherever.
func TestAbandonedDestination(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		from, to, other := p.from(t), p.to(t), p.from(t)
		from.fill(t, 700)
		all := other.fill(t, 20)
		require.False(t, cutShort(t, from, to, false, 5, true))
		from.requireMoved(t, "it is being copied to", "--abandon")
		to.requireMoved(t, "it is being filled from")
		_, err := other.copyTo(to)
		require.ErrorIs(t, err, transfer.ErrRefused)
		_, err = from.copyTo(p.to(t))
		require.ErrorIs(t, err, transfer.ErrRefused, "another destination than the one begun")
		_, err = to.copyTo(p.to(t))
		require.ErrorIs(t, err, transfer.ErrRefused, "it is not whole")
		require.NoError(t, from.abandon(to))
		require.NoError(t, from.abandon(to), "twice")
		to.requireMoved(t, "a copy into it was abandoned, and it is empty")
		to.with(t, func(d database) { require.Empty(t, content(t, d)) })
		from.serve(t, "a", func(s storetest.Store) { commit(t, s, "k", nil) })
		_, err = other.copyTo(to)
		require.NoError(t, err)
		to.serve(t, "a", func(s storetest.Store) { require.Equal(t, all, content(t, s)) })
		require.ErrorIs(t, from.abandon(to), transfer.ErrRefused)
	})
}

// tampering changes what was written before it is looked at again.
type tampering struct {
	transfer.Database
	with func(context.Context, transfer.Database, store.Fence) error
}

func (d tampering) SetLogs(ctx context.Context, under store.Fence, next map[string]uint64) error {
	if err := d.Database.SetLogs(ctx, under, next); err != nil {
		return err
	}
	return d.with(ctx, d.Database, under)
}

// altering writes something else.
type altering struct {
	transfer.Database
	put func([]store.Put) []store.Put
}

func (d altering) Load(ctx context.Context, under store.Fence, rows []store.Put) error {
	return d.Database.Load(ctx, under, d.put(rows))
}

// TestTamperedDestination is not released, whatever was done to it, and the next copy makes it good.
func TestTamperedDestination(t *testing.T) {
	edit := func(change func(*store.Put)) func(transfer.Database) transfer.Database {
		return func(d transfer.Database) transfer.Database {
			return altering{Database: d, put: func(rows []store.Put) []store.Put {
				for i := range rows {
					if rows[i].Key == "s/000000003" {
						rows = append([]store.Put{}, rows...)
						rows[i].Value = append([]byte{}, rows[i].Value...)
						change(&rows[i])
					}
				}
				return rows
			}}
		}
	}
	ways := map[string]func(transfer.Database) transfer.Database{
		"a bit":            edit(func(p *store.Put) { p.Value[2] ^= 1 }),
		"a byte at an end": edit(func(p *store.Put) { p.Key, p.Value = p.Key+store.Key(p.Value[:1]), p.Value[1:] }),
		"another kind":     edit(func(p *store.Put) { p.Key = "x" + p.Key }),
		"a row more": func(d transfer.Database) transfer.Database {
			return tampering{d, func(ctx context.Context, d transfer.Database, under store.Fence) error {
				return d.Load(ctx, under, []store.Put{{Key: "s/more", Value: []byte("v")}})
			}}
		},
		"a row less": func(d transfer.Database) transfer.Database {
			return altering{Database: d, put: func(rows []store.Put) []store.Put { return rows[1:] }}
		},
		"a log": func(d transfer.Database) transfer.Database {
			return tampering{d, func(ctx context.Context, d transfer.Database, under store.Fence) error {
				return d.SetLogs(ctx, under, map[string]uint64{"c": 0})
			}}
		},
	}
	eachPair(t, func(t *testing.T, p pair) {
		from, to := p.from(t), p.to(t)
		all := from.fill(t, 30)
		for name, spoil := range ways {
			_, err := both(from, to, func(from, to transfer.Database) (transfer.Result, error) {
				return transfer.Copy(context.Background(), from, spoil(to), nil)
			})
			require.ErrorIs(t, err, transfer.ErrDiffers, name)
			to.requireMoved(t, "it is being filled from")
			from.requireMoved(t, "it is being copied to")
		}
		_, err := from.copyTo(to)
		require.NoError(t, err)
		to.serve(t, "a", func(s storetest.Store) { require.Equal(t, all, content(t, s)) })
	})
}

// TestReleaseTakenBack by a failover: the destination is unfinished again, and nobody can have served from it. The copy can
// be finished, or abandoned.
func TestReleaseTakenBack(t *testing.T) {
	eachCrossing(t, func(t *testing.T, p pair) {
		from, to := p.from(t), p.to(t)
		all := from.fill(t, 20)
		takeBack := func() {
			t.Helper()
			_, err := both(from, to, func(from, to transfer.Database) (transfer.Result, error) {
				return transfer.Copy(context.Background(), from, unreleased{to}, nil)
			})
			require.NoError(t, err)
			from.requireMoved(t, "it was moved to")
			to.requireMoved(t, "it is being filled from")
		}
		takeBack()
		require.NoError(t, from.abandon(to))
		from.serve(t, "a", func(s storetest.Store) { require.Equal(t, all, content(t, s)) })
		takeBack()
		_, err := from.copyTo(to)
		require.NoError(t, err)
		from.requireMoved(t, "it was moved to")
		to.serve(t, "a", func(s storetest.Store) { require.Equal(t, all, content(t, s)) })
	})
}

// unreleased loses the write that lets nodes in.
type unreleased struct{ transfer.Database }

func (d unreleased) SetFence(ctx context.Context, was, now store.Fence) error {
	if now.State == store.Serving {
		return nil
	}
	return d.Database.SetFence(ctx, was, now)
}

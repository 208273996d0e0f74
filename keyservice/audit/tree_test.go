package audit_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/store"
)

// rows is a store of tiles.
type rows map[store.Key][]byte

func (r rows) put(puts []store.Put) {
	for _, p := range puts {
		r[p.Key] = p.Value
	}
}

func (r rows) read(keys []store.Key) ([]store.Item, error) {
	items := make([]store.Item, len(keys))
	for i, k := range keys {
		items[i] = store.Item{Key: k, Value: r[k]}
	}
	return items, nil
}

// record is the entry of an index.
func record(index int64) []byte { return binary.BigEndian.AppendUint64([]byte("entry"), uint64(index)) }

// grow makes the tree of rows grow from what it is, in one step.
func grow(t require.TestingT, r rows, from tlog.Tree, to int64) tlog.Tree {
	b, err := audit.NewBuilder("node-1", from, r.read)
	require.NoError(t, err)
	for i := from.N; i < to; i++ {
		b.Add(tlog.RecordHash(record(i)))
	}
	tree, err := b.Tree()
	require.NoError(t, err)
	r.put(b.Rows())
	return tree
}

// naiveRoot is the root as RFC 6962 section 2.1 defines it.
func naiveRoot(first, end int64) tlog.Hash {
	if end-first == 1 {
		return tlog.RecordHash(record(first))
	}
	half := int64(1)
	for 2*half < end-first {
		half *= 2
	}
	return tlog.NodeHash(naiveRoot(first, first+half), naiveRoot(first+half, end))
}

// However a tree grows, it has the root that the RFC defines, and every proof out of its tiles holds.
func TestATreeGrowsInAnySteps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, tree := rows{}, tlog.Tree{}
		roots := map[int64]tlog.Hash{}
		for _, step := range rapid.SliceOfN(rapid.Int64Range(1, 700), 1, 6).Draw(t, "steps") {
			tree = grow(t, r, tree, tree.N+step)
			require.Equal(t, naiveRoot(0, tree.N), tree.Hash)
			roots[tree.N] = tree.Hash
		}
		hashes := audit.Hashes("node-1", tree, r.read)
		for size, root := range roots {
			got, err := audit.RootAt(tree, size, hashes)
			require.NoError(t, err)
			require.Equal(t, root, got)
			consistent, err := audit.ProveConsistency(tree, size, tree.N, hashes)
			require.NoError(t, err)
			require.NoError(t, tlog.CheckTree(consistent, tree.N, tree.Hash, size, root))
			index := rapid.Int64Range(0, size-1).Draw(t, "index")
			included, err := audit.ProveInclusion(tree, size, index, hashes)
			require.NoError(t, err)
			require.NoError(t, tlog.CheckRecord(included, size, root, index, tlog.RecordHash(record(index))))
			require.Error(t, tlog.CheckRecord(included, size, root, index, tlog.RecordHash(record(index+1))))
		}
	})
}

// Sizes at which tiles of several levels begin and end.
func TestATreeGrowsOverTheEdgesOfItsTiles(t *testing.T) {
	r, tree := rows{}, tlog.Tree{}
	for _, size := range []int64{1, 255, 256, 257, 511, 512, 513, 65535, 65536, 65537, 65792, 66000} {
		tree = grow(t, r, tree, size)
		require.Equal(t, naiveRoot(0, size), tree.Hash, "size %d", size)
	}
	require.Len(t, r[audit.TileKey("node-1", 0, 255)], 256*tlog.HashSize)
	require.Len(t, r[audit.TileKey("node-1", 0, 257)], (66000-257*256)*tlog.HashSize, "a partial tile is written over")
	require.Len(t, r[audit.TileKey("node-1", 2, 0)], tlog.HashSize)
	again := rows{}
	require.Equal(t, tree, grow(t, again, tlog.Tree{}, 66000))
	require.Equal(t, r, again, "the rows do not tell in which steps the tree grew")
}

// Whatever byte of the tiles is changed, whatever tile is missing or cut: nothing is proven or built with it.
func TestChangedTilesAreFound(t *testing.T) {
	r := rows{}
	tree := grow(t, r, tlog.Tree{}, 600)
	for key, value := range r {
		for name, bad := range map[string][]byte{
			"changed": append([]byte{value[0] ^ 1}, value[1:]...), "changed at its end": append(value[:len(value)-1:len(value)-1], value[len(value)-1]^1),
			"cut": value[:len(value)-tlog.HashSize], "missing": nil,
		} {
			changed := rows{}
			for k, v := range r {
				changed[k] = v
			}
			changed[key] = bad
			failed := 0
			hashes := audit.Hashes("node-1", tree, changed.read)
			for index := range tree.N {
				if _, err := audit.ProveInclusion(tree, tree.N, index, hashes); err != nil {
					require.ErrorIs(t, err, audit.ErrTampered)
					failed++
				}
			}
			require.Positive(t, failed, "%s: %q", name, key)
		}
	}
	edge := rows{}
	for k, v := range r {
		edge[k] = v
	}
	key := audit.TileKey("node-1", 0, 2)
	edge[key] = append([]byte{edge[key][0] ^ 1}, edge[key][1:]...)
	_, err := audit.NewBuilder("node-1", tree, edge.read)
	require.ErrorIs(t, err, audit.ErrTampered)
	_, err = audit.NewBuilder("node-1", tlog.Tree{N: 600, Hash: tlog.Hash{1}}, r.read)
	require.ErrorIs(t, err, audit.ErrTampered)
}

// An outage is no tampering.
func TestTilesThatCannotBeRead(t *testing.T) {
	outage := errors.New("no answer")
	unread := func([]store.Key) ([]store.Item, error) { return nil, outage }
	tree := tlog.Tree{N: 10, Hash: tlog.Hash{1}}
	_, err := audit.NewBuilder("node-1", tree, unread)
	require.ErrorIs(t, err, outage)
	_, err = audit.ProveInclusion(tree, 10, 0, audit.Hashes("node-1", tree, unread))
	require.ErrorIs(t, err, outage)
	require.NotErrorIs(t, err, audit.ErrTampered)
}

func TestProofsOfWhatIsNotThere(t *testing.T) {
	r := rows{}
	tree := grow(t, r, tlog.Tree{}, 10)
	hashes := audit.Hashes("node-1", tree, r.read)
	for _, at := range [][2]int64{{10, 10}, {11, 5}, {10, -1}, {0, 0}, {-1, -2}} {
		_, err := audit.ProveInclusion(tree, at[0], at[1], hashes)
		require.ErrorIs(t, err, audit.ErrRange, "%v", at)
	}
	for _, at := range [][2]int64{{0, 10}, {-1, 5}, {6, 5}, {5, 11}} {
		_, err := audit.ProveConsistency(tree, at[0], at[1], hashes)
		require.ErrorIs(t, err, audit.ErrRange, "%v", at)
	}
	_, err := audit.RootAt(tree, 11, hashes)
	require.ErrorIs(t, err, audit.ErrRange)
	empty, err := audit.RootAt(tlog.Tree{}, 0, audit.Hashes("node-1", tlog.Tree{}, r.read))
	require.NoError(t, err)
	require.Equal(t, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", empty.String(), "RFC 6962: the hash of nothing")
}

package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/store"
)

// Each node's log has a Merkle tree (RFC 6962) over the bytes of its entries: tlog.RecordHash(entry) is the leaf of the
// entry's index. It is stored in tiles of height 8, 256 hashes each: the row of tile N of level L holds the hashes number
// 256·N and on of the tree's level 8·L, 32 bytes each, as many as there are yet. Nothing seals the rows: what is read from
// them is held against the root of a signed checkpoint.

// TileHeight is the height of tiles, in levels of the tree.
const TileHeight = 8

const tileWidth = 1 << TileHeight

// TreePrefix begins the keys of all tile rows; the node follows, a slash, the tile's level (1 byte) and its number (8
// bytes, big endian).
const TreePrefix store.Key = "m/"

// TileKey is the row of a tile of a node's tree.
func TileKey(node string, level int, number int64) store.Key {
	at := binary.BigEndian.AppendUint64([]byte{byte(level)}, uint64(number))
	return TreePrefix + store.Key(node) + "/" + store.Key(at)
}

// ReadRows reads rows of tiles; an absent row has no value. They need not come from one moment: tiles only grow.
type ReadRows func(keys []store.Key) ([]store.Item, error)

// Hashes reads the hashes of a node's tree out of its tiles; ErrTampered if those do not lead to the tree's root. It serves
// trees of every size up to that one.
func Hashes(node string, tree tlog.Tree, read ReadRows) tlog.HashReader {
	if tree.N == 0 {
		return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
			if len(indexes) > 0 {
				return nil, fmt.Errorf("%w: an empty tree has no hashes", ErrTampered)
			}
			return nil, nil
		})
	}
	return checkedHashes{node, tree, read}
}

// checkedHashes tells tiles that do not fit the root from those that could not be read.
type checkedHashes struct {
	node string
	tree tlog.Tree
	read ReadRows
}

// ReadHashes implements tlog.HashReader.
func (c checkedHashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	t := &tiles{node: c.node, read: c.read}
	hashes, err := tlog.TileHashReader(c.tree, t).ReadHashes(indexes)
	if err != nil && t.failed == nil {
		err = fmt.Errorf("%w: the tiles of %s do not lead to the root of its checkpoint of size %d: %w", ErrTampered, c.node, c.tree.N, err)
	}
	return hashes, err
}

// tiles reads a node's tiles for tlog.
type tiles struct {
	node   string
	read   ReadRows
	failed error // of read
}

// Height implements tlog.TileReader.
func (t *tiles) Height() int { return TileHeight }

// SaveTiles implements tlog.TileReader: they are in the store already.
func (t *tiles) SaveTiles([]tlog.Tile, [][]byte) {}

// ReadTiles implements tlog.TileReader. A tile that has grown since still begins with the hashes it had.
func (t *tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	keys := make([]store.Key, len(wanted))
	for i, w := range wanted {
		keys[i] = TileKey(t.node, w.L, w.N)
	}
	var rows []store.Item
	if rows, t.failed = t.read(keys); t.failed != nil {
		return nil, t.failed
	}
	data := make([][]byte, len(wanted))
	for i, w := range wanted {
		if len(rows[i].Value) < w.W*tlog.HashSize {
			return nil, fmt.Errorf("%w: tile %d of level %d of %s is missing or cut", ErrTampered, w.N, w.L, t.node)
		}
		data[i] = rows[i].Value[:w.W*tlog.HashSize]
	}
	return data, nil
}

// Builder makes a tree grow. It holds the right edge alone: of each level the tile that is being filled.
type Builder struct {
	node   string
	size   int64
	edge   [][]tlog.Hash // by level; each is shorter than a full tile
	filled []store.Put   // tiles that became full
}

// NewBuilder begins where a tree ends: it reads the tree's right edge. ErrTampered if that does not lead to its root.
func NewBuilder(node string, tree tlog.Tree, read ReadRows) (*Builder, error) {
	b := &Builder{node: node, size: tree.N}
	for hashes := tree.N; hashes > 0; hashes >>= TileHeight { // of this level
		b.edge = append(b.edge, make([]tlog.Hash, hashes%tileWidth))
	}
	var wanted []tlog.Tile
	for level, hashes := range b.edge {
		if len(hashes) > 0 {
			wanted = append(wanted, tlog.Tile{H: TileHeight, L: level, N: tree.N >> (TileHeight * (level + 1)), W: len(hashes)})
		}
	}
	data, err := (&tiles{node: node, read: read}).ReadTiles(wanted)
	if err != nil {
		return nil, err
	}
	for i, w := range wanted {
		for h := range b.edge[w.L] {
			b.edge[w.L][h] = tlog.Hash(data[i][h*tlog.HashSize:])
		}
	}
	now, err := b.Tree()
	if err != nil {
		return nil, err
	}
	if now.Hash != tree.Hash && tree.N > 0 {
		return nil, fmt.Errorf("%w: the tiles of %s do not lead to the root of its checkpoint of size %d", ErrTampered, node, tree.N)
	}
	return b, nil
}

// Size is how many entries are in the tree.
func (b *Builder) Size() int64 { return b.size }

// Add puts the next entry into the tree.
func (b *Builder) Add(leaf tlog.Hash) {
	for level, hash := 0, leaf; ; level++ {
		if level == len(b.edge) {
			b.edge = append(b.edge, nil)
		}
		b.edge[level] = append(b.edge[level], hash)
		if len(b.edge[level]) < tileWidth {
			break
		}
		b.filled = append(b.filled, b.row(level, b.size>>(TileHeight*(level+1))))
		hash = subtree(b.edge[level])
		b.edge[level] = b.edge[level][:0]
	}
	b.size++
}

// row is the row of the edge's tile of a level.
func (b *Builder) row(level int, number int64) store.Put {
	value := make([]byte, 0, len(b.edge[level])*tlog.HashSize)
	for _, h := range b.edge[level] {
		value = append(value, h[:]...)
	}
	return store.Put{Key: TileKey(b.node, level, number), Value: value}
}

// subtree is the root over a full tile.
func subtree(hashes []tlog.Hash) tlog.Hash {
	hashes = slices.Clone(hashes)
	for len(hashes) > 1 {
		for i := range len(hashes) / 2 {
			hashes[i] = tlog.NodeHash(hashes[2*i], hashes[2*i+1])
		}
		hashes = hashes[:len(hashes)/2]
	}
	return hashes[0]
}

// Tree is what the tree is now.
func (b *Builder) Tree() (tlog.Tree, error) {
	root, err := tlog.TreeHash(b.size, tlog.HashReaderFunc(b.read))
	return tlog.Tree{N: b.size, Hash: root}, err
}

// read finds the hashes that make up a root: all are on the right edge.
func (b *Builder) read(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		level, n := tlog.SplitStoredHashIndex(x)
		tile, within := level/TileHeight, level%TileHeight
		first := n<<within - b.size>>(TileHeight*(tile+1))<<TileHeight // within the edge's tile
		end := first + 1<<within
		if tile >= len(b.edge) || first < 0 || end > int64(len(b.edge[tile])) {
			return nil, fmt.Errorf("hash %d of level %d is not on the right edge of a tree of size %d", n, level, b.size)
		}
		hashes[i] = subtree(b.edge[tile][first:end])
	}
	return hashes, nil
}

// Rows returns the tiles that changed since the builder was made or Rows was called last.
func (b *Builder) Rows() []store.Put {
	rows := b.filled
	b.filled = nil
	for level, hashes := range b.edge {
		if len(hashes) > 0 {
			rows = append(rows, b.row(level, b.size>>(TileHeight*(level+1))))
		}
	}
	return rows
}

// ErrRange: a proof was asked for of what is not in the tree.
var ErrRange = errors.New("there is no such entry or size in the tree")

// ProveInclusion proves that the entry of an index is in the tree of a size (RFC 6962 section 2.1.1); tlog.CheckRecord
// checks it. ErrRange unless index < size, and size at most that of the tree that r reads.
func ProveInclusion(tree tlog.Tree, size, index int64, r tlog.HashReader) (tlog.RecordProof, error) {
	if index < 0 || index >= size || size > tree.N {
		return nil, fmt.Errorf("%w: entry %d, size %d of %d", ErrRange, index, size, tree.N)
	}
	return tlog.ProveRecord(size, index, r)
}

// ProveConsistency proves that the tree of size to begins with that of size from (RFC 6962 section 2.1.2);
// tlog.CheckTree checks it. ErrRange unless 0 < from <= to, and to at most the size of the tree that r reads.
func ProveConsistency(tree tlog.Tree, from, to int64, r tlog.HashReader) (tlog.TreeProof, error) {
	if from < 1 || from > to || to > tree.N {
		return nil, fmt.Errorf("%w: from size %d to %d of %d", ErrRange, from, to, tree.N)
	}
	return tlog.ProveTree(to, from, r)
}

// RootAt is the root that the tree had at a size; ErrRange if it never had that size.
func RootAt(tree tlog.Tree, size int64, r tlog.HashReader) (tlog.Hash, error) {
	if size < 0 || size > tree.N {
		return tlog.Hash{}, fmt.Errorf("%w: size %d of %d", ErrRange, size, tree.N)
	}
	return tlog.TreeHash(size, r)
}

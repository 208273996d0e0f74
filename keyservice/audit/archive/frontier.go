package archive

import (
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// frontier is a Merkle tree (RFC 6962) that grows to the right: the roots of its complete subtrees, the largest first. They
// are all that its root and its growth depend on.
type frontier struct {
	size  uint64
	roots []tlog.Hash
}

func (f *frontier) add(leaf tlog.Hash) {
	f.roots = append(f.roots, leaf)
	for n := f.size; n&1 == 1; n >>= 1 { // two of one size are one of the next
		last := len(f.roots) - 2
		f.roots = append(f.roots[:last], tlog.NodeHash(f.roots[last], f.roots[last+1]))
	}
	f.size++
}

// root is that of the whole tree, which is not empty.
func (f *frontier) root() tlog.Hash {
	last := len(f.roots) - 1
	root := f.roots[last]
	for i := last - 1; i >= 0; i-- {
		root = tlog.NodeHash(f.roots[i], root)
	}
	return root
}

func (f *frontier) clone() frontier { return frontier{f.size, slices.Clone(f.roots)} }

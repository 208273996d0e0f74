package badgerstore

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"ramzban/keyservice/store"
)

// Bounds of the row cache in bytes of live heap; the garbage collector lets twice as much accumulate.
const (
	cacheSize    = 64 << 20 // about 100,000 rows of 300 bytes
	cacheableRow = 4 << 10  // larger values are not kept
	cacheEntry   = 256      // for a row besides its key and value: list element, map slot, allocation slack
)

// held is what a row holds. An absent row has version 0. The value is shared and never changed.
type held struct {
	value   []byte
	version store.Version
}

// rowCache keeps the rows used last, absent ones too, as of the last durable batch. It can speak for the database
// because there is only one writer, which puts a batch's rows here in the moment in which the batch becomes visible.
//
// A reader who fetches a missing row from Badger may be overtaken by a batch that writes it. So it takes a lease of the
// row before it reads; a write ends the lease, and what is read without one is not kept.
//
// It is not safe for concurrent use.
type rowCache struct {
	rows   *simplelru.LRU[store.Key, held]
	size   int                  // bytes
	limit  int                  // bytes
	leases map[store.Key]uint64 // the batch as of which the row is being read
}

func newRowCache(limit int) (*rowCache, error) {
	c := &rowCache{limit: limit, leases: make(map[store.Key]uint64)}
	rows, err := simplelru.NewLRU(limit/cacheEntry+1, func(k store.Key, h held) { c.size -= cost(k, h) })
	if err != nil {
		return nil, fmt.Errorf("badgerstore: making the row cache: %w", err)
	}
	c.rows = rows
	return c, nil
}

func cost(k store.Key, h held) int { return len(k) + len(h.value) + cacheEntry }

func (c *rowCache) get(k store.Key) (held, bool) { return c.rows.Get(k) }

// put keeps what a row holds from now on.
func (c *rowCache) put(k store.Key, h held) {
	if len(h.value) > cacheableRow {
		c.forget(k)
		return
	}
	delete(c.leases, k)
	if old, ok := c.rows.Peek(k); ok {
		c.size -= cost(k, old)
	} else {
		k = store.Key(strings.Clone(string(k))) // it may be part of something large
	}
	c.rows.Add(k, h)
	c.size += cost(k, h)
	for c.size > c.limit {
		c.rows.RemoveOldest()
	}
}

// forget is put for a row that is not worth keeping.
func (c *rowCache) forget(k store.Key) {
	delete(c.leases, k)
	c.rows.Remove(k)
}

// lease precedes fill or release.
func (c *rowCache) lease(k store.Key, batch uint64) { c.leases[k] = batch }

// fill keeps a row as of the batch, if it was not written since.
func (c *rowCache) fill(i store.Item, batch uint64) {
	if leased, ok := c.leases[i.Key]; ok && leased == batch {
		c.put(i.Key, held{bytes.Clone(i.Value), i.Version})
	}
}

// release gives up what could not be read.
func (c *rowCache) release(k store.Key, batch uint64) {
	if c.leases[k] == batch {
		delete(c.leases, k)
	}
}

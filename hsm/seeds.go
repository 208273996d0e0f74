package hsm

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/miekg/pkcs11"

	"ramzban/keyservice/seed"
)

// seedID is SHA-256 over mechanism, key, hash and blob: any change of a blob is another seed.
type seedID [sha256.Size]byte

func idOf(w seed.Wrapped, hash seed.Hash) seedID {
	var head []byte
	head = binary.BigEndian.AppendUint32(head, w.Mech)
	head = binary.BigEndian.AppendUint32(head, w.Key.Version)
	head = append(head, byte(hash), byte(len(w.Key.Label)))
	head = append(head, w.Key.Label...)
	return sha256.Sum256(append(head, w.Blob...))
}

// liveSeed is a seed in the HSM. Its handle is destroyed when the last reference goes; the cache holds one.
type liveSeed struct {
	handle pkcs11.ObjectHandle
	refs   int // guarded by seedCache.mu
}

// load is one unwrap that any number of callers wait for.
type load struct {
	done    chan struct{} // closed, under seedCache.mu, when seed or err is set
	waiters int           // guarded by seedCache.mu
	seed    *liveSeed
	err     error
}

// seedCache keeps the unwrapped seeds of one generation, bounded, least recently used first to go.
type seedCache struct {
	g *generation

	mu      sync.Mutex // never held during a call into the module
	lru     *simplelru.LRU[seedID, *liveSeed]
	loading map[seedID]*load
	live    int         // seeds in the HSM, evicted but pinned ones included
	doomed  []*liveSeed // evicted during the present call of lru.Add
}

func newSeedCache(g *generation, size int) (*seedCache, error) {
	c := &seedCache{g: g, loading: map[seedID]*load{}}
	var err error
	c.lru, err = simplelru.NewLRU(size, func(_ seedID, s *liveSeed) { c.doomed = append(c.doomed, s) })
	return c, err
}

// borrow returns the seed with a reference on it, unwrapping it if it is not there; one unwrap serves all who wait.
func (c *seedCache) borrow(ctx context.Context, w seed.Wrapped, hash seed.Hash) (*liveSeed, error) {
	id := idOf(w, hash)
	c.mu.Lock()
	if s, ok := c.lru.Get(id); ok {
		s.refs++
		c.mu.Unlock()
		c.g.stats.seedHits.Add(1)
		return s, nil
	}
	l, ok := c.loading[id]
	if !ok {
		l = &load{done: make(chan struct{})}
		c.loading[id] = l
		c.g.retain() // the unwrap goes on though its first caller gives up
		go c.load(context.WithoutCancel(ctx), id, l, w, hash)
	}
	l.waiters++
	c.mu.Unlock()
	c.g.stats.seedMisses.Add(1)
	return c.await(ctx, l)
}

func (c *seedCache) await(ctx context.Context, l *load) (*liveSeed, error) {
	select {
	case <-l.done:
		return l.seed, l.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	l.waiters--
	late := l.seed // the load was done just now, and counted us in
	c.mu.Unlock()
	if late != nil {
		c.release(late)
	}
	return nil, waitError(ctx, "a seed to be unwrapped")
}

func (c *seedCache) load(ctx context.Context, id seedID, l *load, w seed.Wrapped, hash seed.Hash) {
	defer c.g.release()
	handle, err := c.g.unwrapSeed(ctx, w, hash)
	c.mu.Lock()
	delete(c.loading, id)
	if err != nil {
		l.err = err
	} else {
		l.seed = c.register(id, handle, l.waiters+1)
	}
	doomed := c.dropDoomed()
	close(l.done)
	c.mu.Unlock()
	c.destroy(doomed)
}

// register takes a new seed into the cache. Called with mu held.
func (c *seedCache) register(id seedID, handle pkcs11.ObjectHandle, refs int) *liveSeed {
	c.live++
	s := &liveSeed{handle: handle, refs: refs}
	c.lru.Add(id, s)
	return s
}

// dropDoomed takes the cache's reference off what was evicted and returns what nobody uses. Called with mu held.
func (c *seedCache) dropDoomed() []*liveSeed {
	var unused []*liveSeed
	for _, s := range c.doomed {
		if c.unref(s) {
			unused = append(unused, s)
		}
	}
	c.doomed = c.doomed[:0]
	return unused
}

// unref takes one reference off; true for the last. Called with mu held.
func (c *seedCache) unref(s *liveSeed) bool {
	if s.refs--; s.refs > 0 {
		return false
	}
	c.live--
	return true
}

// release gives a reference back and destroys the seed with the last one.
func (c *seedCache) release(s *liveSeed) {
	c.mu.Lock()
	last := c.unref(s)
	c.mu.Unlock()
	if last {
		c.destroy([]*liveSeed{s})
	}
}

func (c *seedCache) destroy(seeds []*liveSeed) {
	for _, s := range seeds {
		c.g.destroySeed(s.handle)
	}
}

// len is how many seeds are live in the HSM, evicted but pinned ones included.
func (c *seedCache) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.live
}

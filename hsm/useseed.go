package hsm

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"ramzban/keyservice/seed"
)

// errMACReturned: a MAC was used after the call that lent it.
var errMACReturned = errors.New("this MAC was lent for one call of UseSeed, which has ended")

// UseSeed lends fn an HMAC under the wrapped seed, which stays in the HSM, unwrapped and pinned, while fn runs. fn is
// run again from its start when sessions or handles were lost, so it must have no effect but its result, and it must
// not call other methods of HSM: it would hold up a generation change that the other call waits for. An error of fn is
// returned as it is. seed.ErrBadBlob: the HSM refuses the blob; seed.ErrKeyNotFound: it lacks the key that wrapped it.
func (h *HSM) UseSeed(ctx context.Context, w seed.Wrapped, hash seed.Hash, fn func(seed.MAC) error) error {
	if err := h.checkStored(w, hash); err != nil {
		return fmt.Errorf("use a seed: %w", err)
	}
	var verdict error // of fn: passes by all classification
	err := h.run(ctx, func(g *generation) error {
		verdict = nil
		return g.lend(ctx, w, hash, func(m *lentMAC) error {
			verdict = fn(m.sum)
			return m.end()
		})
	})
	if err != nil {
		return err
	}
	return verdict
}

// checkStored refuses what cannot be a seed as it is kept in the store.
func (h *HSM) checkStored(w seed.Wrapped, hash seed.Hash) error {
	if hash.New() == nil {
		return fmt.Errorf("unknown hash %v", hash)
	}
	return h.checkBlob(w, labelWrap)
}

// checkBlob refuses what was not wrapped by this HSM product under a key of the label.
func (h *HSM) checkBlob(w seed.Wrapped, label string) error {
	if w.Key.Label != label || uint(w.Mech) != h.cfg.Profile.WrapMechanism || len(w.Blob) == 0 {
		return fmt.Errorf("%w: mechanism 0x%X, key %s, %d bytes", seed.ErrBadBlob, w.Mech, w.Key, len(w.Blob))
	}
	return nil
}

// lend unwraps the seed, or finds it unwrapped, and pins it while fn runs.
func (g *generation) lend(ctx context.Context, w seed.Wrapped, hash seed.Hash, fn func(*lentMAC) error) error {
	if _, err := g.ring().get(w.Key); err != nil { // a seed that is still unwrapped does not outlive its key
		return err
	}
	s, err := g.seeds.borrow(ctx, w, hash)
	if err != nil {
		return err
	}
	defer g.seeds.release(s)
	return fn(&lentMAC{ctx: ctx, g: g, seed: s, hash: hash})
}

// lentMAC makes MACs under one pinned seed until it ends.
type lentMAC struct {
	ctx  context.Context // of the UseSeed it belongs to; it does not outlive that call
	g    *generation
	seed *liveSeed
	hash seed.Hash

	mu    sync.Mutex
	ended bool
	err   error // the first failure of the HSM
}

func (m *lentMAC) sum(message []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return nil, errMACReturned
	}
	if m.err != nil {
		return nil, outage(m.err)
	}
	sum, err := m.g.hmac(m.ctx, m.seed.handle, m.hash, message)
	if err != nil {
		m.err = err
		return nil, outage(err)
	}
	return sum, nil
}

// end makes the MAC unusable and returns the failure it met, whatever fn made of it.
func (m *lentMAC) end() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	return m.err
}

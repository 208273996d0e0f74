package hsm

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/miekg/pkcs11"
)

// handles knows every number the module has handed out in one generation and that is still in use. When a number comes
// a second time, the module has dropped what it stood for before (a session closed, a login lost) and given it to
// something else: a MAC under "the seed" may then be one under another customer's, with CKR_OK. No attribute of the
// result shows it, so the generation ends and no result of it counts.
type handles struct {
	destroyed atomic.Uint64 // session objects, for recycling

	mu       sync.Mutex // guards what follows; never held during a call into the module
	sessions map[pkcs11.SessionHandle]struct{}
	objects  map[pkcs11.ObjectHandle]struct{}
	making   map[chan struct{}]struct{} // calls in progress that will hand out a number; closed when it is noted
	twice    bool                       // a number came a second time
}

func newHandles() *handles {
	return &handles{sessions: map[pkcs11.SessionHandle]struct{}{}, objects: map[pkcs11.ObjectHandle]struct{}{},
		making: map[chan struct{}]struct{}{}}
}

// newHandle runs a call that makes the module hand out a number, and notes the number; errIncoherent if it is in use.
func newHandle[N comparable](h *handles, inUse map[N]struct{}, call func() (N, error)) (N, error) {
	noted := make(chan struct{})
	h.mu.Lock()
	h.making[noted] = struct{}{}
	h.mu.Unlock()
	n, err := call()
	h.mu.Lock()
	defer h.mu.Unlock()
	defer close(noted)
	delete(h.making, noted)
	if err != nil {
		return n, err
	}
	if _, twice := inUse[n]; twice {
		h.twice = true
		return n, errIncoherent
	}
	inUse[n] = struct{}{}
	return n, nil
}

func (h *handles) newSession(call func() (pkcs11.SessionHandle, error)) (pkcs11.SessionHandle, error) {
	return newHandle(h, h.sessions, call)
}

func (h *handles) newObject(call func() (pkcs11.ObjectHandle, error)) (pkcs11.ObjectHandle, error) {
	return newHandle(h, h.objects, call)
}

// forgetSession must come before the session is closed: its number may come again at once.
func (h *handles) forgetSession(n pkcs11.SessionHandle) {
	h.mu.Lock()
	delete(h.sessions, n)
	h.mu.Unlock()
}

// forgetObject must come before the object is destroyed.
func (h *handles) forgetObject(n pkcs11.ObjectHandle) {
	h.mu.Lock()
	delete(h.objects, n)
	h.mu.Unlock()
}

// incoherent says that a number came twice.
func (h *handles) incoherent() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.twice
}

// settle must come after an operation and before its result is used: it waits until the numbers handed out so far are
// noted, and fails if any came twice. Without calls in progress that hand out numbers it does not wait; so under
// unwraps and enrolments an operation may take longer by at most one such call.
func (h *handles) settle(ctx context.Context) error {
	h.mu.Lock()
	pending := make([]chan struct{}, 0, len(h.making))
	for noted := range h.making {
		pending = append(pending, noted)
	}
	h.mu.Unlock()
	for _, noted := range pending {
		select {
		case <-noted:
		case <-ctx.Done():
			return waitError(ctx, "calls in progress")
		}
	}
	if h.incoherent() {
		return errIncoherent
	}
	return nil
}

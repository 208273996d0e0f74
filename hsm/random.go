package hsm

import (
	"context"
	"fmt"
)

const maxRandom = 1024 // bytes, and digits, of one call

// Random returns n bytes, 1 to 1024, from the HSM's generator. It goes through our own sessions: crypto11's reader would
// draw from a pool that never drops a dead one.
func (h *HSM) Random(ctx context.Context, n int) ([]byte, error) {
	if n < 1 || n > maxRandom {
		return nil, fmt.Errorf("%d random bytes asked for; 1 to %d can be had", n, maxRandom)
	}
	var b []byte
	err := h.run(ctx, func(g *generation) error {
		return g.workers.withSession(ctx, func(s *session) (err error) {
			b, err = s.random(n)
			return err
		})
	})
	return b, err
}

// RandomDigits returns n decimal digits, 1 to 1024, each uniform: bytes of 250 and above are thrown away.
func (h *HSM) RandomDigits(ctx context.Context, n int) (string, error) {
	if n < 1 || n > maxRandom {
		return "", fmt.Errorf("%d random digits asked for; 1 to %d can be had", n, maxRandom)
	}
	digits := make([]byte, 0, n)
	for len(digits) < n {
		b, err := h.Random(ctx, n-len(digits))
		if err != nil {
			return "", err
		}
		for _, v := range b {
			if v < 250 {
				digits = append(digits, '0'+v%10)
			}
		}
	}
	return string(digits), nil
}

func (s *session) random(n int) ([]byte, error) {
	b, err := s.p.GenerateRandom(s.handle, n)
	if err != nil {
		return nil, fmt.Errorf("draw random bytes: %w", err)
	}
	if len(b) != n {
		return nil, fmt.Errorf("draw random bytes: the module returned %d of %d", len(b), n)
	}
	return b, nil
}

package keyservice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ramzban/keyservice/seed"
)

// A rotation names a version that the HSM of the node that carries it out has. Another node whose HSM lacks it cannot use the
// new key ring, so it decides nothing, says which key it wants, and looks for it again every lookAgain: once the key is there,
// the node goes on by itself.

// lookAgain is how often a node looks in its HSM for a key that it lacks. Requests that come in between are refused without a
// look: else each would have the HSM search, and prove, all its keys.
const lookAgain = 5 * time.Second

// lack is that this node's HSM lacks a key of the ring. The service's lock of reloading guards it.
type lack struct {
	err   error
	until time.Time
}

// now returns what is known to be missing.
func (l *lack) now(now time.Time) error {
	if l.err != nil && now.Before(l.until) {
		return l.err
	}
	return nil
}

func (l *lack) note(err error, now time.Time) {
	*l = lack{}
	if errors.Is(err, seed.ErrKeyNotFound) {
		*l = lack{err: err, until: now.Add(lookAgain)}
	}
}

// lacking says which keys this node's HSM lacks, and what helps.
func lacking(err error, keys ...seed.KeyRef) error {
	var names []string
	for _, key := range keys {
		names = append(names, key.String())
	}
	return &Error{Code: CodeHSMUnavailable, Detail: fmt.Sprintf("this node's HSM lacks %s, in use since a rotation: bring the key into it, and its known answer "+
		"into hsm.known_answer_file; until then this node decides nothing, and then it goes on by itself", strings.Join(names, ", ")), Err: err}
}

// useVersions tells the HSM which versions are active. One that it does not have may have been made since it was opened.
func (s *Service) useVersions(ctx context.Context, refs []seed.KeyRef) error {
	err := s.HSM.Use(refs)
	if !errors.Is(err, seed.ErrKeyNotFound) {
		return err
	}
	if err := s.findKeys(ctx); err != nil {
		return err
	}
	if err = s.HSM.Use(refs); !errors.Is(err, seed.ErrKeyNotFound) {
		return err
	}
	all, kerr := s.HSM.Keys(ctx)
	if kerr != nil {
		return kerr
	}
	return lacking(err, slices.DeleteFunc(slices.Clone(refs), func(ref seed.KeyRef) bool {
		return slices.ContainsFunc(all, func(m seed.MasterKey) bool { return m.Key == ref })
	})...)
}

// findKeys has the HSM look for keys that were made since it was opened. What it left out, and why, matters only if it is
// what was looked for: then that is missing.
func (s *Service) findKeys(ctx context.Context) error {
	err := s.HSM.Refresh(ctx)
	if err == nil || errors.Is(err, seed.ErrUnavailable) {
		return err
	}
	s.Log.WarnContext(ctx, "master keys of the HSM are left out", "error", err)
	return nil
}

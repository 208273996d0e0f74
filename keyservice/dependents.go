package keyservice

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// glanceTime bounds how long a proposal looks for what depends on a key.
const glanceTime = 2 * time.Second

// looks counts how often this node looked for what depends on a key, for the sake of a proposal: as often in a day as one
// officer may propose. It is held in memory.
type looks struct {
	mu    sync.Mutex
	day   int64
	taken int
}

func (l *looks) take(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if today := now.Unix() / (24 * 60 * 60); l.day != today {
		l.day, l.taken = today, 0
	}
	l.taken++
	return l.taken <= maxProposalsADay
}

// lookForDependents refuses what is proposed too early, if that is seen at a glance. Where the count would take longer, where
// another one is under way, or where it was counted too often today, the count that precedes the execution will refuse it.
func (s *Service) lookForDependents(ctx context.Context, p approval.Proposal) (*Error, error) {
	v, refusal := versionIn(p)
	if refusal != nil || !s.looks.take(s.Clock()) || !s.scan.try() {
		return refusal, nil
	}
	defer s.scan.done()
	brief, cancel := context.WithTimeout(ctx, glanceTime)
	defer cancel()
	found, err := s.census(brief, v.counting(nil))
	if err == nil {
		refusal, err = s.needed(brief, v, found)
	}
	if brief.Err() != nil && ctx.Err() == nil {
		return nil, nil //nolint:nilnil // nothing was found out
	}
	return refusal, err
}

// shownRows is how many of the rows that depend on a key a refusal names.
const shownRows = 10

func (v KeyVersion) counting(alive func(context.Context) error) counting {
	return counting{key: v.ref(), limit: max(v.AcceptDamaged, shownRows), alive: alive}
}

// needed says that something depends on a version, beyond the damaged rows that are accepted; nil if nothing does.
func (s *Service) needed(ctx context.Context, v KeyVersion, found census) (*Error, error) {
	of := found.of(v.ref())
	if of.Total() == 0 {
		return nil, nil //nolint:nilnil // nothing does
	}
	detail := fmt.Sprintf("%d rows depend on %s: %s", of.Total(), v.ref(), of)
	if of.Total() <= v.AcceptDamaged {
		whole, err := s.firstWhole(ctx, found.noted)
		if err != nil || whole == "" {
			return nil, err
		}
		return &Error{Code: CodeKeyNeeded, Detail: detail + "; not all are damaged: " + whole}, nil
	}
	if of.Total() <= shownRows {
		detail += " (" + rowNames(found.noted) + ")"
	}
	if v.AcceptDamaged > 0 {
		detail += fmt.Sprintf("; accepted are %d damaged ones", v.AcceptDamaged)
	}
	return &Error{Code: CodeKeyNeeded, Detail: detail + "; `ramzban rotations show` names what cannot be renewed"}, nil
}

// rowNames names rows, without anything of a customer but serials.
func rowNames(keys []store.Key) string {
	var names []string
	for _, key := range keys {
		name := nameOf(key)
		if serial := string(key[min(2, len(key)):]); (name == recordRow || name == stateRowName) && checkSerial(serial) == nil {
			name += " " + serial
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

// firstWhole names one of these rows that is not damaged; "" if all are.
func (s *Service) firstWhole(ctx context.Context, keys []store.Key) (string, error) {
	for _, key := range keys {
		if damaged, err := s.damaged(ctx, key); err != nil || !damaged {
			return rowNames([]store.Key{key}), err
		}
	}
	return "", nil
}

// damaged says that a row is of no use to anybody as it is: it cannot be read, its seal or MAC is wrong, its seed does not
// come out of its wrapping, or it belongs to a token of which that is so.
func (s *Service) damaged(ctx context.Context, key store.Key) (bool, error) {
	items, err := s.Store.Get(ctx, key)
	if err != nil {
		return false, storeError(err)
	}
	if items[0].Version == 0 {
		return false, nil // it has just gone: count again
	}
	if strings.HasPrefix(string(key), string(audit.CheckpointPrefix)) {
		return false, nil // it was counted for its signature, which is right
	}
	if _, _, err := dependsOn(items[0]); err != nil {
		return true, nil
	}
	switch key[:2] {
	case "t/", "s/":
		return s.damagedToken(ctx, string(key[2:]))
	case "k/":
		return false, nil
	}
	if _, err := s.remac(items[0]); err != nil {
		return hopelessly(err)
	}
	switch key[:2] {
	case "l/":
		p, err := unmac[pointer](s, items[0], "live token")
		if err != nil {
			return hopelessly(err)
		}
		return s.damagedToken(ctx, p.Serial)
	case "b/":
		return s.damagedCustomer(ctx, nameIn(key))
	}
	return false, nil
}

// damagedCustomer says that a subject cannot be moved, because a live token of it is damaged.
func (s *Service) damagedCustomer(ctx context.Context, of seed.MACed) (bool, error) {
	for _, class := range []string{ClassCard, ClassAccount} {
		for _, live := range liveKeys(class, of) {
			if damaged, err := s.damaged(ctx, live); err != nil || damaged {
				return damaged, err
			}
		}
	}
	return false, nil
}

// damagedToken looks whether a token could be renewed, twice, since its rows are read one after another.
func (s *Service) damagedToken(ctx context.Context, serial string) (damaged bool, err error) {
	for range 2 {
		if _, err = s.renewed(ctx, serial); err == nil || errors.Is(err, errNothingToRenew) {
			return false, nil
		}
		if damaged, err = hopelessly(err); err != nil || !damaged {
			return false, err
		}
	}
	return true, nil
}

// hopelessly tells what is damaged from what is under a key that must not be written under, and from an outage.
func hopelessly(err error) (bool, error) {
	var u *unknownKey
	switch code := CodeOf(err); {
	case isTampered(err), errors.As(err, &u), errors.Is(err, seed.ErrBadBlob), code == CodeTokenNotFound, code == CodeKeyDestroyed:
		return true, nil
	case code == CodeKeyRetired:
		return false, nil
	}
	return false, err
}

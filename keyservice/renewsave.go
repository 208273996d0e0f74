package keyservice

import (
	"context"
	"errors"
	"time"

	"ramzban/keyservice/audit"
)

// count finds out what still needs the old version.
func (r *renewal) count(ctx context.Context) error {
	v := KeyVersion{Label: r.row.Label, Version: r.row.From, AcceptDamaged: r.row.Accepted}
	found, _, err := r.countedAsOf(ctx, v.counting(r.hold))
	if err != nil {
		return err
	}
	needed, err := r.needed(ctx, v, found)
	if err == nil {
		err = r.hold(ctx)
	}
	if err != nil {
		return err
	}
	r.row.Passes++
	r.row.Left = found.of(r.row.from())
	r.row.State = RotationWaiting
	if needed == nil {
		r.row.State, r.row.EndedAt = RotationDone, r.Clock().UnixMilli()
	}
	return nil
}

// save writes the rotation's row. If an officer paused it meanwhile, that stands.
func (r *renewal) save(ctx context.Context) error {
	e := audit.Entry{Outcome: audit.Done, Proposal: r.row.id, Detail: r.row.progress()}
	err := r.under(ctx, func() (decision, error) {
		now, err := r.loadRotation(ctx, r.row.id)
		if err != nil {
			return decision{}, err
		}
		if r.over(now) {
			return decision{}, errNothingToRenew
		}
		at, err := r.latest(ctx)
		if err != nil {
			return decision{}, err
		}
		if now.rests(at) && r.row.State != RotationDone {
			r.row.State = RotationPaused
		}
		r.row.PausedBy, r.row.PauseEnd = now.PausedBy, now.PauseEnd
		r.row.require = now.require
		d := decision{entry: e}
		return d, r.writeRotation(r.row, &d)
	})
	r.saved = time.Now()
	if errors.Is(err, errNothingToRenew) {
		return nil
	}
	return err
}

// over says that the rotation was ended meanwhile, by officers who accept what is left.
func (r *renewal) over(now storedRotation) bool {
	if now.State != RotationDone {
		return false
	}
	r.row = now
	return true
}

package transfer

import (
	"context"

	"ramzban/keyservice/store"
)

// Abandon gives up a copy whose destination was not released, and clears the destination, which stays fenced until
// something is copied into it. The origin can be served from again. It may be run again, also when it has done all.
func Abandon(ctx context.Context, from, to Database) error {
	c := &copying{from: from, to: to}
	var err error
	if c.origin, err = from.Fence(ctx); err != nil {
		return err
	}
	if c.target, err = to.Fence(ctx); err != nil {
		return err
	}
	if err := c.checkAbandon(); err != nil {
		return err
	}
	return c.abandon(ctx)
}

// checkAbandon refuses unless the destination is what this copy left unfinished.
func (c *copying) checkAbandon() error {
	toThere := (c.origin.State == store.Copying || c.origin.State == store.Moved) && c.origin.Peer == c.target.Own
	if toThere && c.target.State == store.Serving {
		return c.tooLate()
	}
	free := c.origin.State == store.Serving
	done := free && c.target.State == store.Abandoned && c.target.Peer == (store.ID{})
	if done || (toThere || free) && c.origin.Own != (store.ID{}) && c.begunFrom(c.origin.Own) {
		return nil
	}
	return refuse("no copy from %s to %s is unfinished", c.from.Name(), c.to.Name())
}

// tooLate refuses because the destination was released.
func (c *copying) tooLate() error {
	before := "" // what is to be done before that
	if c.origin.State == store.Copying {
		before = "run the copy without --abandon, which finishes it, and "
	}
	return refuse("%s has all of it, and a node may have served from it: %sto come back, copy in the other direction", c.to.Name(), before)
}

// abandon first makes it impossible that the destination is released, and lets nodes into the origin last but one: until
// then the destination's fence says whose it is. The origin's changes in any case, so that a copy that has fenced only the
// destination cannot go on.
func (c *copying) abandon(ctx context.Context) error {
	given := store.Fence{Own: c.target.Own, State: store.Abandoned, Peer: c.target.Peer, Where: c.target.Where, Run: store.NewID()}
	if err := set(ctx, c.to, &c.target, given); err != nil {
		return err
	}
	if err := c.to.Clear(ctx, c.target); err != nil {
		return failed(c.to, err)
	}
	if err := set(ctx, c.from, &c.origin, store.Fence{Own: c.origin.Own, Run: store.NewID()}); err != nil {
		return err
	}
	return set(ctx, c.to, &c.target, store.Fence{Own: c.target.Own, State: store.Abandoned})
}

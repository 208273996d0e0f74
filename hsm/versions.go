package hsm

import (
	"context"
	"fmt"
	"slices"

	"ramzban/keyservice/seed"
)

// Use says which version of each label is active: new things are made under it. Labels that are not named have their
// highest version active, as all have until Use is called. It holds over generation changes: while the HSM lacks one of
// the versions there is an outage. seed.ErrKeyNotFound: the HSM lacks one now, and nothing has changed; a key made since
// the start is found by Refresh. Use never calls the module.
func (h *HSM) Use(versions []seed.KeyRef) error {
	using := map[string]seed.KeyRef{}
	for _, ref := range versions {
		if other, twice := using[ref.Label]; twice {
			return fmt.Errorf("use HSM keys: both %s and %s are to be active", other, ref)
		}
		using[ref.Label] = ref
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	g := h.current
	if g == nil {
		g = h.ended // what it had, the next one must have
	}
	if g == nil {
		return outage(errClosed)
	}
	ring, err := g.ring().activated(using)
	if err != nil {
		return fmt.Errorf("use HSM keys: %w", err)
	}
	h.using = using
	g.keys.Store(&ring)
	return nil
}

// Refresh finds the keys that were made since the start and takes those in that give their known answers, which it reads
// again by Config.Answers. A key without an answer stays left out, and so does one that is not as it must be: the error
// says so, but the others are taken in all the same. Keys that another node has destroyed are forgotten. What is under
// way is not disturbed.
func (h *HSM) Refresh(ctx context.Context) error {
	if err := h.alone(ctx); err != nil {
		return err
	}
	defer func() { <-h.changing }()
	answers, err := h.readAnswers()
	if err != nil {
		return fmt.Errorf("refresh HSM keys: %w", err)
	}
	var refused error
	err = h.run(ctx, func(g *generation) error {
		return g.workers.withSession(ctx, func(s *session) (err error) {
			refused, err = h.refresh(g, s, answers)
			return err
		})
	})
	if err != nil {
		return err
	}
	return refused
}

// alone lets one caller at a time change the keys of a generation; it must receive from h.changing in the end.
func (h *HSM) alone(ctx context.Context) error {
	select {
	case h.changing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return waitError(ctx, "another change of the HSM's keys")
	}
}

// readAnswers reads the known answers as they are now.
func (h *HSM) readAnswers() ([]KnownAnswer, error) {
	if h.cfg.Answers == nil {
		return h.knownAnswers(), nil
	}
	answers, err := h.cfg.Answers()
	if err != nil {
		return nil, err
	}
	if err := validateAnswers(answers); err != nil {
		return nil, fmt.Errorf("%w: correct hsm.known_answer_file", err)
	}
	return answers, nil
}

// knownAnswers are those of the keys in use.
func (h *HSM) knownAnswers() []KnownAnswer {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.answers
}

// refresh brings the keys of a leased generation up to date. refused is what was left out or is missing; err an outage.
func (h *HSM) refresh(g *generation, s *session, answers []KnownAnswer) (refused, err error) {
	found, err := seeKeys(s)
	if err != nil {
		return nil, err
	}
	next, refused := withoutGone(*g.ring(), found, answers)
	held := slices.DeleteFunc(slices.Clone(h.knownAnswers()), func(a KnownAnswer) bool { return !next.has(a.Key) })
	for _, a := range answers {
		if next.has(a.Key) || found.destroyed[a.Key] && !found.has(a.Key) {
			continue
		}
		with, err := g.proven(s, next, found, a)
		if c := classify(err, h.cfg.Profile); c != classOK && !isVerdict(err, c) {
			return nil, err
		}
		if err != nil {
			refused = also(refused, fmt.Errorf("%s is left out: %w", a.Key, err))
			continue
		}
		next, held = with, append(held, a)
	}
	return refused, h.take(g, next, held)
}

// withoutGone is the ring without the keys that were destroyed: by DestroyKey, or otherwise if their known answers are
// taken back as well. Any other key that is gone is missing, and stays in the ring.
func withoutGone(ring, found keyring, answers []KnownAnswer) (next keyring, missing error) {
	for _, ref := range ring.sorted() {
		if found.has(ref) {
			continue
		}
		known := slices.ContainsFunc(answers, func(a KnownAnswer) bool { return a.Key == ref })
		if found.destroyed[ref] || !known {
			ring = ring.without(ref)
		} else {
			missing = also(missing, fmt.Errorf("%w any more: %s: restore the key from the HSM's backup", seed.ErrKeyNotFound, ref))
		}
	}
	return ring, missing
}

// take makes next the keys of g, once nothing can fail any more but the generation itself: a handle is noted only once.
func (h *HSM) take(g *generation, next keyring, answers []KnownAnswer) error {
	before := g.ring()
	for _, ref := range next.sorted() {
		if before.has(ref) {
			continue
		}
		if err := g.noteHandles(next, ref); err != nil {
			return err
		}
		h.cfg.Log.Info("HSM key found", "key", ref.String())
	}
	return h.replaceKeys(g, next, answers)
}

// replaceKeys makes ring that of a leased generation, and answers those that the next ones must give.
func (h *HSM) replaceKeys(g *generation, ring keyring, answers []KnownAnswer) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	ring, err := ring.activated(h.using)
	if err == nil {
		err = ring.complete()
	}
	if err != nil {
		return err
	}
	h.answers = answers
	g.keys.Store(&ring)
	return nil
}

// activate gives a generation, before it serves anything, the versions that are to be active.
func (g *generation) activate(using map[string]seed.KeyRef) error {
	ring, err := g.ring().activated(using)
	if err != nil {
		return fmt.Errorf("%w, but new things are to be made under it: restore the key from the HSM's backup", err)
	}
	g.keys.Store(&ring)
	return nil
}

// isVerdict tells what was found out about a key from a failure to find out.
func isVerdict(err error, c class) bool {
	_, failed := ckr(err)
	return c == classRefusal || c == classOther && !failed
}

// proven returns ring with one key more, if that is as it must be.
func (g *generation) proven(s *session, ring, found keyring, a KnownAnswer) (keyring, error) {
	if _, err := found.get(a.Key); err != nil {
		return keyring{}, err
	}
	if err := found.single(a.Key); err != nil {
		return keyring{}, err
	}
	with := ring.clone()
	with.take(found, a.Key)
	if err := g.checkFound(s, with, a.Key, a.origin()); err != nil {
		return keyring{}, err
	}
	trial := &generation{cfg: g.cfg, stats: g.stats, handles: g.handles}
	trial.keys.Store(&with)
	if err := trial.checkKeyRefusals(s, a.Key); err != nil {
		return keyring{}, err
	}
	return with, trial.checkKnownAnswer(s, a)
}

package hsm

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"ramzban/hsm/profile"
	"ramzban/keyservice/seed"
)

// Config says which HSM to use and how much of it. Zero sizes and times take the defaults given here.
type Config struct {
	// Module is the path of the PKCS#11 module. Any module will do, one that wraps another and injects faults too.
	Module     string
	TokenLabel string          // CKA_LABEL of the PKCS#11 token; slots are never chosen by number
	PIN        seed.PIN        // the user PIN
	Profile    profile.Profile // what is special about this HSM product

	// KnownAnswers were noted at the key ceremony: one for each version of each master key in the HSM. A key that does
	// not give its answer, an answer without a key and, at start, a key without an answer are refused. The answer of a key
	// that DestroyKey destroyed is passed over.
	KnownAnswers []KnownAnswer

	// Answers reads the known answers as they are now, for Refresh. Without it there are only KnownAnswers.
	Answers func() ([]KnownAnswer, error)

	PoolSessions  int // sessions for everything else; 8
	OwnerSessions int // sessions that unwrap seeds and own them; 2
	SignSessions  int // sessions that sign checkpoints of the audit log; 2
	SeedCache     int // unwrapped seeds kept in the HSM; 10,000

	CallTimeout    time.Duration // a call into the module that takes longer has hung: the generation ends; 30 s
	DrainTimeout   time.Duration // how long calls in progress may hold up a generation change before Fatal; 60 s
	ReopenInterval time.Duration // pause between attempts to get a lost HSM back; 1 s

	Log *slog.Logger // discarded if nil; no secret is ever logged

	// Fatal is called, once, when calls into the module have hung so that it can neither be used nor finalised: the
	// process should exit. Nothing works after it. Required.
	Fatal func(error)
}

func (c Config) withDefaults() (Config, error) {
	setDefault(&c.PoolSessions, 8)
	setDefault(&c.OwnerSessions, 2)
	setDefault(&c.SignSessions, 2)
	setDefault(&c.SeedCache, 10_000)
	setDefault(&c.CallTimeout, 30*time.Second)
	setDefault(&c.DrainTimeout, 60*time.Second)
	setDefault(&c.ReopenInterval, time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, c.validate()
}

func setDefault[T int | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

func (c Config) validate() error {
	switch {
	case c.Module == "":
		return errors.New("hsm.module is not set: give the path of the PKCS#11 module")
	case c.TokenLabel == "":
		return errors.New("hsm.token_label is not set: give the label of the PKCS#11 token")
	case c.PIN.Reveal() == "":
		return errors.New("the HSM's PIN is empty")
	case c.Fatal == nil:
		return errors.New("hsm.Config.Fatal is not set")
	case c.PoolSessions < 0 || c.OwnerSessions < 0 || c.SignSessions < 0 || c.SeedCache < 0:
		return errors.New("HSM session and cache sizes must not be negative")
	case c.CallTimeout < 0 || c.DrainTimeout < 0 || c.ReopenInterval < 0:
		return errors.New("HSM timeouts must not be negative")
	}
	const others = 3 // one that writes, and crypto11's two
	if n := c.PoolSessions + c.OwnerSessions + c.SignSessions + others; c.Profile.MaxSessions > 0 && n > c.Profile.MaxSessions {
		return fmt.Errorf("%d HSM sessions are too many for profile %s, which allows %d", n, c.Profile.Name, c.Profile.MaxSessions)
	}
	if err := validateAnswers(c.KnownAnswers); err != nil {
		return fmt.Errorf("%w: correct hsm.known_answer_file", err)
	}
	return c.Profile.Validate()
}

package hsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"ramzban/keyservice/seed"
)

// NewToken says which PKCS#11 token to initialise.
type NewToken struct {
	Module string
	Label  string   // at most 32 bytes
	SOPIN  seed.PIN // of the HSM's security officer
	PIN    seed.PIN // of the user, that is of the key service
}

// InitToken initialises the first slot without a token and sets the user PIN, by PKCS#11 calls, so that no PIN stands
// in a command line. It must not run while the module is open in this process. A label in use is refused.
func InitToken(t NewToken) (err error) {
	m, err := loadModule(&Config{Module: t.Module, TokenLabel: t.Label, PIN: t.PIN})
	if err != nil {
		return err
	}
	defer m.unload()
	if err := m.p.Initialize(); err != nil {
		return fmt.Errorf("initialise the PKCS#11 module: %w", err)
	}
	defer func() { err = errors.Join(err, m.p.Finalize()) }()
	slot, err := m.emptySlot()
	if err != nil {
		return err
	}
	if err := m.p.InitToken(slot, t.SOPIN.Reveal(), t.Label); err != nil {
		return fmt.Errorf("initialise PKCS#11 token %q: %w", t.Label, err)
	}
	if slot, err = m.slotByLabel(); err != nil {
		return err
	}
	return m.setPIN(slot, t)
}

func (m *module) emptySlot() (uint, error) {
	slots, err := m.p.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("list the HSM's slots: %w", err)
	}
	for _, slot := range slots {
		info, err := m.p.GetTokenInfo(slot)
		if err != nil {
			return 0, fmt.Errorf("read slot %d: %w", slot, err)
		}
		if info.Label == m.cfg.TokenLabel {
			return 0, fmt.Errorf("a PKCS#11 token is labelled %q already", m.cfg.TokenLabel)
		}
		if info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			return slot, nil
		}
	}
	return 0, errors.New("the HSM has no slot without a token")
}

func (m *module) setPIN(slot uint, t NewToken) error {
	s, err := m.p.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return fmt.Errorf("open a session: %w", err)
	}
	defer m.p.CloseSession(s) //nolint:errcheck // C_Finalize follows
	if err := m.p.Login(s, pkcs11.CKU_SO, t.SOPIN.Reveal()); err != nil {
		return fmt.Errorf("log in as security officer: %w", err)
	}
	if err := m.p.InitPIN(s, t.PIN.Reveal()); err != nil {
		return fmt.Errorf("set the user PIN: %w", err)
	}
	return nil
}

// CreateKeys makes version 1 of every master key the token does not have, and returns the known answers of all
// keys it has, old versions included. Keys that exist are left alone; their attributes are checked, but not whether they
// are those of an earlier ceremony. It must not run while the module is open in this process. config.KnownAnswers is not
// used.
func CreateKeys(ctx context.Context, config Config) ([]KnownAnswer, error) {
	var answers []KnownAnswer
	err := administer(config, func(g *generation) error {
		return g.workers.withSession(ctx, func(s *session) (err error) {
			if err := g.createMissing(s); err != nil {
				return err
			}
			found, err := listKeys(s)
			if err != nil {
				return err
			}
			if err := g.adopt(s, found); err != nil {
				return err
			}
			answers, err = g.noteAnswers(s)
			return err
		})
	})
	return answers, err
}

// administer opens the module, logs in, lends a generation without keys and finalises the module.
func administer(config Config, fn func(*generation) error) error {
	cfg, err := config.withDefaults()
	if err != nil {
		return err
	}
	m, err := loadModule(&cfg)
	if err != nil {
		return err
	}
	defer m.unload()
	slot, err := m.initialise()
	if err != nil {
		return err
	}
	g, err := newGeneration(0, &cfg, &counters{}, m.p, slot)
	if err == nil {
		err = fn(g)
		g.closeSessions()
	}
	return errors.Join(err, m.finalise())
}

func (g *generation) createMissing(s *session) error {
	present, err := listKeys(s)
	if err != nil {
		return err
	}
	for _, label := range labels {
		if _, ok := present.active[label]; ok {
			continue
		}
		if err := g.createKey(s, seed.KeyRef{Label: label, Version: 1}); err != nil {
			return err
		}
	}
	return nil
}

func (g *generation) createKey(s *session, ref seed.KeyRef) error {
	spec := keySpecs[ref.Label]
	if err := s.generate(spec, masterTemplate(ref, spec, g.cfg.Profile), publicHalfTemplate(ref, spec)); err != nil {
		return fmt.Errorf("create key %s: %w", ref, err)
	}
	return nil
}

// generate makes a key, or a key pair of these templates. Of an RSA key pair it keeps the private half only.
func (s *session) generate(spec keySpec, template, publicHalf []*pkcs11.Attribute) error {
	mech := mechanism(spec.generate, nil)
	if !spec.private() {
		_, err := s.p.GenerateKey(s.handle, mech, template)
		return err
	}
	public, _, err := s.p.GenerateKeyPair(s.handle, mech, publicHalf, template)
	if err != nil || spec.keepsPublic() {
		return err
	}
	return s.destroy(public, "the public half of a key pair")
}

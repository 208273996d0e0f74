package hsm

import (
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

// administer opens the module, logs in, lends a generation without keys and finalises the module.
func administer(config Config, fn func(*generation) error) error {
	return withModule(config, func(m *module) error { return m.administer(fn) })
}

// withModule lends the module to whoever administers it, perhaps several times.
func withModule(config Config, fn func(*module) error) error {
	cfg, err := config.withDefaults()
	if err != nil {
		return err
	}
	m, err := loadModule(&cfg)
	if err != nil {
		return err
	}
	defer m.unload()
	err = fn(m)
	if m.unsure { // it would be in the way of the next to open it
		_ = m.p.Finalize() // the failure before this one is in err
	}
	return err
}

func (m *module) administer(fn func(*generation) error) error {
	slot, err := m.initialise()
	if err != nil {
		return err
	}
	g, err := newGeneration(0, m.cfg, &counters{}, m.p, slot)
	if err == nil {
		err = fn(g)
		g.closeSessions()
	}
	return also(err, m.finalise())
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

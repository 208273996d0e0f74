package hsm

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/ThalesIgnite/crypto11"
	"github.com/miekg/pkcs11"

	"ramzban/keyservice/seed"
)

// module is one loaded PKCS#11 module. crypto11 initialises it, logs in to its slot and finalises it; our own sessions
// speak to the initialised module beside it. It is loaded once and never unloaded: vendors' modules do not survive that.
type module struct {
	cfg     *Config
	p       *pkcs11.Ctx
	context *crypto11.Context // nil while the module is not initialised by us
	unsure  bool              // a failure of ours may have left it initialised
}

// openModules keeps a process from opening a module twice: two initialisers would finalise it under each other.
var openModules = struct {
	sync.Mutex
	paths map[string]bool
}{paths: map[string]bool{}}

func loadModule(cfg *Config) (*module, error) {
	if _, err := os.Stat(cfg.Module); err != nil {
		return nil, misconfigured{fmt.Errorf("PKCS#11 module: %w: install the HSM's client software, or correct hsm.module", err)}
	}
	openModules.Lock()
	defer openModules.Unlock()
	if openModules.paths[cfg.Module] {
		return nil, fmt.Errorf("PKCS#11 module %s is already open in this process", cfg.Module)
	}
	p := pkcs11.New(cfg.Module)
	if p == nil {
		return nil, misconfigured{fmt.Errorf("%s cannot be loaded as a PKCS#11 module: check hsm.module and the libraries it needs (ldd)", cfg.Module)}
	}
	openModules.paths[cfg.Module] = true
	return &module{cfg: cfg, p: p}, nil
}

// unload lets the module be opened again in this process.
func (m *module) unload() {
	openModules.Lock()
	delete(openModules.paths, m.cfg.Module)
	openModules.Unlock()
}

// initialise makes the module ready, logs in and returns the slot of the labelled token.
func (m *module) initialise() (slot uint, err error) {
	if m.unsure { // nobody else in this process uses it
		if err := m.p.Finalize(); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED)) {
			return 0, fmt.Errorf("finalise the PKCS#11 module: %w", err)
		}
	}
	context, err := crypto11.Configure(&crypto11.Config{
		Path: m.cfg.Module, TokenLabel: m.cfg.TokenLabel, Pin: m.cfg.PIN.Reveal(), MaxSessions: 2,
	})
	m.unsure = err != nil // crypto11 ignores whether its C_Finalize worked
	if err != nil {
		return 0, m.explain(err)
	}
	m.context = context
	slot, err = m.slotByLabel()
	if err != nil {
		return 0, errors.Join(err, m.finalise())
	}
	return slot, nil
}

// finalise ends the module's work; every session, object and login is gone after it. Only without leases.
func (m *module) finalise() error {
	if m.context == nil {
		return nil
	}
	context := m.context
	m.context = nil
	if err := context.Close(); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED)) {
		m.unsure = true
		return fmt.Errorf("finalise the PKCS#11 module: %w", err)
	}
	return nil
}

// slotByLabel finds the one slot whose token carries the label; slot numbers change after a failover.
func (m *module) slotByLabel() (uint, error) {
	slots, err := m.p.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("list the HSM's slots: %w", err)
	}
	var found []uint
	for _, slot := range slots {
		if info, err := m.p.GetTokenInfo(slot); err == nil && info.Label == m.cfg.TokenLabel {
			found = append(found, slot)
		}
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("%w: %d PKCS#11 tokens are labelled %q; there must be exactly one: check hsm.token_label",
			seed.ErrUnavailable, len(found), m.cfg.TokenLabel)
	}
	return found[0], nil
}

// login logs in on a session of ours after the login was lost. To be logged in already is success.
func (m *module) login(s *session) error {
	err := m.p.Login(s.handle, pkcs11.CKU_USER, m.cfg.PIN.Reveal())
	if err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)) {
		return m.explain(err)
	}
	return nil
}

// explain puts what to do into the error of a login or of crypto11.Configure. Of the errors of Configure only "no such
// token" carries no CKR: that the module can be loaded is known by now.
func (m *module) explain(err error) error {
	code, ok := ckr(err)
	switch {
	case !ok:
		return misconfigured{fmt.Errorf("no PKCS#11 token is labelled %q: initialise it, or correct hsm.token_label: %w", m.cfg.TokenLabel, err)}
	case code == pkcs11.CKR_PIN_LOCKED:
		return fmt.Errorf("PKCS#11 token %q %w: it is locked: the HSM's security officer must reset it: %w",
			m.cfg.TokenLabel, ErrPIN, code)
	case classes[code] == classPIN:
		return fmt.Errorf("PKCS#11 token %q %w: correct it; it is not tried again, since wrong tries lock it: %w",
			m.cfg.TokenLabel, ErrPIN, code)
	}
	if code == pkcs11.CKR_GENERAL_ERROR {
		return fmt.Errorf("open PKCS#11 token %q: %w: check hsm.environment and the module's own configuration", m.cfg.TokenLabel, code)
	}
	return fmt.Errorf("open PKCS#11 token %q: %w", m.cfg.TokenLabel, code)
}

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"ramzban/hsm"
	"ramzban/hsm/profile"
	"ramzban/keyservice/seed"
)

// Plan is the one input of a key ceremony: a YAML file that the officers have read and agreed to, read strictly.
// `ramzban ceremony example` prints it with a comment for every key.
type Plan struct {
	// HSM says which module and which of its tokens the keys are for.
	HSM PlanHSM `yaml:"hsm"`
	// Keys are the versions of master keys to make or to adopt.
	Keys []PlanKey `yaml:"keys"`
	// Officers are the names of those who hold the ceremony.
	Officers []string `yaml:"officers"`
	// Output says which files the ceremony writes.
	Output PlanOutput `yaml:"output"`

	path   string
	sha256 [sha256.Size]byte // of the file
}

// PlanHSM is one token of one PKCS#11 module, as in the service's configuration.
type PlanHSM struct {
	// Module is the vendor's PKCS#11 library.
	Module string `yaml:"module"`
	// Profile names what is special about this HSM product.
	Profile string `yaml:"profile"`
	// TokenLabel is the label of the PKCS#11 token.
	TokenLabel string `yaml:"token_label"`
	// PINFile holds the user PIN on one line.
	PINFile string `yaml:"pin_file,omitempty"`
	// PINEnv names the environment variable that holds the user PIN, in place of PINFile.
	PINEnv string `yaml:"pin_env,omitempty"`
	// Environment variables that the module wants.
	Environment map[string]string `yaml:"environment,omitempty"`
}

// PlanKey is one version of a master key.
type PlanKey struct {
	// Label is wrap, derive, seal, digest, lookup, data, import, audit or backup.
	Label string `yaml:"label"`
	// Version is a whole number from 1.
	Version uint32 `yaml:"version"`
	// Origin is generate, vendor-clone or components.
	Origin hsm.Origin `yaml:"origin"`
	// KCV is the key check value; not of a key to be generated.
	KCV KeyCheckValue `yaml:"kcv,omitempty"`
	// Components are what the custodians will type; only of a key from components.
	Components []PlanComponent `yaml:"components,omitempty"`
}

// PlanComponent is one custodian's share of a key.
type PlanComponent struct {
	// Custodian is the name of who types it.
	Custodian string `yaml:"custodian"`
	// KCV is the key check value of the share itself.
	KCV KeyCheckValue `yaml:"kcv"`
}

// PlanOutput are the files of a ceremony.
type PlanOutput struct {
	// KnownAnswers is the service's hsm.known_answer_file: a new file, or the one of earlier ceremonies of this HSM.
	KnownAnswers string `yaml:"known_answers"`
	// Transcript is a new file; its signature and the key to check it by are written beside it.
	Transcript string `yaml:"transcript"`
}

// KeyCheckValue is a key check value, written in hex: of 3 bytes, or of 8 for a key pair.
type KeyCheckValue []byte

// UnmarshalYAML reads hex digits, also those that YAML would take for a number.
func (k *KeyCheckValue) UnmarshalYAML(n ast.Node) error {
	var err error
	if *k, err = hex.DecodeString(n.GetToken().Value); err != nil || len(*k) != 3 && len(*k) != 8 {
		return badValue(n, "a key check value of 6 hex digits, such as 1F9C04, or of 16 for a key pair")
	}
	return nil
}

// MarshalYAML writes what UnmarshalYAML reads.
func (k KeyCheckValue) MarshalYAML() ([]byte, error) { return fmt.Appendf(nil, "%q", k.String()), nil }

// String returns the value as upper-case hex digits.
func (k KeyCheckValue) String() string { return fmt.Sprintf("%X", []byte(k)) }

const planHint = "`ramzban ceremony example` shows every key"

// loadPlan reads and checks a plan. Its errors name the file, and the key or line that is wrong.
func loadPlan(path string) (Plan, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Plan{}, fmt.Errorf("%w: %w: name the plan with --plan", errConfiguration, err)
	}
	p, err := parsePlan(b)
	if err == nil {
		p.path, p.sha256 = path, sha256.Sum256(b)
		err = p.check()
	}
	if err != nil {
		return Plan{}, fmt.Errorf("%w: plan %s: %w", errConfiguration, path, err)
	}
	return p, nil
}

// parsePlan reads one YAML document. Unknown and repeated keys are errors.
func parsePlan(b []byte) (Plan, error) {
	var p Plan
	d := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict())
	if err := decodeNext(d, &p); err != nil {
		return Plan{}, decodeError(err, planHint)
	}
	if err := decodeNext(d, &Plan{}); !errors.Is(err, io.EOF) {
		return Plan{}, errors.New("more than one YAML document: leave one")
	}
	return p, nil
}

// check looks at everything but the keys, which package hsm knows, and the files.
func (p Plan) check() error {
	if _, err := profile.ByName(p.HSM.Profile); err != nil {
		return wrong("hsm.profile", "%v", err)
	}
	if (p.HSM.PINFile == "") == (p.HSM.PINEnv == "") {
		return wrong("hsm.pin_file", "give either this or hsm.pin_env: one of them says where the user PIN is")
	}
	if err := checkNames("officers", p.Officers); err != nil {
		return err
	}
	for i, k := range p.Keys {
		if err := k.checkComponents(fmt.Sprintf("keys[%d]", i)); err != nil {
			return err
		}
	}
	if p.Output.KnownAnswers == "" || p.Output.Transcript == "" {
		return wrong("output", "name both files: known_answers and transcript")
	}
	if filepath.Clean(p.Output.KnownAnswers) == filepath.Clean(p.Output.Transcript) {
		return wrong("output", "known_answers and transcript must be two files")
	}
	return nil
}

func (k PlanKey) checkComponents(key string) error {
	switch {
	case k.Origin != hsm.Components && k.Components != nil:
		return wrong(key+".components", "only a key of origin components has them")
	case k.Origin != hsm.Components:
		return nil
	}
	var custodians []string
	for i, c := range k.Components {
		if c.KCV == nil {
			return wrong(fmt.Sprintf("%s.components[%d].kcv", key, i), "each component needs its own key check value")
		}
		custodians = append(custodians, c.Custodian)
	}
	return checkNames(key+".components", custodians)
}

// checkNames wants two different persons or more.
func checkNames(key string, names []string) error {
	sorted := slices.Sorted(slices.Values(names))
	switch {
	case len(names) < 2:
		return wrong(key, "name at least two persons: nobody does this alone")
	case len(slices.Compact(sorted)) != len(names):
		return wrong(key, "the same person is named twice")
	}
	for _, name := range names {
		if strings.TrimSpace(name) == "" || len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return wrong(key, "%q is no name of 1 to 64 letters", name)
		}
	}
	return nil
}

// config is how package hsm opens the token.
func (p Plan) config() (hsm.Config, error) {
	as := HSMConfig{Module: p.HSM.Module, TokenLabel: p.HSM.TokenLabel, PINFile: p.HSM.PINFile, PINEnv: p.HSM.PINEnv,
		Profile: p.HSM.Profile, Environment: p.HSM.Environment}
	config, err := as.config()
	config.Fatal = func(error) {} // nothing watches the calls of a ceremony
	return config, err
}

// keys is what package hsm is to do.
func (p Plan) keys() []hsm.PlannedKey {
	var keys []hsm.PlannedKey
	for _, k := range p.Keys {
		keys = append(keys, hsm.PlannedKey{Key: seed.KeyRef{Label: k.Label, Version: k.Version}, Origin: k.Origin, KCV: k.KCV})
	}
	return keys
}

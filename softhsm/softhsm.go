// Package softhsm makes throw-away SoftHSM tokens with master keys, for tests, the demo and development.
//
// It must not be used for anything that matters: SoftHSM keeps keys in files, and the PIN lies beside them.
package softhsm

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"ramzban/hsm"
	"ramzban/hsm/profile"
	"ramzban/keyservice/seed"
)

// Label is the CKA_LABEL of every token made here.
const Label = "ramzban"

// ModuleVariable names the environment variable that overrides where the module is looked for.
const ModuleVariable = "RAMZBAN_PKCS11_MODULE"

// modulePaths are where distributions install SoftHSM: Debian, Alpine and Arch; Debian multi-arch; Fedora; Homebrew on
// Apple silicon and on Intel.
var modulePaths = []string{
	"/usr/lib/softhsm/libsofthsm2.so",
	"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib64/pkcs11/libsofthsm2.so",
	"/usr/lib64/softhsm/libsofthsm2.so",
	"/opt/homebrew/lib/softhsm/libsofthsm2.so",
	"/usr/local/lib/softhsm/libsofthsm2.so",
}

// Token is a SoftHSM token in a directory of its own.
type Token struct {
	Module string // path of SoftHSM
	Label  string
	PIN    seed.PIN
	Dir    string // holds everything; mode 0700
	Conf   string // path of softhsm2.conf, for SOFTHSM2_CONF

	KnownAnswers []hsm.KnownAnswer // for the self-check
}

// Config returns the configuration that opens the token. Fatal panics: set your own where that will not do.
func (t *Token) Config() hsm.Config {
	return hsm.Config{
		Module: t.Module, TokenLabel: t.Label, PIN: t.PIN, Profile: profile.SoftHSM(), KnownAnswers: t.KnownAnswers,
		Fatal: func(err error) { panic(err) },
	}
}

// FindModule returns the path of SoftHSM: RAMZBAN_PKCS11_MODULE if set, else the first that is installed.
func FindModule() (string, error) {
	if path := os.Getenv(ModuleVariable); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("%s: %w", ModuleVariable, err)
		}
		return path, nil
	}
	for _, path := range modulePaths {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errors.New("SoftHSM is not installed: run \"apt install softhsm2\" (Debian, Ubuntu), " +
		"\"dnf install softhsm\" (Fedora) or \"brew install softhsm\" (macOS), or set " + ModuleVariable + " to libsofthsm2.so")
}

// The files of a token's directory. The known answers are written last: where they are, the token is complete.
const (
	confFile   = "softhsm2.conf"
	tokensDir  = "tokens"
	pinFile    = "pin"
	answerFile = "known-answer.json"
)

// Provision makes a token with master keys in dir, or loads the one that is there, and points SOFTHSM2_CONF of this
// process to it. It must not run while the module is open in this process: PKCS#11 initialises once per process, so
// tests call it, or New, before hsm.Open, and several tests share one token or open theirs one after another.
func Provision(ctx context.Context, dir string) (*Token, error) {
	t, err := prepared(dir)
	if err != nil {
		return nil, err
	}
	if t.KnownAnswers, err = readAnswers(t.path(answerFile)); err == nil {
		return t, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("SoftHSM token: %w", err)
	}
	return t, t.create(ctx)
}

// Bare makes a token without keys in dir, for a key ceremony, and points SOFTHSM2_CONF of this process to it.
func Bare(dir string) (*Token, error) {
	t, err := prepared(dir)
	if err != nil {
		return nil, err
	}
	return t, t.initialise()
}

func prepared(dir string) (*Token, error) {
	module, err := FindModule()
	if err != nil {
		return nil, err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("SoftHSM token: %w", err)
	}
	t := &Token{Module: module, Label: Label, Dir: dir, Conf: filepath.Join(dir, confFile)}
	if err := t.prepare(); err != nil {
		return nil, fmt.Errorf("SoftHSM token: %w", err)
	}
	return t, nil
}

func (t *Token) path(name string) string { return filepath.Join(t.Dir, name) }

// prepare makes the directory, the configuration and the PIN, unless they are there.
func (t *Token) prepare() error {
	tokens := t.path(tokensDir)
	if err := os.MkdirAll(tokens, 0o700); err != nil {
		return err
	}
	conf := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", tokens)
	if err := os.WriteFile(t.Conf, []byte(conf), 0o600); err != nil {
		return err
	}
	if err := os.Setenv("SOFTHSM2_CONF", t.Conf); err != nil {
		return err
	}
	pin, err := os.ReadFile(t.path(pinFile))
	if errors.Is(err, fs.ErrNotExist) {
		pin = []byte(rand.Text())
		err = writeNew(t.path(pinFile), pin)
	}
	t.PIN = seed.NewPIN(string(pin))
	return err
}

// create initialises the token and its keys. What an interrupted run left behind is thrown away first: its keys have
// protected nothing yet.
func (t *Token) create(ctx context.Context) error {
	if err := t.initialise(); err != nil {
		return err
	}
	return t.Hold(ctx, hsm.FirstKeys())
}

func (t *Token) initialise() error {
	if err := os.RemoveAll(t.path(tokensDir)); err != nil {
		return fmt.Errorf("SoftHSM token: %w", err)
	}
	if err := os.Mkdir(t.path(tokensDir), 0o700); err != nil {
		return fmt.Errorf("SoftHSM token: %w", err)
	}
	return hsm.InitToken(hsm.NewToken{Module: t.Module, Label: t.Label, SOPIN: seed.NewPIN(rand.Text()), PIN: t.PIN})
}

// Hold holds a key ceremony on the token and keeps its known answers. It must not run while the module is open in this
// process.
func (t *Token) Hold(ctx context.Context, keys []hsm.PlannedKey) error {
	plan := hsm.CeremonyPlan{Keys: keys, Known: t.KnownAnswers}
	return hsm.Hold(ctx, t.Config(), plan, nil, func(r hsm.CeremonyRecord, _ func([]byte) (seed.Signature, error)) error {
		out, err := json.Marshal(r.KnownAnswers)
		if err != nil {
			return fmt.Errorf("known answers: %w", err)
		}
		if err := writeNew(t.path(answerFile), append(out, '\n')); err != nil {
			return err
		}
		t.KnownAnswers = r.KnownAnswers
		return nil
	})
}

func readAnswers(path string) ([]hsm.KnownAnswer, error) {
	in, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var answers []hsm.KnownAnswer
	err = json.Unmarshal(in, &answers)
	if missing := hsm.WithoutAnswer(answers); err == nil && len(missing) > 0 {
		err = fmt.Errorf("no known answer of the keys %s", strings.Join(missing, ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: another version may have made it: move its folder away, and every database that "+
			"was made with it, and a new token will be made", path, err)
	}
	return answers, nil
}

// writeNew writes a private file whole or not at all.
func writeNew(path string, data []byte) error {
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// TB is what New needs of *testing.T, so that the product does not link package testing.
type TB interface {
	Helper()
	TempDir() string
	Fatalf(format string, args ...any)
}

// New makes a token in t.TempDir(), or fails the test: a missing module is a failure, never a skip. Where the token is
// to be shared by all tests of a package, call Provision in TestMain.
func New(t TB) *Token {
	t.Helper()
	token, err := Provision(context.Background(), t.TempDir())
	if err != nil {
		t.Fatalf("%v", err)
	}
	return token
}

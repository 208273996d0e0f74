package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"time"

	"github.com/goccy/go-yaml"
)

// DefaultConfig returns what holds where the file says nothing. Clients have no default: who is not named may do nothing.
func DefaultConfig() Config {
	return Config{
		Node: "ramzban-1",
		API: APIConfig{
			Listen:      "127.0.0.1:8443",
			Certificate: "/etc/ramzban/tls/server.crt",
			Key:         "/etc/ramzban/tls/server.key",
			ClientCA:    "/etc/ramzban/tls/client-ca.crt",
		},
		Operator: OperatorConfig{Listen: "127.0.0.1:9090"},
		HSM: HSMConfig{
			Module: "/usr/lib/softhsm/libsofthsm2.so", TokenLabel: "ramzban", PINFile: "/etc/ramzban/hsm.pin",
			Profile: "softhsm", Sessions: 8, OwnerSessions: 2, SeedCache: 10_000,
			KnownAnswerFile: "/etc/ramzban/known-answer",
		},
		Store:    StoreConfig{Badger: new(defaultBadger())},
		Audit:    AuditConfig{CheckpointInterval: seconds(1)},
		Profiles: shippedProfiles(),
		Uses:     []string{"second-pin", "first-pin", "account-pin", "login"},
		Guessing: GuessingConfig{
			FreeMisses: 3, BaseDelay: seconds(30), MaxDelay: seconds(3600), WindowDays: 30, MaxMisses: 100,
		},
		Limits: LimitsConfig{
			RequestsPerSecond: 20_000, RequestsAtOnce: 40_000, DenialsPerSecond: 5, DenialsAtOnce: 50,
			FailedSubjectsPerHour: 100_000,
			RenewalsPerSecond:     200,
		},
		Log:      LogConfig{Level: "info", Format: "json"},
		Timeouts: TimeoutsConfig{Request: seconds(5), Comparison: seconds(300), Shutdown: seconds(20)},
	}
}

func seconds(n int) Duration { return Duration(time.Duration(n) * time.Second) }

// LoadConfig reads and checks a configuration file. Its errors name the file, and the key or line that is wrong.
func LoadConfig(path string) (Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("%w: %w: name an existing file with --config", errConfiguration, err)
	}
	c, err := parseConfig(b)
	if err != nil {
		return Config{}, fmt.Errorf("%w %s: %w", errConfiguration, path, err)
	}
	if err := c.Validate(); err != nil {
		return Config{}, fmt.Errorf("%w %s: %w", errConfiguration, path, err)
	}
	return c, nil
}

// parseConfig reads one YAML document over the defaults. Unknown and repeated keys are errors.
func parseConfig(b []byte) (Config, error) {
	c := DefaultConfig()
	d := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict())
	if err := decodeNext(d, &c); err != nil {
		return Config{}, decodeError(err, configHint)
	}
	if err := decodeNext(d, &Config{}); !errors.Is(err, io.EOF) {
		return Config{}, fmt.Errorf("more than one YAML document: leave one")
	}
	if empty, err := storeIsEmpty(b); err != nil {
		return Config{}, decodeError(err, configHint)
	} else if empty {
		c.Store = StoreConfig{}
	}
	profiles := shippedProfiles()
	maps.Copy(profiles, c.Profiles)
	c.Profiles = profiles
	return c, nil
}

var errUnreadable = errors.New("this YAML cannot be read: look for a missing bracket or space")

// storeIsEmpty: whoever writes the key and nothing under it is not to get the default engine.
func storeIsEmpty(b []byte) (bool, error) {
	var keys map[string]any
	err := decodeNext(yaml.NewDecoder(bytes.NewReader(b)), &keys)
	value, named := keys["store"]
	return named && value == nil, err
}

// decodeNext reads a document. The YAML library panics on some broken ones; that is an error here.
func decodeNext(d *yaml.Decoder, into any) (err error) {
	defer func() {
		if recover() != nil {
			err = errUnreadable
		}
	}()
	return d.Decode(into)
}

const configHint = "`ramzban config example` shows every key"

// decodeError puts a YAML error on one line with its line number, without the source: that may hold a secret in a
// wrong place.
func decodeError(err error, hint string) error {
	var y yaml.Error
	var l *lineError
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("the file is empty: " + hint)
	case errors.Is(err, errUnreadable):
		return err
	case errors.As(err, &l):
		return l
	case errors.As(err, &y) && y.GetToken() != nil:
		return &lineError{line: y.GetToken().Position.Line,
			what: y.GetMessage() + ": " + hint}
	}
	return fmt.Errorf("%w: %s", err, hint)
}

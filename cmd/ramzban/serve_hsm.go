package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"ramzban/hsm"
	"ramzban/hsm/profile"
	"ramzban/keyservice/seed"
)

// openHSM opens and checks the HSM. fatal is called when a hung module can neither be used nor given up.
func openHSM(ctx context.Context, c HSMConfig, log *slog.Logger, fatal func(error)) (*hsm.HSM, error) {
	config, err := c.config()
	if err != nil {
		return nil, err
	}
	if config.KnownAnswers, err = c.knownAnswers(); err != nil {
		return nil, err
	}
	config.Answers, config.Log, config.Fatal = c.knownAnswers, log, fatal
	h, err := hsm.Open(ctx, config)
	if err != nil {
		return nil, explainHSM(err)
	}
	return h, nil
}

// explainHSM tells what another configuration would mend from what may mend itself.
func explainHSM(err error) error {
	if errors.Is(err, hsm.ErrConfiguration) {
		return fmt.Errorf("%w: HSM: %w", errConfiguration, err)
	}
	return fmt.Errorf("HSM: %w", err)
}

// config is how package hsm opens the token, but for known answers. It sets the environment that the module wants.
func (c HSMConfig) config() (hsm.Config, error) {
	product, err := profile.ByName(c.Profile)
	if err != nil {
		return hsm.Config{}, wrong("hsm.profile", "%v", err)
	}
	pin, err := c.pin()
	if err != nil {
		return hsm.Config{}, err
	}
	for name, value := range c.Environment {
		if err := os.Setenv(name, value); err != nil {
			return hsm.Config{}, wrong("hsm.environment", "%s: %v", name, err)
		}
	}
	return hsm.Config{Module: c.Module, TokenLabel: c.TokenLabel, PIN: pin, Profile: product,
		PoolSessions: c.Sessions, OwnerSessions: c.OwnerSessions, SeedCache: c.SeedCache}, nil
}

// pin reads the user PIN from where it is kept. Its errors never show what was found there.
func (c HSMConfig) pin() (seed.PIN, error) {
	if c.PINEnv != "" {
		if v := os.Getenv(c.PINEnv); v != "" {
			return seed.NewPIN(v), nil
		}
		return seed.PIN{}, wrong("hsm.pin_env", "the environment variable %s is not set: put the HSM's user PIN there", c.PINEnv)
	}
	if err := requirePrivate("hsm.pin_file", c.PINFile); err != nil {
		return seed.PIN{}, err
	}
	b, err := os.ReadFile(c.PINFile)
	if err != nil {
		return seed.PIN{}, wrong("hsm.pin_file", "%v: put the HSM's user PIN there, mode 0600, for the service's user", err)
	}
	v := strings.TrimRight(string(b), "\r\n")
	if v == "" || strings.ContainsAny(v, "\r\n") {
		return seed.PIN{}, wrong("hsm.pin_file", "%s must hold the HSM's user PIN on one line", c.PINFile)
	}
	return seed.NewPIN(v), nil
}

// knownAnswers reads the JSON list that the key ceremony wrote.
func (c HSMConfig) knownAnswers() ([]hsm.KnownAnswer, error) {
	b, err := os.ReadFile(c.KnownAnswerFile)
	if err != nil {
		return nil, wrong("hsm.known_answer_file", "%v: copy it from the key ceremony", err)
	}
	var answers []hsm.KnownAnswer
	if err := json.Unmarshal(b, &answers); err != nil {
		return nil, wrong("hsm.known_answer_file", "%s is not the known answers of a key ceremony: %v", c.KnownAnswerFile, err)
	}
	return answers, nil
}

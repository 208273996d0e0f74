package main

import (
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/store"
)

// keyError is a wrong value of one configuration key.
type keyError struct{ key, what string }

func (e *keyError) Error() string { return e.key + ": " + e.what }

// Is makes it a configuration error.
func (e *keyError) Is(target error) bool { return target == errConfiguration }

func wrong(key, format string, a ...any) error {
	return &keyError{key: key, what: fmt.Sprintf(format, a...)}
}

// Validate checks everything that can be checked without opening a file, a port or the HSM. Its errors name the key.
func (c Config) Validate() error {
	checks := []func() error{c.checkNode, c.checkAddresses, c.checkPaths, c.checkHSM, c.Store.validate, c.Audit.validate, c.checkProfiles, c.checkUses,
		c.checkGuessing, c.checkClients, c.checkOfficers, c.checkLimits, c.checkLog, c.checkTimeouts}
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c Config) checkNode() error {
	if store.CheckNode(c.Node) != nil {
		return wrong("node", "name this server with 1 to 63 small letters, digits and hyphens")
	}
	return nil
}

func (c Config) checkAddresses() error {
	for key, listen := range map[string]string{"api.listen": c.API.Listen, "operator.listen": c.Operator.Listen} {
		_, port, err := net.SplitHostPort(listen)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 {
			return wrong(key, "give an address and port such as 127.0.0.1:8443")
		}
	}
	if !c.Operator.TLS && !isLoopback(c.Operator.Listen) {
		return wrong("operator.listen", "is not a loopback address: set operator.tls to true")
	}
	return nil
}

func isLoopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

func (c Config) checkPaths() error {
	for _, p := range []struct{ key, value string }{
		{"api.certificate", c.API.Certificate}, {"api.key", c.API.Key}, {"api.client_ca", c.API.ClientCA},
		{"hsm.module", c.HSM.Module}, {"hsm.token_label", c.HSM.TokenLabel}, {"hsm.profile", c.HSM.Profile},
		{"hsm.known_answer_file", c.HSM.KnownAnswerFile},
	} {
		if p.value == "" {
			return wrong(p.key, "must not be empty")
		}
	}
	return nil
}

func (c Config) checkHSM() error {
	if c.HSM.PINFile == "" && c.HSM.PINEnv == "" {
		return wrong("hsm.pin_file", "give either hsm.pin_file or hsm.pin_env")
	}
	for _, n := range []struct {
		key             string
		value, min, max int
	}{
		{"hsm.sessions", c.HSM.Sessions, 1, 1024},
		{"hsm.owner_sessions", c.HSM.OwnerSessions, 1, 64},
		{"hsm.seed_cache", c.HSM.SeedCache, 1, 10_000_000},
	} {
		if n.value < n.min || n.value > n.max {
			return wrong(n.key, "must be between %d and %d, not %d", n.min, n.max, n.value)
		}
	}
	return nil
}

func (c Config) checkUses() error {
	if len(c.Uses) == 0 {
		return wrong("uses", "name at least one")
	}
	for i, u := range c.Uses {
		if !nameForm.MatchString(u) {
			return wrong("uses", "%q is not %s", u, nameRule)
		}
		if slices.Contains(c.Uses[:i], u) {
			return wrong("uses", "%q is there twice: name it once", u)
		}
	}
	return nil
}

// nameForm is what uses and profiles may be called. A slash is kept for what the key service itself names.
var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

const nameRule = "a name of 1 to 64 small letters, digits and hyphens that begins with a letter or digit"

func (c Config) checkGuessing() error {
	if err := c.Guessing.Limits().Validate(); err != nil {
		return wrong("guessing", "%v", err)
	}
	return nil
}

func (c Config) checkClients() error {
	if len(c.Clients) == 0 {
		return wrong("clients", "name at least one: without it nobody may do anything")
	}
	for i, client := range c.Clients {
		if len(client.Roles) == 0 {
			return wrong(fmt.Sprintf("clients[%d].roles", i), "give at least one of %s", roleNames())
		}
		for _, r := range client.Roles {
			if !slices.Contains(authz.Roles(), authz.Role(r)) {
				return wrong(fmt.Sprintf("clients[%d].roles", i), "%q is not one of %s", r, roleNames())
			}
		}
	}
	_, err := c.directory()
	return err
}

// checkOfficers: an officer alone could agree with nobody.
func (c Config) checkOfficers() error {
	if len(c.Officers) == 1 {
		return wrong("officers", "name at least two, or none")
	}
	for i, name := range c.Officers {
		at := slices.IndexFunc(c.Clients, func(client ClientConfig) bool { return client.Name == name })
		if at < 0 || !slices.Contains(c.Clients[at].Roles, string(authz.Officer)) {
			return wrong("officers", "%q is no client with the role officer", name)
		}
		if slices.Contains(c.Officers[:i], name) {
			return wrong("officers", "%q is there twice: name each person once", name)
		}
	}
	return nil
}

func roleNames() string {
	var names []string
	for _, r := range authz.Roles() {
		names = append(names, string(r))
	}
	return strings.Join(names, ", ")
}

// directory returns who may do what.
func (c Config) directory() (*authz.Directory, error) {
	clients := make([]authz.Client, len(c.Clients))
	for i, client := range c.Clients {
		clients[i] = authz.Client{Name: client.Name, Certificates: client.Certificates}
		for _, r := range client.Roles {
			clients[i].Roles = append(clients[i].Roles, authz.Role(r))
		}
	}
	d, err := authz.NewDirectory(clients)
	if err != nil {
		return nil, wrong("clients", "%v", err)
	}
	return d, nil
}

func (c Config) checkLimits() error {
	for key, n := range map[string]int{
		"limits.requests_per_second": c.Limits.RequestsPerSecond, "limits.requests_at_once": c.Limits.RequestsAtOnce,
		"limits.denials_per_second": c.Limits.DenialsPerSecond, "limits.denials_at_once": c.Limits.DenialsAtOnce,
		"limits.failed_subjects_per_hour": c.Limits.FailedSubjectsPerHour,
		"limits.renewals_per_second":      c.Limits.RenewalsPerSecond,
	} {
		if n < 1 || n > 1_000_000 {
			return wrong(key, "must be between 1 and 1000000, not %d", n)
		}
	}
	return nil
}

func (c Config) checkLog() error {
	if _, err := c.Log.level(); err != nil {
		return err
	}
	if c.Log.Format != "json" && c.Log.Format != "text" {
		return wrong("log.format", "must be json or text")
	}
	return nil
}

func (l LogConfig) level() (slog.Level, error) {
	levels := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}
	level, known := levels[l.Level]
	if !known {
		return 0, wrong("log.level", "must be debug, info, warn or error")
	}
	return level, nil
}

func (c Config) checkTimeouts() error {
	for _, t := range []struct {
		key        string
		value, max Duration
	}{
		{"timeouts.request", c.Timeouts.Request, seconds(300)},
		{"timeouts.comparison", c.Timeouts.Comparison, Duration(maxComparison)},
		{"timeouts.shutdown", c.Timeouts.Shutdown, seconds(300)},
	} {
		if t.value < seconds(1) || t.value > t.max {
			return wrong(t.key, "must be between 1s and %v, not %v", t.max, t.value)
		}
	}
	return nil
}

// maxComparison is the longest that a comparison may be given; the command that asks for one waits longer.
const maxComparison = 24 * time.Hour

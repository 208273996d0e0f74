package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// `config check` names the first thing to mend, and needs neither HSM nor database.
func TestConfigCheckLooksAtTheFiles(t *testing.T) {
	d := deploy(t)
	check := func(c Config) (string, error) {
		out, err := exec.Command(ramzban, "config", "check", "--config", writeConfig(t, c)).CombinedOutput()
		return string(out), err
	}
	good := d.config
	good.HSM.TokenLabel, good.Store.Badger = "not-there", &BadgerConfig{Dir: "/nonexistent/badger"}
	out, err := check(good)
	require.NoError(t, err, out)
	require.Regexp(t, `^\S+ is a valid configuration\n$`, out)

	for says, spoil := range map[string]func(*Config){
		"hsm.profile: no HSM profile":          func(c *Config) { c.HSM.Profile = "other" },
		"api.certificate: stat /nonexistent":   func(c *Config) { c.API.Certificate = "/nonexistent" },
		"api.key: stat /nonexistent":           func(c *Config) { c.API.Key = "/nonexistent" },
		"api.client_ca: stat /nonexistent":     func(c *Config) { c.API.ClientCA = "/nonexistent" },
		"api.client_crl: stat /nonexistent":    func(c *Config) { c.API.ClientCRL = "/nonexistent" },
		"hsm.module: stat /nonexistent":        func(c *Config) { c.HSM.Module = "/nonexistent" },
		"hsm.module: /dev is not a file":       func(c *Config) { c.HSM.Module = "/dev" },
		"hsm.pin_file: open /nonexistent":      func(c *Config) { c.HSM.PINFile = "/nonexistent" },
		"hsm.pin_file: others may read":        func(c *Config) { openPIN(t, c) },
		"hsm.known_answer_file: stat /nowhere": func(c *Config) { c.HSM.KnownAnswerFile = "/nowhere" },
		"with key":                             func(c *Config) { c.API.Key = strings.Replace(c.API.Key, "server", "branch", 1) },
	} {
		spoilt := good
		spoil(&spoilt)
		_, stderr := runFailing(t, exitConfig, nil, "config", "check", "--config", writeConfig(t, spoilt))
		requireOneLine(t, stderr, says)
	}
	_, stderr := runFailing(t, exitConfig, nil, "config", "check", "--config", writeFile(t, "example.yaml", exampleConfig))
	requireOneLine(t, stderr, "/etc/ramzban/")
}

// A bank may give one client roles that are made to be apart; it is told, in a line for each client.
func TestRolesThatAreNotApartAreWarnedOf(t *testing.T) {
	d := deploy(t)
	d.config.Clients[0].Roles = []string{"courier", "issuer", "activator"}
	d.config.Clients[1].Roles = []string{"verifier", "courier"}
	warnings := []string{
		`clients: "branch" alone could issue and activate, issue and read the code, read a code and activate: keep these roles apart`,
		`clients: "mobile-bank" alone could read a code and verify: keep these roles apart`,
	}
	require.Equal(t, warnings, d.config.warnings())
	for could, roles := range map[string][]string{
		"issue and activate": {"issuer", "activator"}, "issue and read the code": {"courier", "issuer"},
		"read a code and activate": {"activator", "courier", "auditor"}, "read a code and verify": {"verifier", "courier"},
	} {
		one := Config{Clients: []ClientConfig{{Name: "x", Roles: roles}}}
		require.Equal(t, []string{`clients: "x" alone could ` + could + `: keep these roles apart`}, one.warnings())
	}
	apart := Config{Clients: []ClientConfig{{Name: "x", Roles: []string{"issuer", "verifier", "officer"}}, {Name: "y", Roles: []string{"activator", "verifier"}}}}
	require.Empty(t, apart.warnings())
	out, err := exec.Command(ramzban, "config", "check", "--config", writeConfig(t, d.config)).CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, w := range warnings {
		require.Contains(t, string(out), "warning: "+w+"\n")
	}
	d.launch("serve", "--config", writeConfig(t, d.config))
	d.waitReady()
	require.NoError(t, d.terminate())
	log, err := os.ReadFile(filepath.Join(d.dir, "out.log"))
	require.NoError(t, err)
	require.Contains(t, string(log), "alone could issue and activate, issue and read the code, read a code and activate: keep these roles apart")
}

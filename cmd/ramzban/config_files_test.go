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
	good.HSM.TokenLabel, good.Store.Badger.Dir = "not-there", "/nonexistent/badger"
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

// A bank may let one client do everything that makes a customer's second factor; it is told.
func TestAClientThatCouldDoAllIsWarnedOf(t *testing.T) {
	d := deploy(t)
	d.config.Clients[0].Roles = []string{"courier", "issuer", "activator"}
	d.config.Clients[1].Roles = []string{"verifier", "courier"}
	warnings := []string{
		`clients: "branch" alone could issue, read a code and activate: keep them apart`,
		`clients: "mobile-bank" alone could read a code and verify: keep them apart`,
	}
	require.Equal(t, warnings, d.config.warnings())
	d.config.Clients[2].Roles = []string{"issuer", "courier"}
	require.Equal(t, warnings, d.config.warnings())
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
	require.Contains(t, string(log), "alone could issue, read a code and activate: keep them apart")
}

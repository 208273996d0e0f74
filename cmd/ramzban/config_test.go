package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
)

func TestExampleConfigIsTheDefaults(t *testing.T) {
	c, err := parseConfig([]byte(exampleConfig))
	require.NoError(t, err)
	require.NoError(t, c.Validate())
	require.NotEmpty(t, c.Clients)
	c.Clients = nil
	require.Equal(t, DefaultConfig(), c)
}

func TestExampleConfigExplainsEveryKey(t *testing.T) {
	lines := strings.Split(exampleConfig, "\n")
	for _, key := range yamlKeys(reflect.TypeFor[Config]()) {
		at := -1
		line := regexp.MustCompile(`^\s*(# |- )?` + key + `:`)
		for i, l := range lines {
			if line.MatchString(l) {
				at = i
				break
			}
		}
		require.GreaterOrEqual(t, at, 0, "%s is not in the example", key)
		require.Contains(t, lines[at-1], "#", "%s has no comment above it", key)
	}
}

// yamlKeys lists the keys of a struct and of those in it.
func yamlKeys(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		keys = append(keys, name)
		inner := f.Type
		if inner.Kind() == reflect.Map || inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct {
			keys = append(keys, yamlKeys(inner)...)
		}
	}
	return keys
}

func TestEveryConfigFieldIsDocumented(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	require.NoError(t, err)
	fields := 0
	ast.Inspect(file, func(n ast.Node) bool {
		s, ok := n.(*ast.StructType)
		if !ok {
			return true
		}
		for _, f := range s.Fields.List {
			fields++
			require.NotEmpty(t, f.Doc.Text(), "%s has no comment", f.Names[0].Name)
			require.Contains(t, f.Tag.Value, "yaml:", "%s has no YAML key", f.Names[0].Name)
		}
		return true
	})
	require.Equal(t, fields, len(yamlKeys(reflect.TypeFor[Config]())))
}

func TestConfigIsReadStrictly(t *testing.T) {
	for name, c := range map[string]struct{ yaml, says string }{
		"unknown key":         {"node: a\nnod: b\n", "line 2: unknown field"},
		"unknown nested key":  {"hsm:\n  token_label: a\n  pin: \"98765\"\n", "line 3: unknown field"},
		"repeated key":        {"node: a\nnode: b\n", "line 2: mapping key"},
		"wrong type":          {"hsm:\n  sessions: many\n", "line 2: "},
		"duration, no unit":   {"timeouts:\n  request: 5\n", "line 2: the value must be a duration"},
		"duration, no number": {"timeouts:\n  request: soon\n", "line 2: the value must be a duration"},
		"size, no unit":       {"store:\n  badger:\n    reserve: 512\n", "line 3: the value must be a size"},
		"size, too large":     {"store:\n  badger:\n    reserve: 99999999TiB\n", "line 3: the value must be a size"},
		"hash":                {"profiles:\n  x:\n    hash: MD5\n", "line 3: the value must be SHA1, SHA256 or SHA512"},
		"broken YAML":         {"clients: [\n", "line 1: "},
		"empty file":          {"", "the file is empty"},
		"two documents":       {"node: a\n---\nnode: b\n", "more than one YAML document"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseConfig([]byte(c.yaml))
			require.ErrorContains(t, err, c.says)
			require.NotContains(t, err.Error(), "98765", "a value that may be a secret is shown")
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestConfigErrorsNameTheKey(t *testing.T) {
	for key, spoil := range map[string]func(*Config){
		"node":                  func(c *Config) { c.Node = "" },
		"api.listen":            func(c *Config) { c.API.Listen = "127.0.0.1" },
		"operator.listen":       func(c *Config) { c.Operator.Listen = "0.0.0.0:9090" },
		"api.certificate":       func(c *Config) { c.API.Certificate = "" },
		"api.key":               func(c *Config) { c.API.Key = "" },
		"api.client_ca":         func(c *Config) { c.API.ClientCA = "" },
		"hsm.module":            func(c *Config) { c.HSM.Module = "" },
		"hsm.token_label":       func(c *Config) { c.HSM.TokenLabel = "" },
		"hsm.profile":           func(c *Config) { c.HSM.Profile = "" },
		"hsm.pin_file":          func(c *Config) { c.HSM.PINFile = "" },
		"hsm.sessions":          func(c *Config) { c.HSM.Sessions = 0 },
		"hsm.owner_sessions":    func(c *Config) { c.HSM.OwnerSessions = -1 },
		"hsm.seed_cache":        func(c *Config) { c.HSM.SeedCache = 0 },
		"hsm.known_answer_file": func(c *Config) { c.HSM.KnownAnswerFile = "" },
		"store.badger.dir":      func(c *Config) { c.Store.Badger.Dir = "" },
		"profiles.offline-60": func(c *Config) {
			p := c.Profiles["offline-60"]
			p.Digits = 5
			c.Profiles["offline-60"] = p
		},
		"uses":                       func(c *Config) { c.Uses = []string{"second pin"} },
		"guessing":                   func(c *Config) { c.Guessing.MaxMisses = 101 },
		"clients":                    func(c *Config) { c.Clients = nil },
		"clients[0].roles":           func(c *Config) { c.Clients[0].Roles = nil },
		"limits.requests_per_second": func(c *Config) { c.Limits.RequestsPerSecond = 0 },
		"limits.requests_at_once":    func(c *Config) { c.Limits.RequestsAtOnce = -1 },
		"limits.denials_per_second":  func(c *Config) { c.Limits.DenialsPerSecond = 0 },
		"limits.denials_at_once":     func(c *Config) { c.Limits.DenialsAtOnce = 1_000_001 },
		"log.level":                  func(c *Config) { c.Log.Level = "loud" },
		"log.format":                 func(c *Config) { c.Log.Format = "xml" },
		"timeouts.request":           func(c *Config) { c.Timeouts.Request = 0 },
		"timeouts.comparison":        func(c *Config) { c.Timeouts.Comparison = Duration(25 * time.Hour) },
		"timeouts.shutdown":          func(c *Config) { c.Timeouts.Shutdown = seconds(301) },
	} {
		t.Run(key, func(t *testing.T) {
			c, err := parseConfig([]byte(exampleConfig))
			require.NoError(t, err)
			spoil(&c)
			err = c.Validate()
			require.ErrorContains(t, err, key+": ")
		})
	}
}

func TestClientsOfOneCertificateAreRefused(t *testing.T) {
	c, err := parseConfig([]byte(exampleConfig))
	require.NoError(t, err)
	c.Clients[1].Certificates = c.Clients[0].Certificates
	require.ErrorContains(t, c.Validate(), "clients: ")
	c.Clients[1].Certificates = []string{"other"}
	require.NoError(t, c.Validate())
	c.Clients[1].Roles = []string{"king"}
	require.ErrorContains(t, c.Validate(), `"king" is not one of issuer, activator, courier`)
}

func TestOwnProfilesJoinTheShippedOnes(t *testing.T) {
	c, err := parseConfig([]byte("profiles:\n  mine: {type: hotp, hash: SHA256, digits: 8, look_ahead: 5}\n"))
	require.NoError(t, err)
	require.Len(t, c.Profiles, len(shippedProfiles())+1)
	require.Equal(t, 8, c.Profiles["mine"].Policy().Digits)
	require.NoError(t, c.Profiles["offline-120"].Policy().Validate())
}

func TestConfigIsWrittenAsItIsRead(t *testing.T) {
	c, err := parseConfig([]byte(exampleConfig))
	require.NoError(t, err)
	c.HSM.Environment = map[string]string{"SOFTHSM2_CONF": "/x"}
	b, err := yaml.Marshal(c)
	require.NoError(t, err)
	again, err := parseConfig(b)
	require.NoError(t, err, "%s", b)
	require.Equal(t, c, again)
}

func TestLoadConfigNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ramzban.yaml")
	_, err := LoadConfig(path)
	require.ErrorContains(t, err, path)
	require.NoError(t, os.WriteFile(path, []byte("x: 1\n"), 0o600))
	_, err = LoadConfig(path)
	require.ErrorContains(t, err, path)
	require.ErrorContains(t, err, "line 1")
}

// The YAML library panics on this one.
func TestConfigThatTheYAMLLibraryCannotTake(t *testing.T) {
	_, err := parseConfig([]byte("uses: ![a]\n"))
	require.ErrorContains(t, err, "cannot be read")
}

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

	"ramzban/keyservice"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
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
		if k := inner.Kind(); k == reflect.Map || k == reflect.Slice || k == reflect.Pointer && inner != reflect.TypeFor[*GuessingConfig]() {
			inner = inner.Elem() // a profile's guessing has the keys of the global one
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
		"store":                 func(c *Config) { c.Store = StoreConfig{} },
		"store.badger.dir":      func(c *Config) { c.Store.Badger.Dir = "" },
		"store.postgres.dsn_file": func(c *Config) {
			c.Store = StoreConfig{Postgres: new(defaultPostgres())}
			c.Store.Postgres.DSNFile = ""
		},
		"store.postgres.connections":       func(c *Config) { c.Store = StoreConfig{Postgres: &PostgresConfig{DSNEnv: "X", Connections: 1}} },
		"store.postgres.statement_timeout": func(c *Config) { c.Store = StoreConfig{Postgres: &PostgresConfig{DSNEnv: "X", Connections: 2}} },
		"audit.checkpoint_interval":        func(c *Config) { c.Audit.CheckpointInterval = seconds(2) },
		"audit.witness":                    func(c *Config) { c.Audit.Witness = &WitnessConfig{} },
		"audit.witness.url":                func(c *Config) { c.Audit.Witness = &WitnessConfig{URL: "http://x"} },
		"audit.witness.ca":                 func(c *Config) { c.Audit.Witness = &WitnessConfig{Dir: "x", CA: "y"} },
		"audit.witness.certificate":        func(c *Config) { c.Audit.Witness = &WitnessConfig{URL: "https://x", Key: "y"} },
		"profiles.offline-60":              func(c *Config) { c.own("offline-60", func(p *ProfileConfig) { p.Digits = 5 }) },
		"profiles.offline-60.guessing": func(c *Config) {
			c.own("offline-60", func(p *ProfileConfig) { p.Guessing = &GuessingConfig{FreeMisses: 3} })
		},
		"profiles.signing-60":             func(c *Config) { c.own("signing-60", func(p *ProfileConfig) { p.PINDigits = 8 }) },
		"profiles.signing-60.suite":       func(c *Config) { c.own("signing-60", func(p *ProfileConfig) { p.Suite = "OCRA-1:HOTP-SHA1-6:QN8" }) },
		"profiles.signing-60.hash":        func(c *Config) { c.own("signing-60", func(p *ProfileConfig) { p.Hash = HashName(seed.SHA1) }) },
		"profiles.signing-60.digits":      func(c *Config) { c.own("signing-60", func(p *ProfileConfig) { p.Digits = 8 }) },
		"profiles.signing-60.period":      func(c *Config) { c.own("signing-60", func(p *ProfileConfig) { p.Period = seconds(30) }) },
		"profiles.sms-120":                func(c *Config) { c.own("sms-120", func(p *ProfileConfig) { p.Validity = seconds(601) }) },
		"profiles":                        func(c *Config) { c.Profiles["a/b"] = c.Profiles["offline-60"] },
		"uses":                            func(c *Config) { c.Uses = []string{"second/pin"} },
		"guessing":                        func(c *Config) { c.Guessing.MaxMisses = 101 },
		"clients":                         func(c *Config) { c.Clients = nil },
		"clients[0].roles":                func(c *Config) { c.Clients[0].Roles = nil },
		"officers":                        func(c *Config) { c.Officers = []string{c.Clients[0].Name, c.Clients[1].Name} },
		"limits.requests_per_second":      func(c *Config) { c.Limits.RequestsPerSecond = 0 },
		"limits.requests_at_once":         func(c *Config) { c.Limits.RequestsAtOnce = -1 },
		"limits.denials_per_second":       func(c *Config) { c.Limits.DenialsPerSecond = 0 },
		"limits.denials_at_once":          func(c *Config) { c.Limits.DenialsAtOnce = 1_000_001 },
		"limits.failed_subjects_per_hour": func(c *Config) { c.Limits.FailedSubjectsPerHour = 0 },
		"limits.renewals_per_second":      func(c *Config) { c.Limits.RenewalsPerSecond = 0 },
		"log.level":                       func(c *Config) { c.Log.Level = "loud" },
		"log.format":                      func(c *Config) { c.Log.Format = "xml" },
		"timeouts.request":                func(c *Config) { c.Timeouts.Request = 0 },
		"timeouts.comparison":             func(c *Config) { c.Timeouts.Comparison = Duration(25 * time.Hour) },
		"timeouts.shutdown":               func(c *Config) { c.Timeouts.Shutdown = seconds(301) },
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

// own changes one profile.
func (c *Config) own(name string, change func(*ProfileConfig)) {
	p := c.Profiles[name]
	change(&p)
	c.Profiles[name] = p
}

// What is said of profiles, uses and guessing is said in the words of the file.
func TestConfigErrorsSpeakTheFilesLanguage(t *testing.T) {
	for says, text := range map[string]string{
		`uses: "login" is there twice`:                                      "uses: [login, second-pin, login]\n",
		"guessing: max_misses must be between free_misses (3) and 100":      "guessing: {max_misses: 101}\n",
		"guessing: base_delay must be at least 1s, not 500ms":               "guessing: {base_delay: 500ms}\n",
		"guessing: max_delay must be between base_delay (30s) and 86400s":   "guessing: {max_delay: 20s}\n",
		"guessing: window_days must be between 1 and":                       "guessing: {window_days: 0}\n",
		"guessing: free_misses must be between 1 and 10, not 0":             "guessing: {free_misses: 0}\n",
		"profiles.x.guessing: give all five of":                             "profiles: {x: {type: sms, hash: SHA1, digits: 6, validity: 60s, guessing: {max_misses: 200}}}\n",
		"profiles.x: validity must be whole seconds, 30s to 600s, not 700s": "profiles: {x: {type: sms, hash: SHA1, digits: 6, validity: 700s}}\n",
		"profiles.x: period is not for sms":                                 "profiles: {x: {type: sms, hash: SHA1, digits: 6, validity: 60s, period: 60s}}\n",
		"profiles.x: validity is for time steps and sms only":               "profiles: {x: {type: hotp, hash: SHA1, digits: 6, validity: 60s}}\n",
		"profiles.x: pin_digits is for ocra only":                           "profiles: {x: {type: hotp, hash: SHA1, digits: 6, pin_digits: 4}}\n",
		"profiles.x: resync_ahead is for counters only":                     "profiles: {x: {type: totp, hash: SHA1, digits: 6, period: 120s, validity: 120s, resync_ahead: 4}}\n",
		"validity must be at least the period (120s)":                       "profiles: {x: {type: totp, hash: SHA1, digits: 6, period: 120s, validity: 60s}}\n",
		"drift_search (120s) must not exceed drift_bound (60s)":             "profiles: {x: {type: totp, hash: SHA1, digits: 6, period: 60s, validity: 60s, drift_search: 2m, drift_bound: 1m}}\n",
		"period must be whole seconds, at most 3600s, not 7200s":            "profiles: {x: {type: totp, hash: SHA1, digits: 6, period: 2h, validity: 60s}}\n",
	} {
		c, err := parseConfig([]byte(text + "clients: [{name: a, certificates: [a], roles: [issuer]}]\n"))
		require.NoError(t, err)
		require.ErrorContains(t, c.Validate(), says)
	}
}

func TestNamesOfUses(t *testing.T) {
	long := strings.Repeat("a", 64)
	for name, good := range map[string]bool{"a": true, "4": true, "first-pin": true, long: true,
		"": false, long + "a": false, "-a": false, "First": false, "a b": false, "/resync": false, "a_b": false, "a\n": false} {
		c, err := parseConfig([]byte(exampleConfig))
		require.NoError(t, err)
		c.Uses = []string{name}
		require.Equal(t, good, c.Validate() == nil, "%q", name)
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

func TestOfficersAreAtLeastTwoClientsWithTheRole(t *testing.T) {
	c, err := parseConfig([]byte(exampleConfig))
	require.NoError(t, err)
	for _, name := range []string{"a", "b"} {
		c.Clients = append(c.Clients, ClientConfig{Name: name, Certificates: []string{name}, Roles: []string{"auditor", "officer"}})
	}
	for says, officers := range map[string][]string{
		"": {"b", "a"}, "name at least two": {"a"}, "is there twice": {"a", "b", "a"}, `"c" is no client`: {"a", "c"}, `"auditor" is no client`: {"a", "auditor"},
	} {
		c.Officers = officers
		if says == "" {
			require.NoError(t, c.Validate())
			continue
		}
		require.ErrorContains(t, c.Validate(), "officers: ")
		require.ErrorContains(t, c.Validate(), says)
	}
}

func TestOwnProfilesJoinTheShippedOnes(t *testing.T) {
	c, err := parseConfig([]byte("profiles:\n  mine: {type: hotp, hash: SHA256, digits: 8, look_ahead: 5}\n"))
	require.NoError(t, err)
	require.Len(t, c.Profiles, len(shippedProfiles())+1)
	require.Equal(t, 8, c.Profiles["mine"].Policy().Digits)
	require.NoError(t, c.Profiles["offline-120"].Policy().Validate())
}

// What a suite says may be repeated, and is known to the key service either way.
func TestASuiteSaysHashDigitsAndPeriod(t *testing.T) {
	const short = "profiles:\n  mine: {type: ocra, suite: 'OCRA-1:HOTP-SHA512-8:QN08-PSHA1-T30S', pin_digits: 4, validity: 30s"
	var said []otp.Policy
	for _, text := range []string{short + "}\n", short + ", hash: SHA512, digits: 8, period: 30s}\n"} {
		c, err := parseConfig([]byte(text))
		require.NoError(t, err)
		require.NoError(t, c.checkProfiles())
		said = append(said, c.profiles()["mine"].Policy)
	}
	require.Equal(t, said[0], said[1])
	require.Equal(t, otp.Policy{Type: otp.OCRA, Hash: seed.SHA512, Digits: 8, Period: 30 * time.Second, Validity: 30 * time.Second,
		Suite: "OCRA-1:HOTP-SHA512-8:QN08-PSHA1-T30S", PINDigits: 4}, said[0])
	counted := ProfileConfig{Type: otp.OCRA, Suite: "OCRA-1:HOTP-SHA1-6:C-QN08", LookAhead: 5, ResyncAhead: 50}
	require.NoError(t, counted.check("profiles.mine"))
	counted.Period = seconds(60)
	require.ErrorContains(t, counted.check("profiles.mine"), "profiles.mine.period: ")
}

func TestAProfileMayHaveItsOwnThrottling(t *testing.T) {
	c, err := parseConfig([]byte("profiles:\n  mine:\n    type: hotp\n    hash: SHA1\n    digits: 6\n" +
		"    guessing: {free_misses: 2, base_delay: 60s, max_delay: 120s, window_days: 7, max_misses: 20}\n"))
	require.NoError(t, err)
	require.NoError(t, c.checkProfiles())
	profiles := c.profiles()
	require.Equal(t, keyservice.GuessLimits{FreeMisses: 2, BaseDelay: time.Minute, MaxDelay: 2 * time.Minute, WindowDays: 7, MaxMisses: 20},
		profiles["mine"].Guess)
	require.Equal(t, c.Guessing.Limits(), profiles["offline-60"].Guess)
}

func TestConfigIsWrittenAsItIsRead(t *testing.T) {
	c, err := parseConfig([]byte(exampleConfig))
	require.NoError(t, err)
	c.HSM.Environment = map[string]string{"SOFTHSM2_CONF": "/x"}
	c.own("offline-60", func(p *ProfileConfig) { p.Guessing = &GuessingConfig{FreeMisses: 1} })
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

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"ramzban/api"
	"ramzban/hsm"
	"ramzban/keyservice"
)

// deployment is a set-up that served once and can be spoilt: its configuration, and the service that made it.
type deployment struct {
	*service
	config Config
}

func deploy(t testing.TB) *deployment {
	s := startService(t)
	require.NoError(t, s.terminate())
	c, err := LoadConfig(filepath.Join(s.dir, "ramzban.yaml"))
	require.NoError(t, err)
	c.API.Listen, c.Operator.Listen = s.api, s.ops
	return &deployment{service: s, config: c}
}

// serve runs the real binary with a configuration, and returns its two outputs. It must end by itself, with this status.
func (d *deployment) serve(t *testing.T, c Config, status int, flags ...string) (stdout, stderr string) {
	t.Helper()
	return runFailing(t, status, nil, append([]string{"serve", "--config", writeConfig(t, c)}, flags...)...)
}

func writeConfig(t testing.TB, c Config) string {
	t.Helper()
	b, err := yaml.Marshal(c)
	require.NoError(t, err)
	return writeFile(t, "ramzban.yaml", string(b))
}

func runFailing(t *testing.T, status int, env []string, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), ramzban, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	require.True(t, errors.As(err, &exit), "it ended with %v", err)
	require.Equal(t, status, exit.ExitCode(), "%s", errs.String())
	return out.String(), errs.String()
}

func writeFile(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// requireOneLine: what is wrong and what to do, on one line, and no secret in it.
func requireOneLine(t *testing.T, stderr string, says ...string) {
	t.Helper()
	require.Equal(t, 1, strings.Count(stderr, "\n"), "not one line:\n%s", stderr)
	require.True(t, strings.HasPrefix(stderr, "ramzban: "), stderr)
	for _, s := range says {
		require.Contains(t, stderr, s)
	}
	require.NotContains(t, stderr, "Usage")
	t.Logf("%s", strings.TrimSpace(stderr))
}

func TestServeSaysInOneLineWhyItCannotStart(t *testing.T) {
	d := deploy(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	for name, c := range map[string]struct {
		spoil  func(*testing.T, *Config)
		says   []string
		status int
	}{
		"no module":          {func(_ *testing.T, c *Config) { c.HSM.Module = "/nonexistent/libhsm.so" }, []string{"/nonexistent/libhsm.so", "install"}, exitConfig},
		"not a module":       {func(t *testing.T, c *Config) { c.HSM.Module = writeFile(t, "libhsm.so", "x") }, []string{"cannot be loaded", "hsm.module"}, exitConfig},
		"module's set-up":    {func(_ *testing.T, c *Config) { c.HSM.Environment = map[string]string{"SOFTHSM2_CONF": "/nonexistent"} }, []string{"CKR_GENERAL_ERROR: check hsm.environment and the module's own configuration"}, exitFailure},
		"wrong PIN":          {func(t *testing.T, c *Config) { c.HSM.PINFile = writeFile(t, "pin", "271828") }, []string{"refused the PIN", "correct it"}, exitPIN},
		"no PIN file":        {func(_ *testing.T, c *Config) { c.HSM.PINFile = "/nonexistent/pin" }, []string{"hsm.pin_file", "/nonexistent/pin", "put the HSM's user PIN there"}, exitConfig},
		"PIN file of two":    {func(t *testing.T, c *Config) { c.HSM.PINFile = writeFile(t, "pin", "271828\n314159\n") }, []string{"hsm.pin_file", "one line"}, exitConfig},
		"PIN file for all":   {openPIN, []string{"hsm.pin_file", "chmod 600"}, exitConfig},
		"no PIN variable":    {func(_ *testing.T, c *Config) { c.HSM.PINEnv = "RAMZBAN_NO_PIN" }, []string{"hsm.pin_env", "RAMZBAN_NO_PIN is not set"}, exitConfig},
		"no such token":      {func(_ *testing.T, c *Config) { c.HSM.TokenLabel = "other" }, []string{`"other"`, "hsm.token_label"}, exitConfig},
		"no such profile":    {func(_ *testing.T, c *Config) { c.HSM.Profile = "other" }, []string{"hsm.profile", "softhsm"}, exitConfig},
		"no known answer":    {func(_ *testing.T, c *Config) { c.HSM.KnownAnswerFile = "/nonexistent/answer" }, []string{"hsm.known_answer_file", "key ceremony"}, exitConfig},
		"wrong known answer": {spoilKnownAnswer, []string{"does not give the answer", "key ceremony"}, exitFailure},
		"not a known answer": {func(t *testing.T, c *Config) { c.HSM.KnownAnswerFile = writeFile(t, "answer", "x") }, []string{"hsm.known_answer_file"}, exitConfig},
		"no certificate":     {func(_ *testing.T, c *Config) { c.API.Certificate = "/nonexistent/crt" }, []string{"api.certificate", "/nonexistent/crt"}, exitConfig},
		"another's key":      {func(_ *testing.T, c *Config) { c.API.Key = strings.Replace(c.API.Key, "server", "branch", 1) }, []string{"api.certificate", "its own key"}, exitConfig},
		"CA is no PEM":       {func(t *testing.T, c *Config) { c.API.ClientCA = writeFile(t, "ca.crt", "x") }, []string{"api.client_ca", "no PEM certificate"}, exitConfig},
		"API port in use":    {func(_ *testing.T, c *Config) { c.API.Listen = taken.Addr().String() }, []string{"api.listen", "is in use", "choose another port"}, exitFailure},
		"ops port in use":    {func(_ *testing.T, c *Config) { c.Operator.Listen = taken.Addr().String() }, []string{"operator.listen", "is in use"}, exitFailure},
		"another's address":  {func(_ *testing.T, c *Config) { c.API.Listen = "192.0.2.1:8443" }, []string{"api.listen", "address of this machine"}, exitFailure},
		"no database":        {func(_ *testing.T, c *Config) { c.Store.Badger.Dir += "r" }, []string{"store.badger.dir", "badgerr holds no database: mount its disk, or start once with --new-database"}, exitConfig},
		"empty database":     {func(t *testing.T, c *Config) { c.Store.Badger.Dir = privateDir(t) }, []string{"store.badger.dir", "holds no database"}, exitConfig},
		"corrupt database":   {spoilDatabase, []string{"database is damaged"}, exitDamaged},
		"full disk":          {func(_ *testing.T, c *Config) { c.Store.Badger.Reserve = 1 << 60 }, []string{"free space"}, exitFailure},
		"open database": {func(t *testing.T, c *Config) {
			c.Store.Badger.Dir = t.TempDir()
			require.NoError(t, os.Chmod(c.Store.Badger.Dir, 0o750))
		}, []string{"store.badger.dir", "chmod 700"}, exitConfig},
		"open key": {func(t *testing.T, c *Config) {
			key, err := os.ReadFile(c.API.Key)
			require.NoError(t, err)
			c.API.Key = writeFile(t, "server.key", string(key))
			require.NoError(t, os.Chmod(c.API.Key, 0o604))
		}, []string{"api.key", "chmod 600"}, exitConfig},
	} {
		t.Run(name, func(t *testing.T) {
			spoilt := d.config
			spoilt.Store.Badger = new(*d.config.Store.Badger)
			c.spoil(t, &spoilt)
			stdout, stderr := d.serve(t, spoilt, c.status)
			requireOneLine(t, stderr, c.says...)
			require.NotContains(t, stdout+stderr, "271828", "the PIN is shown")
			require.NotContains(t, stdout, `"msg":"ready"`)
		})
	}
}

func privateDir(t *testing.T) string {
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, privateFolder))
	return dir
}

// A database is made when that is asked for, and only then; asking for one that is there is a mistake too.
func TestServeMakesADatabaseOnceWhenAsked(t *testing.T) {
	d := deploy(t)
	_, stderr := runFailing(t, exitConfig, nil, "serve", "--new-database", "--config", writeConfig(t, d.config))
	requireOneLine(t, stderr, "holds a database already", "without --new-database")
	unwritable := d.config
	unwritable.Store.Badger = &BadgerConfig{Dir: "/sys/kernel/badger"}
	_, stderr = runFailing(t, exitFailure, nil, "serve", "--new-database", "--config", writeConfig(t, unwritable))
	requireOneLine(t, stderr, "/sys/kernel/badger", "cannot be written")

	d.config.Store.Badger.Dir = privateDir(t)
	for _, args := range [][]string{{"--new-database"}, {}} {
		d.launch(append([]string{"serve", "--config", writeConfig(t, d.config)}, args...)...)
		d.waitReady()
		require.NoError(t, d.terminate())
	}
}

// The database of a development set-up is made once: one that is lost is not replaced by an empty one. A first start
// that failed is tried again.
func TestDevRunDoesNotReplaceALostDatabase(t *testing.T) {
	s := newService(t)
	taken, err := net.Listen("tcp", s.api)
	require.NoError(t, err)
	env := []string{devDirEnv + "=" + s.dir, apiEnv + "=" + s.api, opsEnv + "=" + s.ops}
	stdout, stderr := runFailing(t, exitFailure, env, "dev", "run")
	requireOneLine(t, stderr, s.api+" is in use", "("+apiEnv+"=127.0.0.1:18443 make run)")
	require.NotContains(t, stdout, "documentation")
	require.NoError(t, taken.Close())
	s.start()
	require.NoError(t, s.terminate())

	require.NoError(t, os.RemoveAll(filepath.Join(s.dir, "badger")))
	_, stderr = runFailing(t, exitConfig, env, "dev", "run")
	requireOneLine(t, stderr, "holds no database")
}

func TestServeSaysInOneLineWhatIsWrongWithItsConfiguration(t *testing.T) {
	_, stderr := runFailing(t, exitConfig, nil, "serve", "--config", writeFile(t, "ramzban.yaml", "nod: a\n"))
	requireOneLine(t, stderr, "line 1", "unknown field")
	_, stderr = runFailing(t, exitConfig, nil, "serve", "--config", "/nonexistent/ramzban.yaml")
	requireOneLine(t, stderr, "/nonexistent/ramzban.yaml", "--config")
}

func openPIN(t *testing.T, c *Config) {
	c.HSM.PINFile = writeFile(t, "pin", "271828")
	require.NoError(t, os.Chmod(c.HSM.PINFile, 0o644))
}

func spoilKnownAnswer(t *testing.T, c *Config) {
	b, err := os.ReadFile(c.HSM.KnownAnswerFile)
	require.NoError(t, err)
	var answers []hsm.KnownAnswer
	require.NoError(t, json.Unmarshal(b, &answers))
	answers[0].Check[0] ^= 1
	b, err = json.Marshal(answers)
	require.NoError(t, err)
	c.HSM.KnownAnswerFile = writeFile(t, "answer.json", string(b))
}

// spoilDatabase copies the database and damages the copy.
func spoilDatabase(t *testing.T, c *Config) {
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(dir, "badger"), os.DirFS(c.Store.Badger.Dir)))
	c.Store.Badger.Dir = filepath.Join(dir, "badger")
	require.NoError(t, os.Chmod(c.Store.Badger.Dir, 0o700))
	manifest := filepath.Join(c.Store.Badger.Dir, "MANIFEST")
	b, err := os.ReadFile(manifest)
	require.NoError(t, err)
	b[len(b)/2] ^= 0x40
	require.NoError(t, os.WriteFile(manifest, b, 0o600))
}

func TestServeFindsItsDatabaseInUse(t *testing.T) {
	s := startService(t)
	c, err := LoadConfig(filepath.Join(s.dir, "ramzban.yaml"))
	require.NoError(t, err)
	c.API.Listen, c.Operator.Listen = freeAddress(t), freeAddress(t)
	_, stderr := (&deployment{service: s}).serve(t, c, exitFailure)
	requireOneLine(t, stderr, "in use by another process")
}

// The keys of the token are spoilt with another vendor's tool.
func TestServeRefusesWrongOrMissingKeys(t *testing.T) {
	d := deploy(t)
	d.pkcs11Tool(t, "--delete-object", "--type", "secrkey", "--label", "ramzban/seal/1")
	_, stderr := d.serve(t, d.config, exitFailure)
	requireOneLine(t, stderr, "ramzban/seal")

	d.pkcs11Tool(t, "--keygen", "--key-type", "GENERIC:64", "--label", "ramzban/seal/1", "--sensitive")
	_, stderr = d.serve(t, d.config, exitFailure)
	requireOneLine(t, stderr, "ramzban/seal/1")
	_, stdout := d.serve(t, d.config, exitFailure)
	require.NotContains(t, stdout, "ready")
}

func (d *deployment) pkcs11Tool(t *testing.T, args ...string) {
	t.Helper()
	pin, err := os.ReadFile(d.config.HSM.PINFile)
	require.NoError(t, err)
	tool := exec.Command("pkcs11-tool", append([]string{"--module", d.config.HSM.Module, "--token-label", d.config.HSM.TokenLabel,
		"--login", "--pin", "env:TEST_PIN"}, args...)...)
	tool.Env = append(os.Environ(), "TEST_PIN="+string(pin), "SOFTHSM2_CONF="+d.config.HSM.Environment["SOFTHSM2_CONF"])
	out, err := tool.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func TestDevRunSaysWhatIsMissing(t *testing.T) {
	env := []string{devDirEnv + "=" + t.TempDir(), apiEnv + "=" + freeAddress(t), opsEnv + "=" + freeAddress(t)}
	_, stderr := runFailing(t, exitFailure, append(env, "RAMZBAN_PKCS11_MODULE=/nonexistent/module.so"), "dev", "run")
	requireOneLine(t, stderr, "RAMZBAN_PKCS11_MODULE", "/nonexistent/module.so")
	_, stderr = runFailing(t, exitFailure, append(env, apiEnv+"=nowhere"), "dev", "run")
	requireOneLine(t, stderr, apiEnv)
}

// A second run keeps what the first one made.
func TestDevRunKeepsItsState(t *testing.T) {
	s := startService(t)
	c, err := s.enrol(t.Context(), "counter-6", testCard(1))
	require.NoError(t, err)
	password := c.password(t)
	answer, err := s.verify(t.Context(), c.serial, password)
	require.NoError(t, err)
	require.Equal(t, "accepted", answer.Result)
	require.NoError(t, s.terminate())
	before := readAll(t, s.pki(""))

	s.start()
	require.Equal(t, before, readAll(t, s.pki("")))
	answer, err = s.verify(t.Context(), c.serial, password)
	require.NoError(t, err)
	require.Equal(t, "already_used", answer.Reason)
	answer, err = s.verify(t.Context(), c.serial, c.password(t))
	require.NoError(t, err)
	require.Equal(t, "accepted", answer.Result)
	require.NoError(t, s.terminate())
	errors, err := os.ReadFile(filepath.Join(s.dir, "err.log"))
	require.NoError(t, err)
	require.Empty(t, string(errors))
}

// `ramzban serve` with the configuration that `dev run` wrote, the PIN in the environment, and the operator listener over TLS.
func TestServeWithPINVariableAndOperatorTLS(t *testing.T) {
	d := deploy(t)
	pin, err := os.ReadFile(d.config.HSM.PINFile)
	require.NoError(t, err)
	t.Setenv("BANK_HSM_PIN", string(pin))
	d.config.HSM.PINFile, d.config.HSM.PINEnv, d.config.Operator.TLS = "/nonexistent", "BANK_HSM_PIN", true
	d.launch("serve", "--config", writeConfig(t, d.config))
	ask := func(name string) int {
		answer, err := dev{dir: d.dir, api: d.ops}.ask(t.Context(), question{as: name, method: http.MethodGet, path: "/readyz"})
		if err != nil {
			return 0
		}
		return answer.status
	}
	require.Eventually(t, func() bool { return ask("operator") == http.StatusOK }, startLimit, 10*time.Millisecond, "%s", d.output())
	require.Equal(t, http.StatusForbidden, ask("core-banking"))
	_, err = d.enrol(t.Context(), "offline-60", testCard(1))
	require.NoError(t, err)

	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", d.cmd.Process.Pid))
	require.NoError(t, err)
	require.Regexp(t, `Max core file size\s+0\s+0\s`, string(limits))
	require.NoError(t, d.terminate())
	out, err := os.ReadFile(filepath.Join(d.dir, "out.log"))
	require.NoError(t, err)
	require.NotContains(t, string(out), string(pin))
}

// A hung HSM module cannot be closed; the process must end nevertheless, and say why.
func TestHungHSMEndsTheService(t *testing.T) {
	d := deploy(t)
	log, err := newLog(d.config.Log, io.Discard)
	require.NoError(t, err)
	d.config.Timeouts.Comparison = seconds(7)
	d.config.Limits = LimitsConfig{RequestsPerSecond: 1, RequestsAtOnce: 2, DenialsPerSecond: 3, DenialsAtOnce: 4, FailedSubjectsPerHour: 5, RenewalsPerSecond: 6}
	n := newNode(d.config, log)
	require.NoError(t, n.start(t.Context()))
	t.Cleanup(func() { _ = n.stop(nil) })
	require.Equal(t, 7*time.Second, n.api.ComparisonTimeout)
	require.Equal(t, []api.Rate{{PerSecond: 1, Burst: 2}, {PerSecond: 3, Burst: 4}}, []api.Rate{n.api.Requests, n.api.Denials})
	require.Equal(t, 5, n.api.Service.(*keyservice.Service).FailedSubjects)
	n.fatal <- errors.New("a call has not returned")
	require.ErrorContains(t, n.run(t.Context()), "the HSM hangs: a call has not returned: look at the HSM")
}

// A listener that ends without a reason ends the service all the same, with a line that can be read.
func TestAListenerThatEndsIsNamed(t *testing.T) {
	for _, err := range []error{nil, net.ErrClosed} {
		require.Regexp(t, `^a listener failed: (it takes no more|use of closed)[^%]*: start the service again$`, listenerEnded(err))
	}
}

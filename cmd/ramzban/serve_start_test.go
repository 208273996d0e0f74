package main

import (
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fault "ramzban/softhsm/faultmodule"
)

// hang puts the fault module before the deployment's HSM and lets its login hang, until it is told otherwise.
func (d *deployment) hang(t *testing.T) *fault.Control {
	faults, err := fault.New(t.TempDir(), d.config.HSM.Module)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, faults.Close()) })
	d.config.HSM.Module = faults.Module()
	faults.Delay(time.Hour, fault.Login)
	return faults
}

func (d *deployment) launchHanging(t *testing.T, faults *fault.Control) {
	d.launch("serve", "--config", writeConfig(t, d.config))
	require.Eventually(t, func() bool { return faults.Calls(fault.Login) > 0 }, startLimit, 5*time.Millisecond, "%s", d.output())
}

// A connection before the service can answer would hang. Systemd is told when it can.
func TestNobodyIsLetInBeforeTheServiceCanAnswer(t *testing.T) {
	d := deploy(t)
	address := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"}
	systemd, err := net.ListenUnixgram("unixgram", address)
	require.NoError(t, err)
	defer func() { _ = systemd.Close() }()
	t.Setenv("NOTIFY_SOCKET", address.Name)
	faults := d.hang(t)
	d.launchHanging(t, faults)
	for _, listen := range []string{d.api, d.ops} {
		_, err := net.Dial("tcp", listen)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	}
	faults.Delay(0, fault.Login)

	require.NoError(t, systemd.SetReadDeadline(time.Now().Add(startLimit)))
	message := make([]byte, 100)
	n, err := systemd.Read(message)
	require.NoError(t, err, "%s", d.output())
	require.Equal(t, "READY=1", string(message[:n]))
	status, err := get(t.Context(), "http://"+d.ops+"/readyz")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	_, err = d.as("branch").Time(t.Context())
	require.NoError(t, err)
	require.NoError(t, d.terminate())
}

func TestServeEndsWhenSystemdCannotBeTold(t *testing.T) {
	d := deploy(t)
	t.Setenv("NOTIFY_SOCKET", "/nonexistent/notify")
	_, stderr := d.serve(t, d.config, exitFailure)
	requireOneLine(t, stderr, "telling systemd", "/nonexistent/notify")
}

// A module that hangs at the start does not keep SIGTERM from ending it.
func TestSIGTERMEndsAHangingStart(t *testing.T) {
	d := deploy(t)
	d.launchHanging(t, d.hang(t))
	d.endStart(t)
}

// Nor does what cannot be interrupted at all: here a file that never ends.
func TestSIGTERMEndsAStartThatCannotBeInterrupted(t *testing.T) {
	d := deploy(t)
	d.config.HSM.KnownAnswerFile = filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(d.config.HSM.KnownAnswerFile, 0o600))
	d.launch("serve", "--config", writeConfig(t, d.config))
	writer, err := os.OpenFile(d.config.HSM.KnownAnswerFile, os.O_WRONLY, 0) // waits for the reader
	require.NoError(t, err)
	defer func() { _ = writer.Close() }()
	d.endStart(t)
}

// endStart sends SIGTERM to a service that is not ready. It must end in time, in order, and with one line.
func (d *deployment) endStart(t *testing.T) {
	t.Helper()
	began := time.Now()
	require.NoError(t, d.terminate(), "%s", d.output())
	require.Less(t, time.Since(began), stopStarting+10*time.Second)
	out, err := os.ReadFile(filepath.Join(d.dir, "out.log"))
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Contains(t, lines[len(lines)-1], "stopped before the service was ready")
	errors, err := os.ReadFile(filepath.Join(d.dir, "err.log"))
	require.NoError(t, err)
	require.Empty(t, string(errors))
}

// Whoever starts the service, with whatever umask: nobody else may read what it writes.
func TestTheDatabaseIsPrivate(t *testing.T) {
	before := syscall.Umask(0)
	defer syscall.Umask(before)
	s := startService(t)
	_, err := s.enrol(t.Context(), "counter-6", testCard(1))
	require.NoError(t, err)
	files := 0
	require.NoError(t, filepath.WalkDir(filepath.Join(s.dir, "badger"), func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		require.Zero(t, info.Mode().Perm()&0o077, "%s: %s", path, info.Mode())
		files++
		return nil
	}))
	require.Greater(t, files, 3)
	require.NoError(t, s.terminate())
}

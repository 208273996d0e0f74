package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"ramzban/keyservice/store/pgstore/pgtest"
)

// ramzban is the real binary, built once for all tests.
var ramzban string

func TestMain(m *testing.M) {
	if mode := os.Getenv(helperEnv); mode != "" {
		os.Exit(runHelper(mode))
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ramzban-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ramzban = filepath.Join(dir, "ramzban")
	if out, err := exec.Command("go", "build", "-o", ramzban, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the binary: %v\n%s", err, out)
		return 1
	}
	return pgtest.Run(m)
}

// longTests says whether the slow suites run in their long form.
func longTests() bool { return os.Getenv("RAMZBAN_TEST_LONG") == "1" }

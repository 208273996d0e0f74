// Package faultmodule makes an HSM misbehave: it builds a PKCS#11 module (C) that forwards to another one, and steers it
// while it runs: latency, error codes, lost sessions, handles and logins, a removed device. It counts the calls, and
// what applications must not do (two threads in one session, finalising under running calls).
//
// For tests and trials only. It must not know what the wrapped module is, nor any PKCS#11 library of Go: CKR codes are
// plain numbers here.
package faultmodule

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

//go:embed module
var sources embed.FS

// ErrNoCompiler says that there is no C compiler to build the module with.
var ErrNoCompiler = errors.New("no C compiler found: install gcc (Debian: apt-get install gcc; Fedora: dnf install gcc; " +
	"macOS: xcode-select --install) or name one in CC")

// Build compiles the module into dir, which is made if need be, and returns its path. The file's name carries the hash
// of the sources: what was built before is used again.
func Build(dir string) (string, error) {
	names, err := fs.Glob(sources, "module/*")
	if err != nil {
		return "", fmt.Errorf("list the fault module's sources: %w", err)
	}
	sum := sha256.New()
	files := map[string][]byte{}
	for _, name := range names {
		if files[name], err = sources.ReadFile(name); err != nil {
			return "", fmt.Errorf("read the fault module's sources: %w", err)
		}
		fmt.Fprintf(sum, "%s %d\n%s", name, len(files[name]), files[name])
	}
	path := filepath.Join(dir, "faultmodule-"+hex.EncodeToString(sum.Sum(nil)[:8])+".so")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, compile(dir, path, files)
}

// compile works in a folder of its own and renames the result, so that builders in other processes do no harm.
func compile(dir, path string, files map[string][]byte) error {
	compiler, err := findCompiler()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("build the fault module: %w", err)
	}
	work, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return fmt.Errorf("build the fault module: %w", err)
	}
	defer os.RemoveAll(work)
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(work, filepath.Base(name)), text, 0o600); err != nil {
			return fmt.Errorf("build the fault module: %w", err)
		}
	}
	cc := exec.Command(compiler, "-O2", "-shared", "-fPIC", "-pthread", "-fvisibility=hidden",
		"-o", "faultmodule.so", "faultmodule.c", "-ldl")
	cc.Dir = work
	if out, err := cc.CombinedOutput(); err != nil {
		return fmt.Errorf("build the fault module with %s: %w\n%s", compiler, err, out)
	}
	if err := os.Rename(filepath.Join(work, "faultmodule.so"), path); err != nil {
		return fmt.Errorf("build the fault module: %w", err)
	}
	return nil
}

func findCompiler() (string, error) {
	for _, name := range []string{os.Getenv("CC"), "cc", "gcc", "clang"} {
		if name == "" {
			continue
		}
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", ErrNoCompiler
}

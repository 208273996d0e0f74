package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// The environment variables that may hold what must not stand in a command line, where every user of the host sees it.
const (
	subjectEnv = "RAMZBAN_SUBJECT"
	codeEnv    = "RAMZBAN_ACTIVATION_CODE"
	pinEnv     = "RAMZBAN_DEVICE_PIN"
	payeeEnv   = "RAMZBAN_DEVICE_PAYEE"
)

// secretReader takes each secret from the environment, else from the next line of standard input.
type secretReader struct {
	lines  *bufio.Scanner
	prompt io.Writer
}

// secretsOf reads for a command; a person at a terminal is asked.
func secretsOf(c *cobra.Command) secretReader {
	prompt := c.ErrOrStderr()
	if !isTerminal(c.InOrStdin()) {
		prompt = io.Discard
	}
	return newSecretReader(c.InOrStdin(), prompt)
}

func newSecretReader(in io.Reader, prompt io.Writer) secretReader {
	return secretReader{lines: bufio.NewScanner(io.LimitReader(in, 4096)), prompt: prompt}
}

func (r secretReader) read(env, name string) (string, error) {
	if v, set := os.LookupEnv(env); set {
		return strings.TrimSpace(v), nil
	}
	if _, err := fmt.Fprintf(r.prompt, "%s: ", name); err != nil {
		return "", err
	}
	if !r.lines.Scan() {
		return "", fmt.Errorf("no %s given: type it, or set %s", name, env)
	}
	return strings.TrimSpace(r.lines.Text()), nil
}

// isTerminal says whether a person types what is read.
func isTerminal(in io.Reader) bool {
	f, ok := in.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

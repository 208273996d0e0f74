package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"ramzban/keyservice/seed"
)

// Duration is written with its unit: 60s, 2m, 720h.
type Duration time.Duration

// UnmarshalYAML reads a duration.
func (d *Duration) UnmarshalYAML(n ast.Node) error {
	v, err := time.ParseDuration(scalar(n))
	if err != nil {
		return badValue(n, "a duration with its unit, such as 60s")
	}
	*d = Duration(v)
	return nil
}

// MarshalYAML writes what UnmarshalYAML reads: whole seconds where they are.
func (d Duration) MarshalYAML() ([]byte, error) { return []byte(d.String()), nil }

// String returns the duration with its unit.
func (d Duration) String() string {
	if t := time.Duration(d); t%time.Second != 0 {
		return t.String()
	}
	return fmt.Sprintf("%ds", int64(time.Duration(d)/time.Second))
}

// Size is a number of bytes, written with its unit: 512MiB.
type Size uint64

var sizeUnits = []struct {
	name  string
	bytes uint64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}}

// UnmarshalYAML reads a size.
func (s *Size) UnmarshalYAML(n ast.Node) error {
	text := scalar(n)
	for _, u := range sizeUnits {
		number, found := strings.CutSuffix(text, u.name)
		if !found {
			continue
		}
		if v, err := strconv.ParseUint(strings.TrimSpace(number), 10, 22); err == nil {
			*s = Size(v * u.bytes)
			return nil
		}
	}
	return badValue(n, "a size with its unit (KiB, MiB, GiB, TiB), such as 512MiB")
}

// MarshalYAML writes what UnmarshalYAML reads.
func (s Size) MarshalYAML() ([]byte, error) { return []byte(s.String()), nil }

// String returns the size in the largest unit that divides it.
func (s Size) String() string {
	u := sizeUnits[0]
	for _, larger := range sizeUnits[1:] {
		if uint64(s)%larger.bytes == 0 {
			u = larger
		}
	}
	return fmt.Sprintf("%d%s", uint64(s)/u.bytes, u.name)
}

// HashName is a seed.Hash written by its name.
type HashName seed.Hash

// UnmarshalYAML reads a hash's name.
func (h *HashName) UnmarshalYAML(n ast.Node) error {
	v, err := seed.ParseHash(scalar(n))
	if err != nil {
		return badValue(n, "SHA1, SHA256 or SHA512")
	}
	*h = HashName(v)
	return nil
}

// MarshalYAML writes the name.
func (h HashName) MarshalYAML() ([]byte, error) { return []byte(seed.Hash(h).String()), nil }

func scalar(n ast.Node) string {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value
	case *ast.IntegerNode:
		return n.Token.Value
	}
	return ""
}

// badValue names the place, never the value: what stands in the wrong place may be a secret.
func badValue(n ast.Node, want string) error {
	return &lineError{line: n.GetToken().Position.Line, what: "the value must be " + want}
}

// lineError is a mistake at a line of the configuration file.
type lineError struct {
	line int
	what string
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.what) }

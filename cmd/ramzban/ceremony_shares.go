package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
)

// shareTries is how often a custodian at a terminal may type a component: nobody types 128 digits blindly without a slip.
const shareTries = 3

// maxShareLine is more than a component with spaces between its bytes takes.
const maxShareLine = 1024

// shares takes the components from the custodians, one line each in the order of the plan: unseen at a terminal, else from
// standard input. They never stand in an argument or the environment, and every buffer that held one is wiped.
type shares struct {
	in  io.Reader
	out io.Writer // prompts and key check values
}

// take asks for the components of every key and puts the keys together.
func (s shares) take(ctx context.Context, p Plan) (map[seed.KeyRef][]byte, error) {
	values := map[seed.KeyRef][]byte{}
	for _, k := range p.keys() {
		if k.Origin != hsm.Components {
			continue
		}
		value, err := s.takeKey(ctx, k, p.componentsOf(k.Key))
		if err != nil {
			for _, v := range values {
				clear(v)
			}
			return nil, err
		}
		values[k.Key] = value
	}
	return values, nil
}

func (s shares) takeKey(ctx context.Context, k hsm.PlannedKey, of []PlanComponent) ([]byte, error) {
	var typed [][]byte
	for i, c := range of {
		share, err := s.takeShare(ctx, k, c, fmt.Sprintf("%s, component %d of %d", k.Key, i+1, len(of)))
		if err != nil {
			for _, t := range typed {
				clear(t)
			}
			return nil, err
		}
		typed = append(typed, share)
	}
	value, err := hsm.Combine(k, typed) // wipes them
	if err == nil {
		_, err = fmt.Fprintf(s.out, "%s: key check value %X, as planned\n", k.Key, k.KCV)
	}
	return value, err
}

// takeShare reads one component and shows its custodian the key check value.
func (s shares) takeShare(ctx context.Context, k hsm.PlannedKey, c PlanComponent, which string) ([]byte, error) {
	tries := 1
	if _, ok := typedAt(s.in); ok {
		tries = shareTries
	}
	for try := 1; ; try++ {
		share, err := s.read(ctx, which+": "+c.Custodian+" types it (not shown): ")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", which, err)
		}
		kcv, err := hsm.ShareKCV(k.Key.Label, share)
		switch {
		case err == nil && bytes.Equal(kcv, c.KCV):
			_, err = fmt.Fprintf(s.out, "%s: key check value %X, as planned for %s\n", which, kcv, c.Custodian)
			return share, err
		case err == nil:
			err = fmt.Errorf("%w: what %s typed has key check value %X, not %s as planned", hsm.ErrRefused, c.Custodian, kcv, c.KCV)
		}
		clear(share)
		if try == tries {
			return nil, fmt.Errorf("%s: %w", which, err)
		}
		if _, err := fmt.Fprintf(s.out, "%v: once more\n", err); err != nil {
			return nil, err
		}
	}
}

// read reads one line of hex digits; spaces and hyphens between them do not count.
func (s shares) read(ctx context.Context, prompt string) ([]byte, error) {
	line, err := s.line(ctx, prompt)
	defer clear(line[:cap(line)])
	if err != nil {
		return nil, err
	}
	digits := line[:0]
	for _, b := range line {
		if b != ' ' && b != '-' && b != '\r' {
			digits = append(digits, b)
		}
	}
	share := make([]byte, hex.DecodedLen(len(digits)))
	if _, err := hex.Decode(share, digits); err != nil {
		clear(share)
		return nil, fmt.Errorf("%w: a component is typed as hex digits", hsm.ErrRefused) // err would show a digit
	}
	return share, nil
}

func (s shares) line(ctx context.Context, prompt string) ([]byte, error) {
	if f, ok := typedAt(s.in); ok {
		line, err := readHidden(ctx, f, func() error { _, err := fmt.Fprint(s.out, prompt); return err })
		_, werr := fmt.Fprintln(s.out)
		return line, errors.Join(err, werr)
	}
	return readLine(s.in)
}

// readLine reads to the end of the line, byte by byte, so that no other buffer holds what follows or what was read.
func readLine(in io.Reader) ([]byte, error) {
	line := make([]byte, 0, maxShareLine)
	var one [1]byte
	defer clear(one[:])
	for {
		n, err := in.Read(one[:])
		switch {
		case n == 1 && one[0] == '\n':
			return line, nil
		case n == 1 && len(line) == maxShareLine:
			return line, fmt.Errorf("%w: the line is too long for a component", hsm.ErrRefused)
		case n == 1:
			line = append(line, one[0])
		case errors.Is(err, io.EOF) && len(line) > 0:
			return line, nil
		case err != nil:
			return line, fmt.Errorf("%w: no component given: %w: one line for each is expected, in the order of the plan", hsm.ErrRefused, err)
		}
	}
}

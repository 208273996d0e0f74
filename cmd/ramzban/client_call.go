package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"ramzban/api/client"
	"ramzban/api/wire"
)

// openClient makes the API's client from a command's flags.
func openClient(o client.Options) (*client.Client, error) {
	c, err := client.New(o)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: run this in Ramzban's folder, or name the file with --ca/--cert/--key", err)
	}
	return c, err
}

// explainCall adds to the error of a call what its caller can do: where the request is wrong, or what may be missing.
func explainCall(err error) error {
	var p *wire.Problem
	switch {
	case errors.As(err, &p) && len(p.Errors) > 0:
		return fmt.Errorf("%w: %s", err, strings.Join(p.Errors, "; "))
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: is the service running there, and is --url right?", err)
	}
	return err
}

var errSerial = errors.New("a serial is 12 digits with a check digit: one of them is mistyped")

// checkSerial finds a mistyped serial: the last of its digits is the Luhn check digit of the others (ISO/IEC 7812-1
// annex B).
func checkSerial(serial string) error {
	if len(serial) != 12 {
		return errSerial
	}
	sum := 0
	for i, c := range []byte(serial) {
		d := int(c) - '0'
		if d < 0 || d > 9 {
			return errSerial
		}
		if i%2 == 0 { // doubled, and the digits of the result added up
			d = 2*d/10 + 2*d%10
		}
		sum += d
	}
	if sum%10 != 0 {
		return errSerial
	}
	return nil
}

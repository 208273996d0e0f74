package failover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"ramzban/hsm"
	"ramzban/keyservice/store/pgstore/hatest"
	"ramzban/softhsm"
)

// What all tests have in common: PKCS#11 initialises once per process, and a set takes a while to start.
var (
	theHSM *hsm.HSM
	theSet *hatest.Set
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if err := hatest.Isolate(); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "failover")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	token, err := softhsm.Provision(context.Background(), dir)
	if err != nil {
		return 1, err
	}
	if theHSM, err = hsm.Open(context.Background(), token.Config()); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, theHSM.Close()) }()
	if theSet, err = hatest.Start(); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, theSet.Stop()) }()
	return m.Run(), nil
}

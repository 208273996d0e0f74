package main

import (
	"bufio"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"ramzban/hsm"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
	"ramzban/softhsm"
)

// helperEnv makes the test binary one of its own helper processes instead.
const helperEnv = "RAMZBAN_TEST_HELPER"

func runHelper(mode string) int {
	helpers := map[string]func() error{"scan": runScan, "module": runModule, "cut": runCut}
	run, known := helpers[mode]
	if !known {
		fmt.Fprintf(os.Stderr, "no helper is named %q\n", mode)
		return 2
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// moduleRequest is what the "module" helper is to do with the HSM, without a service around it.
type moduleRequest struct {
	Dir       string // for its SoftHSM token
	PublicKey []byte // of the device the seeds are wrapped to; DER
	Seeds     int
}

// runModule makes seeds and uses them through package hsm alone, prints them wrapped to the device, and then stays until
// its input ends, so that its memory can be looked at.
func runModule() error {
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var q moduleRequest
	if err := json.Unmarshal(line, &q); err != nil {
		return err
	}
	key, err := x509.ParsePKIXPublicKey(q.PublicKey)
	if err != nil {
		return err
	}
	device, ok := key.(*rsa.PublicKey)
	if !ok {
		return errors.New("not an RSA key")
	}
	token, err := softhsm.Provision(context.Background(), q.Dir)
	if err != nil {
		return err
	}
	h, err := hsm.Open(context.Background(), token.Config())
	if err != nil {
		return err
	}
	var wrapped [][]byte
	for i := range q.Seeds {
		e, err := makeAndUse(h, device, i)
		if err != nil {
			return err
		}
		wrapped = append(wrapped, e.ForDevice)
	}
	if err := json.NewEncoder(os.Stdout).Encode(wrapped); err != nil {
		return err
	}
	_, _ = in.ReadByte() // until the parent has looked
	return h.Close()
}

func makeAndUse(h *hsm.HSM, device *rsa.PublicKey, i int) (seed.Enrolled, error) {
	e, err := h.Enrol(context.Background(), seed.Derivation{Context: fmt.Appendf(nil, "seed %d", i), Hash: seed.SHA1}, device)
	if err != nil {
		return e, err
	}
	return e, h.UseSeed(context.Background(), e.ForStore, seed.SHA1, func(mac seed.MAC) error {
		_, err := mac(otp.Message(uint64(i)))
		return err
	})
}

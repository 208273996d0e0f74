package otp_test

import (
	"crypto/sha1" //nolint:gosec // PSHA1 of the vectors
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

func TestRFC6287AppendixC(t *testing.T) {
	pin := sha1.Sum([]byte("1234"))
	for _, v := range vectors(t, "rfc6287-appendix-c.txt") {
		suite, err := otp.ParseSuite(v[0])
		require.NoError(t, err, v[0])
		require.Equal(t, v[0], suite.String())
		in := otp.Input{Question: v[2]}
		if v[1] != "-" {
			in.Counter, err = strconv.ParseUint(v[1], 10, 64)
			require.NoError(t, err)
		}
		if v[3] != "-" {
			in.Step, err = strconv.ParseUint(v[3], 16, 64)
			require.NoError(t, err)
		}
		if suite.PIN != 0 {
			in.PIN = pin[:]
		}
		message, err := suite.Message(in)
		require.NoError(t, err)
		key := []byte(strings.Repeat("1234567890", 7)[:map[seed.Hash]int{seed.SHA1: 20, seed.SHA256: 32, seed.SHA512: 64}[suite.Hash]])
		got, err := otp.Truncate(mac(suite.Hash, key, message), suite.Digits)
		require.NoError(t, err)
		require.Equal(t, v[4], got.Reveal(), "%v", v)
	}
}

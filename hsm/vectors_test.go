package hsm_test

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // PSHA1 of the OCRA vectors
	"encoding/hex"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// The passwords of both RFCs are in the files of package otp, so that arithmetic and HSM are held to the same.
const otpVectors = "../keyservice/otp/testdata/"

func vectors(t *testing.T, path string, fields int) [][]string {
	t.Helper()
	in, err := os.ReadFile(path)
	require.NoError(t, err)
	var rows [][]string
	for line := range strings.Lines(string(in)) {
		if row := strings.Fields(line); len(row) > 0 && row[0] != "#" {
			require.Len(t, row, fields, line)
			rows = append(rows, row)
		}
	}
	require.NotEmpty(t, rows)
	return rows
}

func number(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	require.NoError(t, err)
	return n
}

// rfcSecret is 1234567890 repeated to n bytes.
func rfcSecret(n int) []byte { return bytes.Repeat([]byte("1234567890"), 7)[:n] }

func TestRFC4226AppendixDThroughTheHSM(t *testing.T) {
	h := open(t)
	k := wrapKnown(t, h, seed.SHA1, rfcSecret(20))
	for _, row := range vectors(t, "testdata/rfc4226-appendix-d-macs.txt", 2) {
		sum, err := k.mac(t.Context(), h, otp.Message(number(t, row[0])))
		require.NoError(t, err)
		require.Equal(t, row[1], hex.EncodeToString(sum), "counter %s", row[0])
	}
	for _, row := range vectors(t, otpVectors+"rfc4226-appendix-d.txt", 2) {
		sum, err := k.mac(t.Context(), h, otp.Message(number(t, row[0])))
		require.NoError(t, err)
		password, err := otp.Truncate(sum, 6)
		require.NoError(t, err)
		require.Equal(t, row[1], password.Reveal(), "counter %s", row[0])
	}
}

func TestRFC6238AppendixBThroughTheHSM(t *testing.T) {
	h := open(t)
	secrets := map[string]known{
		"SHA1":   wrapKnown(t, h, seed.SHA1, rfcSecret(20)),
		"SHA256": wrapKnown(t, h, seed.SHA256, rfcSecret(32)),
		"SHA512": wrapKnown(t, h, seed.SHA512, rfcSecret(64)),
	}
	for _, row := range vectors(t, otpVectors+"rfc6238-appendix-b.txt", 3) {
		sum, err := secrets[row[1]].mac(t.Context(), h, otp.Message(number(t, row[0])/30))
		require.NoError(t, err)
		password, err := otp.Truncate(sum, 8)
		require.NoError(t, err)
		require.Equal(t, row[2], password.Reveal(), "%s at %s", row[1], row[0])
	}
}

// One-way challenges, mutual ones and signatures, with counter, PIN and time.
func TestRFC6287AppendixCThroughTheHSM(t *testing.T) {
	h := open(t)
	secrets := map[seed.Hash]known{
		seed.SHA1:   wrapKnown(t, h, seed.SHA1, rfcSecret(20)),
		seed.SHA256: wrapKnown(t, h, seed.SHA256, rfcSecret(32)),
		seed.SHA512: wrapKnown(t, h, seed.SHA512, rfcSecret(64)),
	}
	rows := vectors(t, otpVectors+"rfc6287-appendix-c.txt", 5)
	require.Len(t, rows, 70)
	for _, row := range rows {
		suite, err := otp.ParseSuite(row[0])
		require.NoError(t, err)
		message, err := suite.Message(ocraInput(t, suite, row))
		require.NoError(t, err)
		sum, err := secrets[suite.Hash].mac(t.Context(), h, message)
		require.NoError(t, err)
		response, err := suite.Response(sum)
		require.NoError(t, err)
		require.Equal(t, row[4], response.Reveal(), "%v", row)
	}
}

// ocraInput is the data input of one row: suite, counter, question, time step, response. The PIN is always 1234.
func ocraInput(t *testing.T, suite otp.Suite, row []string) otp.Input {
	t.Helper()
	in := otp.Input{Question: row[2], Mutual: len(row[2]) == 2*suite.Length}
	if suite.Counter {
		in.Counter = number(t, row[1])
	}
	if suite.PIN != 0 {
		require.Equal(t, seed.SHA1, suite.PIN)
		pin := sha1.Sum([]byte("1234"))
		in.PIN = pin[:]
	}
	if suite.TimeStep > 0 {
		step, err := strconv.ParseUint(row[3], 16, 64)
		require.NoError(t, err)
		in.Step = step
	}
	return in
}

// SoftHSM refuses short HMAC keys and pads wrapped keys to 8 bytes; zero bytes leave an HMAC as it is.
func TestSeedsOfAnyLength(t *testing.T) {
	h := open(t)
	for _, hash := range []seed.Hash{seed.SHA1, seed.SHA256, seed.SHA512} {
		for _, length := range []int{10, 16, 20, 21, 32, 33, 64} {
			k := wrapKnown(t, h, hash, bytes.Repeat([]byte{0xA5, 0x01}, length)[:length])
			for _, message := range []string{"", "a message", strings.Repeat("long", 500)} {
				sum, err := k.mac(t.Context(), h, []byte(message))
				require.NoError(t, err)
				require.Equal(t, k.software([]byte(message)), sum, "%s, %d bytes", hash, length)
			}
		}
	}
}

package audit_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/audit/audittest"
)

func aCheckpoint() audit.Checkpoint {
	return audit.Checkpoint{
		Origin: audit.Origin("5d0f6f3c", "node-1"), Tree: tlog.Tree{N: 1843, Hash: tlog.RecordHash([]byte("entry"))},
		Time: time.Date(2026, 11, 22, 10, 0, 0, 7e6, time.UTC),
	}
}

func TestACheckpointReadsBackAsSigned(t *testing.T) {
	s, older, c := audittest.NewSigner(t), audittest.NewSigner(t), aCheckpoint()
	require.Equal(t, "ramzban/5d0f6f3c/node-1\n1843\n"+c.Tree.Hash.String()+"\ntime 2026-11-22T10:00:00.007Z\n", c.Text())
	c.Ring, c.Officers, c.Witness = 7, 2, 1800
	require.True(t, strings.HasSuffix(c.Text(), "Z\nring 7\nofficers 2\nwitness 1800\n"))
	signed, err := c.Sign(context.Background(), s.Sign)
	require.NoError(t, err)
	peeked, err := audit.PeekCheckpoint(signed)
	require.NoError(t, err)
	require.Equal(t, c, peeked)
	got, err := audit.OpenCheckpoint(signed, c.Origin, []audit.PublicKey{older.Public, s.Public, s.Public})
	require.NoError(t, err)
	require.Equal(t, c, got)
	installation, node, err := audit.OriginOf(signed)
	require.NoError(t, err)
	require.Equal(t, []string{"5d0f6f3c", "node-1"}, []string{installation, node})

	_, err = audit.OpenCheckpoint(signed, c.Origin, []audit.PublicKey{older.Public})
	require.ErrorIs(t, err, audit.ErrSignature)
	_, err = audit.OpenCheckpoint(signed, c.Origin, nil)
	require.ErrorIs(t, err, audit.ErrSignature)
	_, err = audit.OpenCheckpoint(signed, audit.Origin("5d0f6f3c", "node-2"), []audit.PublicKey{s.Public})
	require.ErrorIs(t, err, audit.ErrCheckpoint)
}

// No byte of a signed checkpoint can be changed, nor one be left out, unseen.
func TestEveryByteOfACheckpointIsSigned(t *testing.T) {
	s, c := audittest.NewSigner(t), aCheckpoint()
	signed, err := c.Sign(context.Background(), s.Sign)
	require.NoError(t, err)
	for i := range signed {
		for bit := range 8 {
			changed := append([]byte{}, signed...)
			changed[i] ^= 1 << bit
			_, err := audit.OpenCheckpoint(changed, c.Origin, []audit.PublicKey{s.Public})
			require.Error(t, err, "bit %d of byte %d", bit, i)
		}
		_, err := audit.OpenCheckpoint(append(append([]byte{}, signed[:i]...), signed[i+1:]...), c.Origin, []audit.PublicKey{s.Public})
		require.Error(t, err, "byte %d left out", i)
	}
}

// Who knows nothing of notes checks the signature with openssl.
func TestOpenSSLAgrees(t *testing.T) {
	s, c, dir := audittest.NewSigner(t), aCheckpoint(), t.TempDir()
	signed, err := c.Sign(context.Background(), s.Sign)
	require.NoError(t, err)
	text, sigs, found := strings.Cut(string(signed), "\n\n")
	require.True(t, found)
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(strings.TrimPrefix(sigs, "— "+c.Origin+" ")))
	require.NoError(t, err)
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		return path
	}
	key, sig := write("key.pem", s.Public.PEM()), write("sig", raw[4:])
	check := func(text string) error {
		return exec.Command("openssl", "dgst", "-sha256", "-verify", key, "-signature", sig, write("text", []byte(text))).Run()
	}
	require.NoError(t, check(text+"\n"))
	require.Error(t, check(text))

	der := exec.Command("openssl", "pkey", "-pubin", "-in", key, "-outform", "DER")
	spki, err := der.Output()
	require.NoError(t, err)
	sum := sha256.Sum256(spki)
	require.Equal(t, sum[:4], raw[:4], "the key ID of an ECDSA key")
}

func TestWhatIsNoCheckpoint(t *testing.T) {
	good := aCheckpoint().Text()
	_, err := audit.ParseCheckpoint(good)
	require.NoError(t, err)
	for name, text := range map[string]string{
		"empty": "", "no last newline": good[:len(good)-1], "a line more": good + "more\n", "no time": strings.Join(strings.SplitAfter(good, "\n")[:3], ""),
		"size with a zero before it": strings.Replace(good, "1843", "01843", 1), "negative size": strings.Replace(good, "1843", "-1843", 1),
		"size with a sign": strings.Replace(good, "1843", "+1843", 1), "size of hexadecimal": strings.Replace(good, "1843", "0x1843", 1),
		"short root": strings.Replace(good, aCheckpoint().Tree.Hash.String(), "AAAA", 1), "another origin": strings.Replace(good, "ramzban/", "example/", 1),
		"another time zone": strings.Replace(good, "Z", "+00:00", 1), "microseconds": strings.Replace(good, ".007Z", ".007000Z", 1),
		"no ring": good + "ring 0\n", "a ring with a sign": good + "ring +1\n", "lines the other way round": good + "witness 1\nring 1\n",
		"no officers": good + "officers 0\n", "officers before the ring": good + "officers 1\nring 1\n",
		"a line twice": good + "ring 1\nring 1\n", "a negative size at the witness": good + "witness -1\n",
		"carriage return": strings.ReplaceAll(good, "\n", "\r\n"), "bad node": strings.Replace(good, "node-1", "Node 1", 1),
	} {
		_, err := audit.ParseCheckpoint(text)
		require.ErrorIs(t, err, audit.ErrCheckpoint, name)
	}
}

func TestPublicKeysAreReadStrictly(t *testing.T) {
	one, two := audittest.NewSigner(t), audittest.NewSigner(t)
	keys, err := audit.ParsePublicKeys(append(one.Public.PEM(), two.Public.PEM()...))
	require.NoError(t, err)
	require.Equal(t, [][]byte{one.Public.DER(), two.Public.DER()}, [][]byte{keys[0].DER(), keys[1].DER()})
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&other.PublicKey)
	require.NoError(t, err)
	for name, text := range map[string][]byte{
		"nothing": nil, "no PEM": []byte("key"), "something after it": append(one.Public.PEM(), "more"...),
		"a certificate": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one.Public.DER()}),
		"another curve": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
	} {
		_, err := audit.ParsePublicKeys(text)
		require.Error(t, err, name)
	}
}

// What does not verify is not handed out as a checkpoint.
func TestAWrongSignatureIsNoCheckpoint(t *testing.T) {
	s, other := audittest.NewSigner(t), audittest.NewSigner(t)
	_, err := aCheckpoint().Sign(context.Background(), func(ctx context.Context, m []byte) (audit.PublicKey, []byte, error) {
		_, sig, err := other.Sign(ctx, m)
		return s.Public, sig, err
	})
	require.ErrorIs(t, err, audit.ErrSignature)
	outage := errors.New("no answer")
	_, err = aCheckpoint().Sign(context.Background(), func(context.Context, []byte) (audit.PublicKey, []byte, error) {
		return audit.PublicKey{}, nil, outage
	})
	require.ErrorIs(t, err, outage)
	c := aCheckpoint()
	c.Time = c.Time.AddDate(10000, 0, 0)
	_, err = c.Sign(context.Background(), s.Sign)
	require.ErrorIs(t, err, audit.ErrCheckpoint)
}

// Whatever bytes are taken for a checkpoint, reading them ends in one that is written the same, or in an error.
func FuzzParseCheckpoint(f *testing.F) {
	f.Add(aCheckpoint().Text())
	f.Add("")
	f.Add("ramzban/a/b\n0\n\ntime \n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := audit.ParseCheckpoint(text)
		if err == nil {
			require.Equal(t, text, c.Text())
		}
	})
}

// No bytes but those that were signed pass for a signed checkpoint.
func FuzzOpenCheckpoint(f *testing.F) {
	s, c := audittest.NewSigner(f), aCheckpoint()
	signed, err := c.Sign(context.Background(), s.Sign)
	require.NoError(f, err)
	f.Add(signed)
	f.Add([]byte(c.Text() + "\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := audit.OpenCheckpoint(b, c.Origin, []audit.PublicKey{s.Public})
		if err == nil {
			require.Equal(t, c, got)
		}
	})
}

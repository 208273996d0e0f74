package seed_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"ramzban/keyservice/seed"
)

const hidden = "6037991234567893"

// No way of printing, logging or encoding a secret shows it, alone or inside something else.
func TestSecretsRedactThemselves(t *testing.T) {
	type holder struct {
		Subject seed.Subject
		Pointer *seed.Code
		hidden  seed.PIN
	}
	code := seed.NewCode(hidden)
	for _, v := range []any{seed.NewSubject(hidden), code, seed.NewPassword(hidden), seed.NewPIN(hidden), &code, holder{seed.NewSubject(hidden), &code, seed.NewPIN(hidden)}, []seed.PIN{seed.NewPIN(hidden)}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T %v"} {
			require.NotContains(t, fmt.Sprintf(verb, v, v), hidden, verb)
			require.NotContains(t, fmt.Sprintf(verb, v, v), fmt.Sprintf("%x", hidden), verb)
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("m", "v", v)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "v", v)
		require.NotContains(t, log.String(), hidden)
		for name, encode := range map[string]func(any) ([]byte, error){"json": json.Marshal, "cbor": cbor.Marshal, "yaml": yaml.Marshal, "gob": toGob} {
			b, err := encode(v)
			require.NoError(t, err, name)
			require.NotContains(t, string(b), hidden, name)
		}
	}
	require.Equal(t, hidden, code.Reveal())
}

func toGob(v any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}

func TestHashes(t *testing.T) {
	for _, h := range []seed.Hash{seed.SHA1, seed.SHA256, seed.SHA512} {
		parsed, err := seed.ParseHash(h.String())
		require.NoError(t, err)
		require.Equal(t, h, parsed)
		require.GreaterOrEqual(t, h.SeedLength(), h.New()().Size(), "a seed is at least as long as the hash (RFC 4226 section 4, R6)")
		require.Zero(t, h.SeedLength()%8)
	}
	for _, name := range []string{"", "sha1", "SHA-1", "MD5"} {
		_, err := seed.ParseHash(name)
		require.Error(t, err, "%q", name)
	}
}

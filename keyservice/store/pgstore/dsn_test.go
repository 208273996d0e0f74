package pgstore

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestUnknownKeysAreRefused, and not repeated: part of a password that nobody quoted may look like one.
func TestUnknownKeysAreRefused(t *testing.T) {
	for dsn, good := range map[string]bool{
		"hots=127.0.0.1 user=u":                    false,
		"host=/nowhere statement_timeout=1":        false, // it is the configuration's to say
		"host=/nowhere password=a geheim=b":        false,
		"postgres://u@127.0.0.1/d?geheim=b":        false,
		"host=/nowhere replication=database":       false,
		"postgres://u:p@/d?host=/nowhere":          true,
		"host=/nowhere search_path=ours user=u":    true,
		"host=/nowhere options='-c search_path=o'": true,
		"host=/nowhere application_name=x":         true,
		"host=127.0.0.1 sslmode=verify-full sslcertmode=allow connect_timeout=3 target_session_attrs=read-write": true,
	} {
		err := CheckDSN(dsn)
		require.Equal(t, good, err == nil, "%s: %v", dsn, err)
		if !good {
			require.ErrorIs(t, err, ErrOptions)
			require.ErrorContains(t, err, "a key that is not known: correct it")
			require.NotContains(t, err.Error(), "geheim")
			require.ErrorIs(t, openError(t, Options{DSN: dsn}), ErrOptions)
		}
	}
	t.Setenv("PGTZ", "Asia/Tehran")
	t.Setenv("PGAPPNAME", "x")
	require.NoError(t, CheckDSN("host=/nowhere"))
}

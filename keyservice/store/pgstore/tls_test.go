package pgstore

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// TestUnverifiedHostsAreRefused: every host of the DSN must prove itself, unless nobody is between. None of these DSNs
// is connected to.
func TestUnverifiedHostsAreRefused(t *testing.T) {
	for dsn, good := range map[string]bool{
		"host=db.bank.test":                                            false, // prefer
		"host=db.bank.test sslmode=disable":                            false,
		"host=db.bank.test sslmode=allow":                              false,
		"host=db.bank.test sslmode=prefer":                             false,
		"host=db.bank.test sslmode=require":                            false,
		"host=db.bank.test sslmode=verify-ca":                          false,
		"host=db.bank.test sslmode=verify-full":                        true,
		"postgres://u@db.bank.test/d?sslmode=verify-full":              true,
		"postgres://u@db.bank.test/d?sslmode=require":                  false,
		"host=10.0.0.1 sslmode=verify-full":                            true,
		"host=10.0.0.1":                                                false,
		"host=db.bank.test sslmode=require sslrootcert=system":         true, // as libpq: verify-full
		"host=db1.bank.test,db2.bank.test sslmode=verify-full":         true,
		"host=localhost,db2.bank.test":                                 false,
		"host=localhost,127.0.0.1,::1,/run/postgresql sslmode=disable": true,
		"host=/run/postgresql":                                         true,
		"host=@ramzban":                                                false, // no path: a host's name
		"host=127.0.0.2":                                               true,
		"host=localhost.bank.test":                                     false,
	} {
		config, err := pgx.ParseConfig(dsn)
		require.NoError(t, err, dsn)
		err = checkTLS(config)
		require.Equal(t, good, err == nil, "%s: %v", dsn, err)
		if !good {
			require.ErrorIs(t, openError(t, Options{DSN: dsn}), ErrOptions)
			require.ErrorContains(t, err, "sslmode=verify-full")
		}
	}
}

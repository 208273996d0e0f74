package pgstore

import (
	"crypto/tls"
	"fmt"
	"net"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// checkTLS refuses a DSN of which any host could be someone else's: there the password, the rows and every decision would
// be in that host's hands. Encryption alone (sslmode=require) and any certificate of the right authority (verify-ca) do
// not show which host answers. Within this machine there is nobody between.
func checkTLS(c *pgx.ConnConfig) error {
	if err := checkHost(c.Host, c.Port, c.TLSConfig); err != nil {
		return err
	}
	for _, f := range c.Fallbacks { // other hosts, and the same ones without TLS
		if err := checkHost(f.Host, f.Port, f.TLSConfig); err != nil {
			return err
		}
	}
	return nil
}

func checkHost(host string, port uint16, t *tls.Config) error {
	network, _ := pgconn.NetworkAddress(host, port)
	verified := t != nil && !t.InsecureSkipVerify && t.ServerName != ""
	if network == "unix" || isLoopback(host) || verified {
		return nil
	}
	return fmt.Errorf("%w: %s need not prove that it is the database's host: add sslmode=verify-full and sslrootcert=FILE to the DSN", ErrOptions, host)
}

func isLoopback(host string) bool { return host == "localhost" || net.ParseIP(host).IsLoopback() }

package pgstore

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// connectError says in one line, and once, what pgx says of each try, and what to do.
type connectError struct {
	says string
	err  error
}

func (e *connectError) Error() string { return e.says }
func (e *connectError) Unwrap() error { return e.err }

func unconnected(c *pgx.ConnConfig, err error) error {
	says := strings.Join(attempts(err), "; ")
	if advice := adviseConnecting(c, err); advice != "" {
		says += ": " + advice
	}
	return &connectError{fmt.Sprintf("pgstore: failed to connect to database %s as user %s: %s", c.Database, c.User, says), err}
}

// attempts returns what happened at each address. A server without TLS was asked again where it may do without.
func attempts(err error) (said []string) {
	for _, e := range tried(err) {
		line := oneLine(e.Error())
		address, _, _ := strings.Cut(line, "): ")
		if n := len(said); n > 0 && strings.HasPrefix(said[n-1], address) && strings.HasSuffix(said[n-1], "server refused TLS connection") {
			said = said[:n-1]
		}
		if !slices.Contains(said, line) {
			said = append(said, line)
		}
	}
	return said
}

func tried(err error) []error {
	var connecting *pgconn.ConnectError
	if errors.As(err, &connecting) {
		err = connecting.Unwrap()
	}
	if all, several := err.(interface{ Unwrap() []error }); several {
		return all.Unwrap()
	}
	return []error{err}
}

// adviseConnecting says what to do, "" where what happened says it all.
func adviseConnecting(c *pgx.ConnConfig, err error) string {
	var pg *pgconn.PgError
	var lookup *net.DNSError
	switch {
	case errors.As(err, &pg):
		return adviseRefused(c, pg.Code)
	case errors.As(err, &lookup):
		return "correct the DSN's host"
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return "start the server, or correct the DSN's host and port"
	}
	return ""
}

func adviseRefused(c *pgx.ConnConfig, code string) string {
	switch {
	case code == wrongPassword:
		return "correct the DSN's password"
	case strings.HasPrefix(code, authorizationClass):
		return "correct the DSN's user, or let it in with a line of the server's pg_hba.conf"
	case code == noSuchDatabase:
		return fmt.Sprintf("correct the DSN's dbname, or make it: createdb --owner=%s --encoding=UTF8 --template=template0 %s", c.User, c.Database)
	case code == missingRight:
		return fmt.Sprintf("GRANT CONNECT ON DATABASE %s TO %s", pgx.Identifier{c.Database}.Sanitize(), pgx.Identifier{c.User}.Sanitize())
	}
	return ""
}

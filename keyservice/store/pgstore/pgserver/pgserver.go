// Package pgserver starts throw-away PostgreSQL servers, for tests and the demonstration: in a folder of their own, under
// an account that is not root's, with safe settings. They end with the process that started them.
//
// It must not know pgstore: what is tested there is also tested against servers of other settings.
package pgserver

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// install is what to do when there is no PostgreSQL.
const install = "PostgreSQL is missing: apt-get install --no-install-recommends postgresql"

// Superuser is the role that initdb makes. Over the socket it needs no password.
const Superuser = "postgres"

// FreePort finds a TCP port of 127.0.0.1 that is free now.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("pgserver: %w", err)
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// DSN returns a DSN for the superuser, over the server's socket.
func (s *Server) DSN(database string) string {
	return fmt.Sprintf("host=%s port=%d user=%s dbname=%s", s.dir, s.port(), Superuser, database)
}

// TCP returns a DSN for the superuser, over TCP; its password is left out. TLS is not used unless sslmode is added.
func (s *Server) TCP(database string) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s", s.port(), Superuser, database)
}

func (s *Server) port() int {
	if s.opts.Port == 0 {
		return socketPort
	}
	return s.opts.Port
}

// Socket is the path of the server's socket.
func (s *Server) Socket() string { return filepath.Join(s.dir, fmt.Sprintf(".s.PGSQL.%d", s.port())) }

// Program returns the path of another program of the same PostgreSQL, such as pgbench.
func (s *Server) Program(name string) string { return filepath.Join(s.bin, name) }

// Dir is the host to connect to: the folder of the socket.
func (s *Server) Dir() string { return s.dir }

// Exec runs statements as the superuser, each in a transaction of its own.
func (s *Server) Exec(ctx context.Context, statements ...string) error {
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		return fmt.Errorf("pgserver: %w", err)
	}
	defer conn.Close(ctx)
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("pgserver: %s: %w", statement, err)
		}
	}
	return nil
}

// programs returns the folder of the newest PostgreSQL: Debian keeps it out of the PATH.
func programs() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", fmt.Errorf("pgserver: %s", install)
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return major(a) - major(b) })), nil
}

// major returns the version in /usr/lib/postgresql/VERSION/bin/postgres.
func major(path string) int {
	n, err := strconv.Atoi(strings.Split(path, "/")[4])
	if err != nil {
		return 0 // not a version: the least of all
	}
	return n
}

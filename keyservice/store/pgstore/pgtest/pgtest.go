// Package pgtest starts throw-away PostgreSQL servers for tests, and gives each test a database of its own.
//
// It must not know pgstore: what is tested there is also tested against servers of other settings.
package pgtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
)

// install is what to do when there is no PostgreSQL.
const install = "PostgreSQL is missing: apt-get install --no-install-recommends postgresql"

// superuser is the role that initdb makes. Its DSNs need no password: only this user and root reach the socket.
const superuser = "postgres"

// shared is the server that the tests of this process have in common.
var shared struct {
	once   sync.Once
	server *Server
	err    error
}

// databases numbers the databases of this process.
var databases atomic.Int64

// Run runs a package's tests, ends the server that they shared, and returns the exit code: for TestMain.
func Run(m *testing.M) int {
	code := m.Run()
	if shared.server == nil {
		return code
	}
	if err := shared.server.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

// Database makes an empty database on the shared server and returns its DSN. Packages that call it have a TestMain
// with Run.
func Database(t testing.TB) string {
	t.Helper()
	shared.once.Do(func() { shared.server, shared.err = start(memory(), nil) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server.Database(t)
}

// Start starts a server of the test's own, with more lines for postgresql.conf. It ends with the test.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	return startIn(t, memory(), settings)
}

// StartOnDisk is Start with the server's files on the disk of temporary files, where fsync takes its time: to measure.
func StartOnDisk(t testing.TB, settings ...string) *Server {
	t.Helper()
	return startIn(t, os.TempDir(), settings)
}

func startIn(t testing.TB, parent string, settings []string) *Server {
	t.Helper()
	s, err := start(parent, settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Database makes an empty database and returns its DSN. It is dropped at the end of the test.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", databases.Add(1))
	s.Exec(t, "CREATE DATABASE "+name+" TEMPLATE template0")
	t.Cleanup(func() {
		if s.running() {
			s.Exec(t, "DROP DATABASE "+name+" WITH (FORCE)")
		}
	})
	return s.DSN(name)
}

// DSN returns a DSN for the superuser, over the server's socket.
func (s *Server) DSN(database string) string {
	return fmt.Sprintf("host=%s user=%s dbname=%s", s.dir, superuser, database)
}

// Socket is the path of the server's socket.
func (s *Server) Socket() string { return filepath.Join(s.dir, ".s.PGSQL.5432") }

// Program returns the path of another program of the same PostgreSQL, such as pgbench.
func (s *Server) Program(name string) string { return filepath.Join(s.bin, name) }

// Dir is the host to connect to: the folder of the socket.
func (s *Server) Dir() string { return s.dir }

// Exec runs statements as the superuser, each in a transaction of its own.
func (s *Server) Exec(t testing.TB, statements ...string) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// programs returns the folder of the newest PostgreSQL: Debian keeps it out of the PATH.
func programs() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", fmt.Errorf("pgtest: %s", install)
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

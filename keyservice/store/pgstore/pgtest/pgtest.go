// Package pgtest gives tests throw-away PostgreSQL servers, and each test a database of its own.
//
// It must not know pgstore: what is tested there is also tested against servers of other settings.
package pgtest

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"ramzban/keyservice/store/pgstore/pgserver"
)

// Server is a server that a test may use. Its DSNs need no password: only this user and root reach the socket.
type Server struct{ *pgserver.Server }

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
	shared.once.Do(func() {
		var s *pgserver.Server
		if s, shared.err = pgserver.New(pgserver.Options{Parent: pgserver.Memory()}); shared.err == nil {
			shared.server = &Server{s}
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server.Database(t)
}

// Start starts a server of the test's own, with more lines for postgresql.conf. It ends with the test.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	return StartWith(t, pgserver.Options{Parent: pgserver.Memory(), Settings: settings})
}

// StartOnDisk is Start with the server's files on the disk of temporary files, where fsync takes its time: to measure.
func StartOnDisk(t testing.TB, settings ...string) *Server {
	t.Helper()
	return StartWith(t, pgserver.Options{Parent: os.TempDir(), Settings: settings})
}

// StartWith starts a server of the test's own as the options say. It ends with the test.
func StartWith(t testing.TB, o pgserver.Options) *Server {
	t.Helper()
	s, err := pgserver.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return &Server{s}
}

// Database makes an empty database and returns its DSN. It is dropped at the end of the test.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", databases.Add(1))
	s.Exec(t, "CREATE DATABASE "+name+" TEMPLATE template0")
	t.Cleanup(func() {
		if s.Running() {
			s.Exec(t, "DROP DATABASE "+name+" WITH (FORCE)")
		}
	})
	return s.DSN(name)
}

// Exec runs statements as the superuser, each in a transaction of its own.
func (s *Server) Exec(t testing.TB, statements ...string) {
	t.Helper()
	if err := s.Server.Exec(context.Background(), statements...); err != nil {
		t.Fatal(err)
	}
}

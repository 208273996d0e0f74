// Package hatest starts a highly available set of PostgreSQL servers for tests: three machines, each with an etcd member,
// Patroni and PostgreSQL as Debian packages them, and breaks it: kills a machine's processes, cuts its networks.
//
// It must not know pgstore.
//
// # Machines
//
// A machine is a network namespace with two network cards: one on the servers' network (etcd, Patroni, replication),
// one on the clients' network. Its processes are those of one PID namespace, so that one SIGKILL ends them all at once.
//
// # Nothing is left behind
//
// Isolate puts the whole test process into a network and a mount namespace of its own, with a /dev/shm of its own. The
// bridges, the cards and all files are in them: the kernel removes everything when the last process has ended, however it
// ended, and the machines end with the test process. Nothing of it is visible, or in the way, outside.
package hatest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Size is the number of machines: etcd needs three to outlive one.
const Size = 3

// superuser is the role that initdb makes. Nobody is asked for a password: there is nobody else on these networks.
const superuser = "postgres"

const (
	startLimit = 2 * time.Minute // until a set is whole, on a busy machine
	askLimit   = 2 * time.Second // for one question to one machine
	askAgain   = 50 * time.Millisecond
)

// Set is the highly available set.
type Set struct {
	Machines []*Machine

	dir   string
	files map[string][]byte // of every machine

	databases atomic.Int64
}

// Start builds the networks and starts the machines. Isolate must have been called. What was started ends with Stop or with
// this process.
func Start() (*Set, error) {
	if err := programs(); err != nil {
		return nil, err
	}
	s := &Set{}
	if err := s.start(); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Set) start() (err error) {
	if s.dir, err = os.MkdirTemp(memory, "ha-"); err != nil {
		return fmt.Errorf("hatest: %w", err)
	}
	if err := os.Chmod(s.dir, 0o755); err != nil {
		return fmt.Errorf("hatest: %w", err)
	}
	if err := errors.Join(s.certificate(), buildNetworks()); err != nil {
		return err
	}
	for number := 1; number <= Size; number++ {
		m, err := s.newMachine(number)
		if err != nil {
			return err
		}
		s.Machines = append(s.Machines, m)
	}
	for _, m := range s.Machines {
		if err := m.Boot(); err != nil {
			return err
		}
	}
	return s.Whole(startLimit)
}

// Stop ends all processes.
func (s *Set) Stop() error {
	var errs []error
	for _, m := range s.Machines {
		errs = append(errs, m.Kill())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// DSN names all machines on the clients' network, as a client of a highly available set does.
func (s *Set) DSN(database string) string {
	hosts := ""
	for _, m := range s.Machines {
		hosts += "," + m.Address(Clients)
	}
	return fmt.Sprintf("host=%s user=%s dbname=%s target_session_attrs=read-write sslmode=verify-full sslrootcert=%s",
		hosts[1:], superuser, database, filepath.Join(s.dir, certificateFile))
}

// Database makes an empty database and returns its DSN. The set must be whole. It is dropped at the end of the test.
func (s *Set) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", s.databases.Add(1))
	if err := s.exec("CREATE DATABASE " + name); err != nil {
		t.Fatalf("hatest: %v", err)
	}
	t.Cleanup(func() {
		if err := s.exec("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Errorf("hatest: %v", err)
		}
	})
	for _, m := range s.Machines { // a client that comes to a standby without it does not go on to the next machine
		if err := until(startLimit, func(ctx context.Context) error { return m.has(ctx, name) }); err != nil {
			t.Fatalf("hatest: %v", err)
		}
	}
	return s.DSN(name)
}

// exec runs a statement on the primary.
func (s *Set) exec(statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.DSN(superuser))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement)
	return err
}

func (m *Machine) has(ctx context.Context, database string) error {
	conn, err := m.connect(ctx, database)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// Operator connects to the database of a DSN on one machine, over the servers' network. The connection ends with the test.
func (m *Machine) Operator(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatalf("hatest: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	conn, err := m.connect(ctx, config.Database)
	if err != nil {
		t.Fatalf("hatest: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), askLimit)
		defer cancel()
		_ = conn.Close(ctx) // its machine may be gone
	})
	return conn
}

func (m *Machine) connect(ctx context.Context, database string) (*pgx.Conn, error) {
	return pgx.Connect(ctx, fmt.Sprintf("host=%s user=%s dbname=%s sslmode=disable", m.Address(Servers), superuser, database))
}

package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	startLimit = 30 * time.Second
	stopLimit  = 30 * time.Second
)

// settings of every server: no network, little memory, many sessions.
const baseSettings = `
listen_addresses = ''
unix_socket_permissions = 0700
shared_buffers = 64MB
max_connections = 200
max_wal_size = 256MB
dynamic_shared_memory_type = mmap
log_min_messages = log
`

// Server is a PostgreSQL server in a folder of its own, listening on a socket in it.
type Server struct {
	bin, dir string
	account  *syscall.Credential // nil: this process's own
	process  *process
}

// start makes a folder and a database cluster in it, and starts the server.
func start(parent string, settings []string) (*Server, error) {
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin}
	if s.account, err = unprivileged(); err != nil {
		return nil, err
	}
	if err := sweep(parent); err != nil {
		return nil, err
	}
	if s.dir, err = makeDir(parent, s.account); err != nil {
		return nil, err
	}
	if err := s.initialise(settings); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	if err := s.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	return s, nil
}

// unprivileged returns an account for the server if this process is root's: PostgreSQL refuses root.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		account, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, fmt.Errorf("pgtest: no account to run PostgreSQL under: %w", err)
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// Data is the data directory.
func (s *Server) Data() string { return filepath.Join(s.dir, "data") }

func (s *Server) log() string { return filepath.Join(s.dir, "log") }

// initialise makes the database cluster.
func (s *Server) initialise(settings []string) error {
	initdb := exec.Command(filepath.Join(s.bin, "initdb"), "--pgdata="+s.Data(), "--username="+superuser, "--auth=trust",
		"--encoding=UTF8", "--no-locale", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = s.dir, &syscall.SysProcAttr{Credential: s.account}
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("pgtest: initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	conf, err := os.OpenFile(filepath.Join(s.Data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	lines := baseSettings + "unix_socket_directories = '" + s.dir + "'\n" + strings.Join(settings, "\n") + "\n"
	_, err = conf.WriteString(lines)
	return errors.Join(err, conf.Close())
}

// Start starts the server, again after Kill or Stop, and waits until it answers.
func (s *Server) Start() error {
	log, err := os.OpenFile(s.log(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), "-D", s.Data())
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	// SIGQUIT is PostgreSQL's immediate shutdown: it ends the server's children too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.account, Pdeathsig: syscall.SIGQUIT}
	if s.process, err = launch(cmd); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	return s.waitReady()
}

func (s *Server) waitReady() error {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, s.DSN("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-s.process.ended:
			return fmt.Errorf("pgtest: the server ended at once: %s", s.lastLog())
		case <-ctx.Done():
			return fmt.Errorf("pgtest: the server does not answer: %w: %s", err, s.lastLog())
		case <-tick.C:
		}
	}
}

// lastLog returns the end of the server's log.
func (s *Server) lastLog() string {
	log, err := os.ReadFile(s.log())
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(log[max(0, len(log)-2000):]))
}

// PID is the postmaster's.
func (s *Server) PID() int { return s.process.pid }

func (s *Server) running() bool {
	select {
	case <-s.process.ended:
		return false
	default:
		return true
	}
}

// Kill ends the postmaster with SIGKILL and waits until its children, which notice, have left the folder.
func (s *Server) Kill() error {
	if err := syscall.Kill(s.process.pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	<-s.process.ended
	return s.waitAbandoned()
}

// waitAbandoned waits until no process is left that has the cluster's shared memory: a postmaster would not start.
func (s *Server) waitAbandoned() error {
	late := time.After(stopLimit)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		left, err := processesIn(s.Data())
		if err != nil || left == 0 {
			return err
		}
		select {
		case <-late:
			return fmt.Errorf("pgtest: %d processes of the killed server are still there", left)
		case <-tick.C:
		}
	}
}

// Stop ends the server, without waiting for its clients, and removes its folder. A second call does nothing.
func (s *Server) Stop() error {
	if s.running() {
		if err := syscall.Kill(s.process.pid, syscall.SIGQUIT); err != nil {
			return fmt.Errorf("pgtest: %w", err)
		}
	}
	select {
	case <-s.process.ended:
	case <-time.After(stopLimit):
		return fmt.Errorf("pgtest: the server does not end: %s", s.lastLog())
	}
	return errors.Join(s.waitAbandoned(), os.RemoveAll(s.dir))
}

// process is a child whose parent thread lives as long as it does: the kernel sends Pdeathsig when that thread ends.
type process struct {
	pid   int
	ended chan struct{}
}

func launch(cmd *exec.Cmd) (*process, error) {
	p, started := &process{ended: make(chan struct{})}, make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its log
			close(p.ended)
		}
	}()
	return p, <-started
}

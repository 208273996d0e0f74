package pgserver

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

// settings of every server: little memory, many sessions.
const baseSettings = `
unix_socket_permissions = 0700
shared_buffers = 64MB
max_connections = 200
max_wal_size = 256MB
dynamic_shared_memory_type = mmap
log_min_messages = log
`

// socketPort is in the name of the socket of a server without TCP.
const socketPort = 5432

// Options say where a server's folder is and how others than its own account reach it.
type Options struct {
	Parent   string   // the folder in which its own is made
	Settings []string // more lines for postgresql.conf

	// Port is the TCP port on 127.0.0.1; 0: only the socket in the folder, which this process's user and root reach.
	Port int
	// Password is the superuser's, asked for over TCP; "": nobody is asked for one.
	Password string
	// Files are put into the data directory by name, for the server's account alone.
	Files map[string][]byte
}

// Server is a PostgreSQL server in a folder of its own, listening on a socket in it.
type Server struct {
	opts     Options
	bin, dir string
	account  *syscall.Credential // nil: this process's own
	process  *process
}

// New makes a folder and a database cluster in it, and starts the server. It ends with this process at the latest.
func New(o Options) (*Server, error) {
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	s := &Server{opts: o, bin: bin}
	if s.account, err = unprivileged(); err != nil {
		return nil, err
	}
	if err := sweep(o.Parent); err != nil {
		return nil, err
	}
	if s.dir, err = makeDir(o.Parent, s.account); err != nil {
		return nil, err
	}
	if err := s.initialise(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	if err := s.Start(); err != nil {
		return nil, errors.Join(err, s.Stop())
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
		return nil, fmt.Errorf("pgserver: no account to run PostgreSQL under: %w", err)
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("pgserver: %w", err)
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("pgserver: %w", err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// Data is the data directory.
func (s *Server) Data() string { return filepath.Join(s.dir, "data") }

func (s *Server) log() string { return filepath.Join(s.dir, "log") }

// initialise makes the database cluster.
func (s *Server) initialise() error {
	args := []string{"--pgdata=" + s.Data(), "--username=" + Superuser, "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"}
	if s.opts.Password != "" {
		file := filepath.Join(s.dir, "password")
		if err := s.write(file, []byte(s.opts.Password)); err != nil {
			return err
		}
		args = append(args, "--auth-host=scram-sha-256", "--pwfile="+file)
	}
	initdb := exec.Command(filepath.Join(s.bin, "initdb"), args...)
	initdb.Dir, initdb.SysProcAttr = s.dir, &syscall.SysProcAttr{Credential: s.account}
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("pgserver: initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	for name, content := range s.opts.Files {
		if err := s.write(filepath.Join(s.Data(), name), content); err != nil {
			return err
		}
	}
	return s.configure()
}

func (s *Server) configure() error {
	network := "listen_addresses = ''"
	if s.opts.Port != 0 {
		network = fmt.Sprintf("listen_addresses = '127.0.0.1'\nport = %d", s.opts.Port)
	}
	lines := baseSettings + network + "\nunix_socket_directories = '" + s.dir + "'\n" + strings.Join(s.opts.Settings, "\n") + "\n"
	conf, err := os.OpenFile(filepath.Join(s.Data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("pgserver: %w", err)
	}
	_, err = conf.WriteString(lines)
	return errors.Join(err, conf.Close())
}

// write makes a file that only the server's account can read.
func (s *Server) write(path string, content []byte) error {
	err := os.WriteFile(path, content, 0o600)
	if err == nil && s.account != nil {
		err = os.Chown(path, int(s.account.Uid), int(s.account.Gid))
	}
	if err != nil {
		return fmt.Errorf("pgserver: %w", err)
	}
	return nil
}

// Start starts the server, again after Kill or Stop, and waits until it answers.
func (s *Server) Start() error {
	log, err := os.OpenFile(s.log(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("pgserver: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), "-D", s.Data())
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	cmd.SysProcAttr = attributes(s.account)
	started, err := launch(cmd)
	if err != nil {
		return fmt.Errorf("pgserver: %w", err)
	}
	s.process = started
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
			return fmt.Errorf("pgserver: the server ended at once: %s", s.lastLog())
		case <-ctx.Done():
			return fmt.Errorf("pgserver: the server does not answer: %w: %s", err, s.lastLog())
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

// Running says whether the server has been started and has not ended.
func (s *Server) Running() bool {
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
		return fmt.Errorf("pgserver: %w", err)
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
			return fmt.Errorf("pgserver: %d processes of the killed server are still there", left)
		case <-tick.C:
		}
	}
}

// Stop ends the server, without waiting for its clients, and removes its folder. A second call does nothing.
func (s *Server) Stop() error {
	if s.process == nil { // it never was
		return os.RemoveAll(s.dir)
	}
	if s.Running() {
		if err := syscall.Kill(s.process.pid, syscall.SIGQUIT); err != nil {
			return fmt.Errorf("pgserver: %w", err)
		}
	}
	select {
	case <-s.process.ended:
	case <-time.After(stopLimit):
		return fmt.Errorf("pgserver: the server does not end: %s", s.lastLog())
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
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

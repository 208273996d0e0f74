package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// childEnd is how long the service may take to end before it is killed.
const childEnd = 30 * time.Second

// child is a service of our own.
type child struct {
	cmd    *exec.Cmd
	ops    string
	stderr string // the file with what it wrote to standard error
	exited chan struct{}
	told   sync.Once // to end: a second signal would end it at once, out of order
}

// startChild runs this binary again as the service of d; its output is in the folder, under its name. It is ended with ctx
// at the latest.
func startChild(ctx context.Context, d dev, name string, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding the ramzban binary: %w", err)
	}
	c := &child{ops: d.ops, stderr: filepath.Join(d.dir, name+"-errors.log"), exited: make(chan struct{})}
	c.cmd = exec.CommandContext(ctx, self, args...)
	c.cmd.Env = append(os.Environ(), devDirEnv+"="+d.dir, apiEnv+"="+d.api, opsEnv+"="+d.ops)
	stdout, err := os.OpenFile(filepath.Join(d.dir, name+".log"), os.O_CREATE|os.O_WRONLY, privateFile)
	if err != nil {
		return nil, fmt.Errorf("starting the service: %w", err)
	}
	defer func() { _ = stdout.Close() }() // the child has its own
	stderr, err := os.OpenFile(c.stderr, os.O_CREATE|os.O_WRONLY, privateFile)
	if err != nil {
		return nil, fmt.Errorf("starting the service: %w", err)
	}
	defer func() { _ = stderr.Close() }()
	c.cmd.Stdout, c.cmd.Stderr = stdout, stderr
	c.cmd.Cancel = c.tell
	c.cmd.WaitDelay = childEnd
	dieWithParent(c.cmd)
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the service: %w", err)
	}
	go func() {
		_ = c.cmd.Wait() // its state says how it ended
		close(c.exited)
	}()
	return c, nil
}

// waitReady returns when /readyz answers 200; an error if the service ends before.
func (c *child) waitReady(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if c.isReady(ctx) {
			return nil
		}
		select {
		case <-c.exited:
			said, err := os.ReadFile(c.stderr)
			if err != nil {
				return fmt.Errorf("the service ended at once: %w", err)
			}
			return fmt.Errorf("the service ended at once: %s", said)
		case <-ctx.Done():
			return fmt.Errorf("the service is not ready: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func (c *child) isReady(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.ops+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
}

func (c *child) tell() (err error) {
	c.told.Do(func() { err = c.cmd.Process.Signal(syscall.SIGTERM) })
	return err
}

// end asks this process, by its own id, to end, and waits.
func (c *child) end() error {
	if err := c.tell(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("ending the service: %w", err)
	}
	select {
	case <-c.exited:
	case <-time.After(childEnd):
		if err := c.cmd.Process.Kill(); err != nil {
			return fmt.Errorf("ending the service: %w", err)
		}
		<-c.exited
	}
	if !c.cmd.ProcessState.Success() {
		return fmt.Errorf("the service ended with %s", c.cmd.ProcessState)
	}
	return nil
}

// kill ends this process, by its own id, as a power cut would, and waits.
func (c *child) kill() error {
	if err := c.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("killing the service: %w", err)
	}
	<-c.exited
	return nil
}

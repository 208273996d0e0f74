package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// stopStarting is how long parts that are being opened may take to end in order when the service is told to stop.
const stopStarting = 3 * time.Second

// start opens every part and closes what was opened if one fails. When ctx ends meanwhile, what cannot be interrupted (a
// call into a hung HSM module, reading a large database) is left as it is: nothing was decided yet, and the process ends.
func (n *node) start(ctx context.Context) error {
	opened := make(chan error, 1)
	go func() { opened <- n.openOrClose(ctx) }()
	select {
	case err := <-opened:
		return err
	case err := <-n.fatal:
		return hung(err)
	case <-ctx.Done():
	}
	select {
	case err := <-opened:
		return err
	case <-time.After(stopStarting):
		return errors.New("a part that was being opened did not end in time and was left")
	}
}

func (n *node) openOrClose(ctx context.Context) error {
	err := n.open(ctx)
	if err == nil {
		return nil
	}
	return errors.Join(err, n.close())
}

// hung is the end of a service whose HSM module neither answers nor can be given up.
func hung(err error) error {
	return fmt.Errorf("the HSM hangs: %w: look at the HSM, then start the service again", err)
}

// notifyReady tells systemd (Type=notify, see sd_notify(3)) that the service answers. Without systemd it does nothing.
func notifyReady() error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("telling systemd that the service is ready: %w", err)
	}
	_, err = conn.Write([]byte("READY=1"))
	if err := errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("telling systemd that the service is ready: %w", err)
	}
	return nil
}

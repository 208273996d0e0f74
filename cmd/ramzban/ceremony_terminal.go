package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// typedAt returns the terminal that a person types at, or reads, if a stream is one.
func typedAt(stream any) (*os.File, bool) {
	f, ok := stream.(*os.File)
	if !ok {
		return nil, false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), readTermios)
	return f, err == nil
}

// readHidden reads a line from a terminal that does not show it, and asks for it only once nothing is shown any more. When
// ctx ends it gives up at once, so that the terminal is never left without echo.
func readHidden(ctx context.Context, terminal *os.File, ask func() error) (line []byte, err error) {
	fd := int(terminal.Fd())
	before, err := unix.IoctlGetTermios(fd, readTermios)
	if err != nil {
		return nil, fmt.Errorf("hide what is typed: %w", err)
	}
	hidden := *before
	hidden.Lflag &^= unix.ECHO
	hidden.Lflag |= unix.ICANON | unix.ISIG
	hidden.Iflag |= unix.ICRNL
	if err := unix.IoctlSetTermios(fd, writeTermios, &hidden); err != nil {
		return nil, fmt.Errorf("hide what is typed: %w", err)
	}
	defer func() { err = errors.Join(err, unix.IoctlSetTermios(fd, writeTermios, before)) }()
	if err := ask(); err != nil {
		return nil, err
	}
	type typed struct {
		line []byte
		err  error
	}
	done := make(chan typed, 1)
	go func() {
		line, err := readLine(terminal)
		done <- typed{line, err}
	}()
	select {
	case t := <-done:
		return t.line, t.err
	case <-ctx.Done():
		return nil, fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
}

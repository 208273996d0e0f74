package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Old rows are deleted at the start and at each tick, after a failure too, until the service stops.
func TestExpiryRunsAtOnceAtEachTickAndAfterAFailure(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	ticks, calls, ended := make(chan time.Time), make(chan int), make(chan struct{})
	var out bytes.Buffer
	called := 0
	go func() {
		defer close(ended)
		expireRows(ctx, ticks, func(context.Context) (int, error) {
			called++
			calls <- called
			if called == 2 {
				return 0, errors.New("the disk is\nfull")
			}
			return 3, nil
		}, slog.New(slog.NewTextHandler(&out, nil)))
	}()
	require.Equal(t, 1, <-calls)
	for n := range 2 {
		ticks <- time.Time{}
		require.Equal(t, n+2, <-calls)
	}
	stop()
	<-ended
	require.Equal(t, 1, strings.Count(out.String(), "cannot be deleted"), out.String())
	require.Contains(t, out.String(), "deleted=3")
}

func TestExpiryThatIsStoppedUnderWayIsNoFailure(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	var out bytes.Buffer
	expireRows(ctx, nil, func(context.Context) (int, error) {
		stop()
		return 0, context.Canceled
	}, slog.New(slog.NewTextHandler(&out, nil)))
	require.Empty(t, out.String())
}

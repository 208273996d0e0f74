package storetest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
)

// crashWriters write at once in a process that is going to die.
const crashWriters = 16

// WriteUntilKilled commits without end and writes a line for every acknowledged change: its index, its writer and the
// writer's step. Each change counts a row up, writes another once, and has an entry; with logEntries as the sequencer,
// which Sequencer returns, all three must be there together. It returns at the first error.
func WriteUntilKilled(s store.Store, acks io.Writer) error {
	errs := make(chan error, crashWriters)
	var mu sync.Mutex // one write call per line
	for w := range crashWriters {
		go func() {
			for {
				line, err := crashStep(s, w)
				if err == nil {
					mu.Lock()
					_, err = io.WriteString(acks, line)
					mu.Unlock()
				}
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	return <-errs
}

// Sequencer is the sequencer for WriteUntilKilled and RequireAcknowledged.
func Sequencer() store.Sequencer { return logEntries }

func counterKey(writer int) store.Key    { return store.Key(fmt.Sprintf("counter/%d", writer)) }
func stepKey(writer, step int) store.Key { return store.Key(fmt.Sprintf("step/%d/%d", writer, step)) }
func crashEntry(writer, step int) []byte { return fmt.Appendf(nil, "writer %d step %d", writer, step) }

func crashStep(s store.Store, writer int) (ack string, err error) {
	items, err := s.Get(context.Background(), counterKey(writer))
	if err != nil {
		return "", err
	}
	step := 0
	if items[0].Version > 0 {
		if step, err = strconv.Atoi(string(items[0].Value)); err != nil {
			return "", err
		}
	}
	step++
	index, err := s.Commit(context.Background(), store.Change{
		Require: []store.Require{{Key: counterKey(writer), Version: items[0].Version}, {Key: stepKey(writer, step)}},
		Put: []store.Put{
			{Key: counterKey(writer), Value: strconv.AppendInt(nil, int64(step), 10)},
			{Key: stepKey(writer, step), Value: bytes.Repeat([]byte{byte(step)}, 100+step%400)},
		},
		Entry: crashEntry(writer, step),
	})
	return fmt.Sprintf("%d %d %d\n", index, writer, step), err
}

// Lost compares a store with what WriteUntilKilled acknowledged and returns how many acknowledged changes are not there.
func Lost(t testing.TB, s store.Store, acks []byte) (acknowledged, lost int) {
	t.Helper()
	lines := bufio.NewScanner(bytes.NewReader(acks))
	for lines.Scan() {
		var index uint64
		var writer, step int
		if n, _ := fmt.Sscanf(lines.Text(), "%d %d %d", &index, &writer, &step); n != 3 {
			require.False(t, lines.Scan(), "only the last line may be cut short: %q", lines.Text())
			break
		}
		acknowledged++
		items, err := s.Get(context.Background(), counterKey(writer), stepKey(writer, step), entryKey(index))
		require.NoError(t, err)
		counter, _ := strconv.Atoi(string(items[0].Value))
		if counter < step || items[1].Version == 0 || !bytes.Equal(items[2].Value, crashEntry(writer, step)) {
			lost++
		}
	}
	return acknowledged, lost
}

// probe is the entry of the change that RequireWhole commits.
var probe = []byte("after the crash")

// RequireWhole fails the test unless indexes are dense, every change is there whole or not at all, and another can be
// committed.
func RequireWhole(t testing.TB, s store.Store) {
	t.Helper()
	steps := 0
	for w := range crashWriters {
		if value := get(t, s, counterKey(w)).Value; value != nil {
			n, err := strconv.Atoi(string(value))
			require.NoError(t, err)
			steps += n
			require.NotZero(t, get(t, s, stepKey(w, n)).Version)
			require.Zero(t, get(t, s, stepKey(w, n+1)).Version)
		}
	}
	require.Len(t, scan(t, s, "step/", ""), steps)
	entries, probes := scan(t, s, entryPrefix, ""), 0
	for i, item := range entries {
		require.Equal(t, entryKey(uint64(i)), item.Key)
		if bytes.Equal(item.Value, probe) {
			probes++
		}
	}
	require.Len(t, entries, steps+probes)
	require.EqualValues(t, len(entries), commit(t, s, store.Change{Entry: probe}))
}

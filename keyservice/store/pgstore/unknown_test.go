package pgstore

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/pgstore/pgtest"
	"ramzban/keyservice/store/storetest"
)

// journal is a log that may be read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

// TestCommitCutOff: the connection breaks at COMMIT. The caller learns what happened in the end, and it happened once.
func TestCommitCutOff(t *testing.T) {
	server := pgtest.Start(t)
	for name, test := range map[string]struct {
		at     pgtest.Cut
		result string // what is found out; "": either
	}{
		"before the server has it": {pgtest.BeforeCommit, "committed=false"},
		"while it is sent":         {pgtest.WithCommit, ""},
		"before the answer":        {pgtest.BeforeAnswer, "committed=true"},
	} {
		t.Run(name, func(t *testing.T) {
			var next atomic.Int64
			p := server.StartProxy(t, func() pgtest.Cut { return pgtest.Cut(next.Swap(int64(pgtest.Pass))) })
			var log journal
			database := connectTo(t, server.Database(t)).Config().Database
			s := openTest(t, Options{DSN: p.DSN(database), Sequencer: logOf("a"), Log: log.logger()})
			answers := map[string]error{}
			for i := range 20 {
				next.Store(int64(test.at))
				c := change(store.Key(rune('a'+i)), "v", store.Require{Key: store.Key(rune('a' + i))})
				index, err := s.Commit(context.Background(), c)
				require.NoError(t, err)
				require.EqualValues(t, i, index)
				require.Equal(t, "v", string(get(t, s, c.Put[0].Key).Value))
				answers[string(c.Entry)] = nil
			}
			requireLogs(t, s, answers, "a")
			require.Equal(t, 20, lines(log.String(), "found out"))
			require.GreaterOrEqual(t, lines(log.String(), test.result), 20)
			require.Zero(t, p.Cancels.Load(), "no COMMIT is cancelled")
		})
	}
}

// TestConnectionsCutUnderLoad cuts one in four COMMITs of two nodes, those of finding out too.
func TestConnectionsCutUnderLoad(t *testing.T) {
	server := pgtest.Start(t)
	p := server.StartProxy(t, func() pgtest.Cut { return pgtest.Cut(max(0, rand.IntN(12)-8)) })
	dsn := p.DSN(connectTo(t, server.Database(t)).Config().Database)
	a := openUntil(t, Options{DSN: dsn, Node: "a", Sequencer: logOf("a")})
	b := openUntil(t, Options{DSN: dsn, Node: "b", Sequencer: logOf("b")})
	answers := storetest.Race(t, storetest.Contest{Rounds: storetest.Scaled(100, 2000), Registers: storetest.Scaled(10, 200), Faulty: true}, a, b)
	requireLogs(t, a, answers, "a", "b")
	require.Greater(t, p.Commits.Load(), int64(100))
}

// openUntil opens a store although the proxy may cut the COMMIT of its opening.
func openUntil(t *testing.T, o Options) (s *Store) {
	t.Helper()
	o = o.withDefaults()
	o.Log = slog.New(slog.DiscardHandler)
	require.Eventually(t, func() bool {
		var err error
		s, err = Open(context.Background(), o)
		return err == nil
	}, patience, time.Millisecond)
	t.Cleanup(func() { s.Close() })
	return s
}

// TestConnectionsTerminatedUnderLoad: an operator ends sessions at random, reading and writing ones.
func TestConnectionsTerminatedUnderLoad(t *testing.T) {
	dsn := pgtest.Database(t)
	a := openTest(t, Options{DSN: dsn, Node: "a", Sequencer: logOf("a")})
	b := openTest(t, Options{DSN: dsn, Node: "b", Sequencer: logOf("b")})
	operator := connectTo(t, dsn)
	done, terminated := make(chan struct{}), 0
	var group sync.WaitGroup
	group.Go(func() {
		tick := time.NewTicker(40 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			tag, err := operator.Exec(context.Background(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = current_database() AND application_name LIKE 'ramzban%' ORDER BY random() LIMIT 1`)
			if err != nil {
				t.Errorf("terminating: %v", err)
				return
			}
			terminated += int(tag.RowsAffected())
		}
	})
	answers := storetest.Race(t, storetest.Contest{Rounds: storetest.Scaled(200, 3000), Registers: storetest.Scaled(20, 300), Faulty: true}, a, b)
	close(done)
	group.Wait()
	requireLogs(t, a, answers, "a", "b")
	t.Logf("%d sessions terminated", terminated)
	require.NotZero(t, terminated)
}

// TestReadsAfterARestart: the first read after all sessions have ended finds another connection.
func TestReadsAfterARestart(t *testing.T) {
	const terminateAll = `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name LIKE 'ramzban%'`
	dsn := pgtest.Database(t)
	s, operator := openTest(t, Options{DSN: dsn}), connectTo(t, dsn)
	mustCommit(t, s, change("k", "v"))
	for range 3 {
		require.Equal(t, "v", string(get(t, s, "k").Value))
		runSQL(t, operator, terminateAll)
		require.Equal(t, "v", string(get(t, s, "k").Value))
		runSQL(t, operator, terminateAll)
		snap, err := s.Snapshot(context.Background())
		require.NoError(t, err)
		snap.Close()
		runSQL(t, operator, terminateAll)
		mustCommit(t, s, change("k", "v"))
	}
}

// TestVersionsAfterAFailover: the server begins a new timeline, and its sequence gives numbers that were given before.
func TestVersionsAfterAFailover(t *testing.T) {
	server := pgtest.Start(t, "restore_command = 'false'")
	s := openTest(t, Options{DSN: server.Database(t)})
	for range 50 {
		mustCommit(t, s, change("k", "v"))
	}
	shown := get(t, s, "k").Version
	operator := connectTo(t, s.opts.DSN)
	// PostgreSQL then recovers as a standby does that is promoted.
	runSQL(t, operator, "COPY (SELECT WHERE false) TO '"+filepath.Join(server.Data(), "recovery.signal")+"'")
	require.NoError(t, server.Kill())
	require.NoError(t, server.Start())
	operator = connectTo(t, s.opts.DSN)
	require.Eventually(t, func() bool { // it lets in readers before
		_, err := operator.Exec(context.Background(), "SELECT setval('row_versions', 1)")
		return err == nil
	}, patience, time.Millisecond)
	mustCommit(t, s, change("k", "v"))
	require.Greater(t, get(t, s, "k").Version, shown)
}

// TestReadsFollowTheWriter: when the writing session is another one, it may be to another server, and the one that is read
// may be the primary of before, which still answers as things were then.
func TestReadsFollowTheWriter(t *testing.T) {
	dsn := pgtest.Database(t)
	s, operator := openTest(t, Options{DSN: dsn}), connectTo(t, dsn)
	mustCommit(t, s, change("k", "v"))
	get(t, s, "k")
	const readers = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
		AND application_name = 'ramzban a read' AND pid = ANY($1)`
	var before []int32
	require.NoError(t, operator.QueryRow(context.Background(), `SELECT array_agg(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'ramzban a read'`).Scan(&before))
	require.NotEmpty(t, before)
	runSQL(t, operator, `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'ramzban a write'`)
	mustCommit(t, s, change("k", "w"))
	require.Equal(t, "w", string(get(t, s, "k").Value))
	require.Eventually(t, func() bool {
		var left int
		return operator.QueryRow(context.Background(), readers, before).Scan(&left) == nil && left == 0
	}, patience, time.Millisecond)
}

// absentStandby makes every COMMIT of a server wait for a standby that is not there, until letGo.
func absentStandby(t *testing.T, server *pgtest.Server) {
	t.Helper()
	t.Cleanup(func() { letGo(t, server) })
	setServer(t, server, "synchronous_standby_names", "absent")
}

// setServer changes a setting of a running server and waits until new sessions have it.
func setServer(t *testing.T, server *pgtest.Server, name, value string) {
	t.Helper()
	server.Exec(t, fmt.Sprintf("ALTER SYSTEM SET %s = '%s'", name, value), "SELECT pg_reload_conf()")
	require.Eventually(t, func() bool {
		var now string
		err := connectTo(t, server.DSN("postgres")).QueryRow(context.Background(), "SHOW "+name).Scan(&now)
		return err == nil && now == value
	}, patience, time.Millisecond)
	// COMMIT waits once the checkpointer has seen a name of a standby, which it has when it has made a checkpoint.
	server.Exec(t, "CHECKPOINT")
}

// letGo makes COMMIT wait for nobody again.
func letGo(t *testing.T, server *pgtest.Server) {
	server.Exec(t, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
}

// TestWaitForTheStandbyCutShort: an operator cancels a COMMIT that waits for the standby. It is committed here, and other
// sessions see it, but it could be lost with this server: nobody is told anything before a COMMIT behind it has reached
// the standby.
func TestWaitForTheStandbyCutShort(t *testing.T) {
	server := pgtest.Start(t, "client_min_messages = error") // the warning must come nevertheless
	dsn := server.Database(t)
	var log journal
	s := openTest(t, Options{DSN: dsn, Sequencer: logOf("a"), Log: log.logger()})
	mustCommit(t, s, change("before", "v"))
	operator := connectTo(t, dsn)
	absentStandby(t, server)

	waiting := submit(context.Background(), s, change("k", "v", store.Require{Key: "k"}))
	first := waitFor(t, operator, "a", "SyncRep")
	require.Zero(t, get(t, s, "k").Version, "not before its COMMIT has ended")
	require.NotZero(t, s.Stats().Unknown, "those on duty see that a COMMIT waits")
	runSQL(t, operator, "SELECT pg_cancel_backend($1)", first)
	require.Eventually(t, func() bool { return get(t, s, "k").Version > 0 }, patience, time.Millisecond)
	for range 2 { // the question waits too, and may be cut short too
		again := waitFor(t, operator, "a", "SyncRep")
		requireUnanswered(t, waiting)
		asked := lines(log.String(), "still not known")
		runSQL(t, operator, "SELECT pg_cancel_backend($1)", again)
		require.Eventually(t, func() bool { return lines(log.String(), "still not known") > asked }, patience, time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err := s.Commit(ctx, change("behind it", "v"))
	require.ErrorIs(t, err, store.ErrUnknown)
	requireUnanswered(t, waiting)

	letGo(t, server)
	got := receive(t, waiting)
	require.NoError(t, got.err)
	require.EqualValues(t, 1, got.index)
	require.Equal(t, 1, lines(log.String(), "committed=true"))
	require.Contains(t, log.String(), "01000")
	mustCommit(t, s, change("behind all", "v"))
	require.Zero(t, s.Stats().Unknown)
}

// TestBrokenWhileItWaitsForTheStandby: the connection breaks, the server goes on waiting. Nothing cancels that wait; the
// question waits for it. The caller's deadline passes first.
func TestBrokenWhileItWaitsForTheStandby(t *testing.T) {
	server := pgtest.Start(t)
	dsn := server.Database(t)
	p := server.StartProxy(t, func() pgtest.Cut { return pgtest.Pass })
	s := openTest(t, Options{DSN: p.DSN(connectTo(t, dsn).Config().Database), Sequencer: logOf("a"), StatementTimeout: 4 * time.Second})
	operator := connectTo(t, dsn)
	absentStandby(t, server)

	ctx, cancel := context.WithCancel(context.Background())
	impatient := submit(ctx, s, change("k", "v"))
	waitFor(t, operator, "a", "SyncRep")
	patient := submit(context.Background(), s, change("l", "v"))
	p.CutAll()
	waitFor(t, operator, "a", "transactionid")
	waitFor(t, operator, "a", "SyncRep")
	cancel()
	require.ErrorIs(t, receive(t, impatient).err, store.ErrUnknown)
	requireUnanswered(t, patient)
	require.Zero(t, p.Cancels.Load())

	letGo(t, server)
	require.EqualValues(t, 1, receive(t, patient).index)
	require.Equal(t, "v", string(get(t, s, "k").Value))
	require.EqualValues(t, 2, mustCommit(t, s, change("m", "v")))
}

// TestCloseWhileNobodyKnows: the server is gone, and Close does not wait for ever.
func TestCloseWhileNobodyKnows(t *testing.T) {
	server := pgtest.Start(t)
	dsn := server.Database(t)
	s := openTest(t, Options{DSN: dsn, Sequencer: logOf("a"), closeLimit: 300 * time.Millisecond})
	absentStandby(t, server)
	waiting := submit(context.Background(), s, change("k", "v"))
	waitFor(t, connectTo(t, dsn), "a", "SyncRep")
	behind := submit(context.Background(), s, change("l", "v"))
	require.NoError(t, s.Close())
	require.ErrorIs(t, receive(t, waiting).err, store.ErrUnknown)
	requireFailed(t, receive(t, behind).err)
}

// TestServerKilledUnderLoad kills the postmaster while nodes write; what was acknowledged is there when it is back.
func TestServerKilledUnderLoad(t *testing.T) {
	server := pgtest.Start(t)
	dsn := server.Database(t)
	var acks []byte
	for range storetest.Scaled(2, 20) {
		s := openTest(t, Options{DSN: dsn, Sequencer: storetest.Sequencer()})
		var written journal
		ended := make(chan error, 1)
		go func() { ended <- storetest.WriteUntilKilled(s, &written) }()
		enough := 300 + rand.IntN(500)
		require.Eventually(t, func() bool { return lines(written.String(), "\n") >= enough }, patience, time.Millisecond)
		require.NoError(t, server.Kill())
		require.NoError(t, server.Start())
		require.NoError(t, s.Close()) // those who wait to know are answered first
		require.Error(t, <-ended)
		acks = append(acks, written.String()...)

		s = openTest(t, Options{DSN: dsn, Sequencer: storetest.Sequencer()})
		n, lost := storetest.Lost(t, s, acks)
		require.Zero(t, lost, "of %d acknowledged commits", n)
		storetest.RequireWhole(t, s)
		require.NoError(t, s.Close())
		t.Logf("%d acknowledged commits survived", n)
	}
}

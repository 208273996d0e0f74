package pgstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// deadPeer is how long the other side's kernel may be silent before a connection counts as broken. It bounds COMMIT only
// when nobody is there any more: a server that waits for its standby answers the kernel's probes.
const deadPeer = 20 * time.Second

// session is a connection for writing. One goroutine uses it.
type session struct {
	*pgx.Conn
	limit   time.Duration  // of each exchange but COMMIT
	warning *pgconn.Notice // the last one; nil: none since the last COMMIT began
}

// connect makes a connection for writing to a server that is checked to be suitable.
func connect(ctx context.Context, o Options, base *pgx.ConnConfig) (*session, error) {
	s := &session{limit: o.StatementTimeout}
	config := base.Copy()
	configure(config, o, "write", 0)
	var connected atomic.Bool
	config.DialFunc = onlyBefore(&connected, config.DialFunc)
	config.RuntimeParams["lock_timeout"] = milliseconds(o.serverLimit())
	// A node that vanishes in the middle of a batch must not keep its locks.
	config.RuntimeParams["idle_in_transaction_session_timeout"] = milliseconds(o.serverLimit())
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			s.warning = n
		}
	}
	var err error
	if s.Conn, err = pgx.ConnectConfig(ctx, config); err != nil {
		return nil, unconnected(config, err)
	}
	connected.Store(true)
	ctx, cancel := context.WithTimeout(ctx, o.StatementTimeout)
	defer cancel()
	if err := setUp(ctx, s.Conn); err != nil {
		return nil, errors.Join(err, s.Close(ctx))
	}
	return s, nil
}

// onlyBefore keeps pgx from what it does when a connection breaks: it makes another one and asks the server to cancel
// what runs. That may be a COMMIT that waits for its standby, which would then show other nodes what can still be lost.
func onlyBefore(connected *atomic.Bool, dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if connected.Load() {
			return nil, errors.New("pgstore: a writing session is never cancelled")
		}
		return dial(ctx, network, address)
	}
}

// configure sets what every session of ours needs, whatever the server's, the database's or the role's defaults are.
func configure(config *pgx.ConnConfig, o Options, purpose string, statementTimeout time.Duration) {
	dialer := &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: deadPeer / 4, Interval: deadPeer / 4, Count: 3},
		Control:         limitSilence,
	}
	config.DialFunc = dialer.DialContext
	if config.ConnectTimeout == 0 || config.ConnectTimeout > o.serverLimit() {
		config.ConnectTimeout = o.serverLimit() // for each host of the DSN
	}
	for name, value := range map[string]string{
		"application_name":                    "ramzban " + o.Node + " " + purpose,
		"statement_timeout":                   milliseconds(statementTimeout),
		"lock_timeout":                        "0",
		"idle_in_transaction_session_timeout": "0",
		"default_transaction_read_only":       "off",
		"default_transaction_isolation":       "read committed",
		// What says that the wait for the standby was cut short is a warning: it must come, whatever else is kept quiet.
		"client_min_messages": "warning",
		// Everything is found by key. Plans made while the table was small must not read all of it later.
		"enable_seqscan":    "off",
		"enable_bitmapscan": "off",
		"jit":               "off",
		// And one plan is enough: to plan a statement costs the server more than to carry it out.
		"plan_cache_mode": "force_generic_plan",
	} {
		config.RuntimeParams[name] = value
	}
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// setUp checks the server and switches off limits that could end a COMMIT, also those that only newer versions have.
func setUp(ctx context.Context, conn *pgx.Conn) error {
	if err := checkServer(ctx, conn); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, `SELECT set_config(name, '0', false) FROM pg_settings
		WHERE name IN ('transaction_timeout', 'idle_session_timeout')`)
	if err != nil {
		return fmt.Errorf("pgstore: setting up a session: %w", err)
	}
	return nil
}

// exchange sends statements in one round trip and waits for their answers, for at most the session's limit.
func (s *session) exchange(batch *pgx.Batch) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.limit)
	defer cancel()
	return s.SendBatch(ctx, batch).Close()
}

// rollback ends a transaction of which nothing was committed. Afterwards the session is either free or closed.
func (s *session) rollback() {
	if s.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.limit)
	defer cancel()
	if _, err := s.Exec(ctx, "ROLLBACK"); err != nil {
		_ = s.Close(ctx) // the server ends the transaction with the connection
	}
}

// commit sends COMMIT and waits for its answer as long as there is a server, or until ctx ends, which breaks the
// connection. Any answer but a clean one leaves it unknown what happened.
func (s *session) commit(ctx context.Context) error {
	_, err := s.commitAfter(ctx, &pgx.Batch{})
	return err
}

// commitAfter sends the statements and COMMIT in one round trip, and waits as commit does. If one of the statements fails
// the server does not carry out those that follow it, COMMIT among them: failed is then true, and the transaction is to be
// rolled back. After any other error it is unknown what happened.
func (s *session) commitAfter(ctx context.Context, exchange *pgx.Batch) (failed bool, err error) {
	s.warning = nil
	statements := exchange.Len()
	exchange.Queue("COMMIT")
	results := s.SendBatch(ctx, exchange)
	defer func() { _ = results.Close() }() // the error that it returns was returned before
	for range statements {
		if _, err := results.Exec(); err != nil {
			var pg *pgconn.PgError
			return errors.As(err, &pg) && !s.IsClosed(), err
		}
	}
	tag, err := results.Exec()
	switch {
	case err != nil:
		return false, err
	case s.warning != nil:
		return false, fmt.Errorf("COMMIT answered with a warning: %s (SQLSTATE %s)", s.warning.Message, s.warning.Code)
	case tag.String() != "COMMIT":
		return false, fmt.Errorf("COMMIT answered %s", tag)
	}
	return false, nil
}

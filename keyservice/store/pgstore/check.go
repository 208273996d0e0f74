package pgstore

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// oldest is the oldest version of the server, as server_version_num counts.
const oldest = 130000

// server is what must be right with a server before an acknowledgement of it is worth anything.
type server struct {
	Version           int
	Standby           bool
	Encoding          string
	FSync             string `db:"fsync"`
	FullPageWrites    string
	SynchronousCommit string // of our session
}

const standbysQuery = `SELECT current_setting('synchronous_standby_names')`

// warnOfStandbys says so when there are servers to fail over to, as the DSN names several, and COMMIT waits for none of them.
// It is no error: a set that lost its standbys may have been told to go on alone.
func warnOfStandbys(ctx context.Context, s *session, o Options) error {
	c := s.Config()
	if !slices.ContainsFunc(c.Fallbacks, func(f *pgconn.FallbackConfig) bool { return f.Host != c.Host || f.Port != c.Port }) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	var names string
	if err := s.QueryRow(ctx, standbysQuery).Scan(&names); err != nil {
		return fmt.Errorf("pgstore: asking the server for its standbys: %w", err)
	}
	if names == "" {
		o.Log.Warn("COMMIT waits for no standby: a failover would forget what was acknowledged last: set synchronous_standby_names",
			"node", o.Node)
	}
	return nil
}

// serverQuery also keeps synchronous_commit for the session as it is found: a reload of the server's configuration would
// change it otherwise, unseen.
const serverQuery = `SELECT current_setting('server_version_num')::int AS version, pg_is_in_recovery() AS standby,
	current_setting('server_encoding') AS encoding, current_setting('fsync') AS fsync,
	current_setting('full_page_writes') AS full_page_writes,
	set_config('synchronous_commit', current_setting('synchronous_commit'), false) AS synchronous_commit`

// checkServer is made of every new connection, as it may be to another server than the last one.
func checkServer(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, serverQuery)
	if err != nil {
		return fmt.Errorf("pgstore: asking the server for its settings: %w", err)
	}
	s, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[server])
	if err != nil {
		return fmt.Errorf("pgstore: asking the server for its settings: %w", err)
	}
	if s.Standby {
		return fmt.Errorf("%w: %w, which cannot be written to: connect to the primary, or name all servers in the DSN and add target_session_attrs=read-write", ErrUnsuitable, ErrStandby)
	}
	if wrong := s.wrong(); wrong != "" {
		return fmt.Errorf("%w: %s", ErrUnsuitable, wrong)
	}
	return nil
}

// wrong returns what is not right and what to do, "" if nothing.
//
// Of synchronous_commit, only on and remote_apply keep the promise that an acknowledged change is not lost: both wait
// until the change is on this server's disk and on those of the synchronous standbys, if synchronous_standby_names has
// any. remote_write waits only until a standby's kernel has it, local for no standby, off for nothing. Without standbys
// remote_write and local do as on does; they are refused all the same, because standbys can be named at any time.
func (s server) wrong() string {
	switch {
	case s.Version < oldest:
		return fmt.Sprintf("its version is %d.%d: upgrade it to PostgreSQL 13 or newer", s.Version/10000, s.Version%10000)
	case s.Encoding != "UTF8":
		return fmt.Sprintf("the database's encoding is %s: make the database anew with ENCODING 'UTF8' TEMPLATE template0", s.Encoding)
	case s.FSync != "on":
		return "fsync is off, so that a power cut would lose acknowledged changes: set fsync = on and reload it"
	case s.FullPageWrites != "on":
		return "full_page_writes is off, so that a power cut could damage the database: set full_page_writes = on and reload it"
	case s.SynchronousCommit != "on" && s.SynchronousCommit != "remote_apply":
		return fmt.Sprintf("synchronous_commit is %s, so that acknowledged changes could be lost: set it to on (or remote_apply) for the service's role: ALTER ROLE … SET synchronous_commit = on",
			s.SynchronousCommit)
	}
	return ""
}

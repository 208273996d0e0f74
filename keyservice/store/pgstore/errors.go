package pgstore

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"ramzban/keyservice/store"
)

// SQLSTATEs that are told apart (PostgreSQL documentation, appendix A).
const (
	divisionByZero       = "22012"
	uniqueViolation      = "23505"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	diskFull             = "53100"
	noSuchDatabase       = "3D000"
	authorizationClass   = "28" // the user or the password, or the server does not let this host in
	wrongPassword        = "28P01"
	accessRuleClass      = "42" // a missing right, or something of that name is there already
	missingRight         = "42501"
)

// errRaced: another node made a row between this node's look at it and its insertion.
var errRaced = errors.New("pgstore: another node wrote a row first")

// errBroken: the connection ended before COMMIT was sent, or the transaction is now known never to be committed.
var errBroken = errors.New("pgstore: the transaction ended with its connection")

// passing tells whether a batch that failed with err may succeed when it is tried again at once.
func passing(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == serializationFailure || pg.Code == deadlockDetected) {
		return true
	}
	return errors.Is(err, errRaced) || errors.Is(err, errBroken)
}

// failed makes an error that says that nothing was written. PostgreSQL's messages name no values; its details may, and
// are left out.
func failed(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == diskFull {
		return fmt.Errorf("%w: %w: make room on the database server's disk: %w", store.ErrFailed, store.ErrNoSpace, err)
	}
	return fmt.Errorf("%w: %w", store.ErrFailed, err)
}

// rights are what a role needs that does not own the tables.
const rights = "let the role own the tables, or GRANT SELECT, INSERT, UPDATE, DELETE ON rows, logs, commits, fence, goose_db_version" +
	" and GRANT USAGE, SELECT ON SEQUENCE row_versions to it"

// refused makes ErrOptions of what a server says of the DSN itself, and ErrSchema of rights that the DSN's role does not have.
func refused(err error) error {
	var pg *pgconn.PgError
	var connecting *connectError
	switch {
	case errors.Is(err, ErrSchema) || !errors.As(err, &pg):
		return err
	case pg.Code == noSuchDatabase || strings.HasPrefix(pg.Code, authorizationClass):
		return fmt.Errorf("%w: %w", ErrOptions, err)
	case pg.Code != missingRight:
		return err
	case errors.As(err, &connecting): // it says which right
		return fmt.Errorf("%w: %w", ErrSchema, err)
	}
	return fmt.Errorf("%w: %w: %s", ErrSchema, err, rights)
}

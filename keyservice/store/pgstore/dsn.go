package pgstore

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// CheckDSN tells what can be found wrong with a DSN without connecting: its form, its keys, the files that it names, and
// hosts that need not prove themselves. Errors are ErrOptions and repeat nothing that could be a password.
func CheckDSN(dsn string) error {
	_, err := Options{DSN: dsn}.parse()
	return err
}

// parse reads the DSN and checks it.
func (o Options) parse() (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(o.DSN)
	if err != nil {
		return nil, fmt.Errorf("%w: the DSN cannot be read: %s", ErrOptions, oneLine(unquoted(err)))
	}
	if err := checkKeys(config.ConnConfig.RuntimeParams); err != nil {
		return nil, err
	}
	return config, checkTLS(config.ConnConfig)
}

// settings are the server's settings that a DSN may give to its sessions, or the environment for it.
var settings = map[string]bool{"application_name": true, "search_path": true, "options": true, "timezone": true}

// checkKeys refuses keys that pgx does not know: it takes them for settings of the server, and a host whose key is
// mistyped would be looked for on this machine. The key is not named: it may be part of a password that nobody quoted.
func checkKeys(params map[string]string) error {
	for key := range params {
		if !settings[key] {
			return fmt.Errorf("%w: the DSN has a key that is not known: correct it; usual ones are host, port, dbname, user, password, "+
				"passfile, target_session_attrs, sslmode, sslrootcert, sslcert, sslkey, connect_timeout, search_path and options; "+
				"a value with spaces is put between single quotes", ErrOptions)
		}
	}
	return nil
}

// unquoted says what is wrong with a DSN and nothing that stands in it: pgx finds a password only where it expects one, and
// it is because of a password that nobody quoted that many a DSN cannot be taken apart.
func unquoted(err error) string {
	var bad *pgconn.ParseConfigError
	if !errors.As(err, &bad) {
		return "its form is wrong"
	}
	said := *bad
	said.ConnString = ""
	what := strings.TrimPrefix(said.Error(), "cannot parse ``: ")
	if strings.HasPrefix(what, "failed to parse") {
		what, _, _ = strings.Cut(what, " (") // there it quotes what it did not understand
	}
	return what
}

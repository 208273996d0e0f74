package badgerstore

import (
	"errors"
	"fmt"
	"os"
	"time"

	badger "github.com/dgraph-io/badger/v4"
)

// database is one that is locked, inspected and open.
type database struct {
	db   *badger.DB
	lock *os.File
	took time.Duration // to open
	engineRows
}

// openDatabase opens the database in o.Dir for this process alone, or makes an empty one.
func openDatabase(o Options) (database, error) {
	lock, err := lockDir(o.Dir)
	if err != nil {
		return database{}, err
	}
	f, err := openLocked(o)
	if err != nil {
		return database{}, both(err, unlock(lock))
	}
	f.lock = lock
	return f, nil
}

func openLocked(o Options) (database, error) {
	if err := checkSpace(o); err != nil {
		return database{}, fmt.Errorf("opening the database in %s: %w", o.Dir, err)
	}
	began := time.Now()
	if err := inspect(o.Dir); err != nil {
		return database{}, corrupt(o.Dir, err)
	}
	db, err := openBadger(o)
	if err != nil {
		return database{}, fmt.Errorf("badgerstore: opening the database in %s: %s", o.Dir, oneLine(err.Error()))
	}
	rows, err := readEngineRows(db)
	if err != nil {
		return database{}, corrupt(o.Dir, errors.Join(err, db.Close()))
	}
	return database{db: db, took: time.Since(began), engineRows: rows}, nil
}

func (f database) close() error { return errors.Join(f.db.Close(), unlock(f.lock)) }

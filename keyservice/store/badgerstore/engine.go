package badgerstore

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"strings"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"ramzban/keyservice/store"
)

// The sizes Badger runs with.
const (
	memTableSize   = 16 << 20 // of a memtable and its log; a batch may take 15% of it
	memTables      = 3        // waiting to be flushed, besides the one being filled: at most 4 × 21 MiB of heap
	levelZero      = 4        // tables at level 0 that start a compaction
	levelZeroStall = 8        // and that make commits wait for it
	baseLevel      = 64 << 20 // of the level that level 0 is merged into: as much as is merged at once
	compactors     = 3        // the third one also cleans the last level
	valueThreshold = 1 << 20  // values below it are kept out of the value log; store.MaxValue is smaller
	valueLogSize   = 1 << 20  // the smallest there is, as it stays empty
	maxLevels      = 7        // Badger's default; inspect relies on it
	magic          = 0x525A   // marks the directory as this program's
)

// badgerOptions: rows are small and mostly ciphertext, so no compression; without it Badger serves blocks and indexes
// from the page cache and needs no caches of its own. Checksums are verified before opening, not on every read: at a
// bad block Badger's compaction would silently drop the rest of its table, which is worse than a damaged row that its
// seal betrays.
func badgerOptions(o Options) badger.Options {
	return badger.DefaultOptions(o.Dir).
		WithSyncWrites(!o.noSync).
		WithDetectConflicts(false).
		WithMemTableSize(o.memTable).
		WithNumMemtables(memTables).
		WithNumLevelZeroTables(levelZero).
		WithNumLevelZeroTablesStall(levelZeroStall).
		WithNumCompactors(compactors).
		WithMaxLevels(maxLevels).
		WithBaseLevelSize(baseLevel).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithChecksumVerificationMode(options.NoVerification).
		WithValueThreshold(min(valueThreshold, o.memTable*15/100)).
		WithValueLogFileSize(valueLogSize).
		WithMetricsEnabled(false).
		WithBypassLockGuard(true). // lockDir holds the same lock
		WithExternalMagic(magic).
		WithLogger(logger{o.Log})
}

// openBadger opens the database in managed mode. Badger panics on some damaged files: that is an error here.
func openBadger(o Options) (db *badger.DB, err error) {
	defer func() {
		if r := recover(); r != nil {
			db, err = nil, fmt.Errorf("opening it panicked: %v", r)
		}
	}()
	opts := badgerOptions(o)
	opts.LmaxCompaction = true
	return badger.OpenManaged(opts)
}

// The engine's rows. Those of the logs hold a schema byte, then the index of the node's next change, 8 bytes, big endian;
// other nodes' are those of a database that was copied, or whose node was renamed.
const (
	enginePrefix = "\x00badgerstore/"
	nextPrefix   = enginePrefix + "next/" // then the node's name
	fenceKey     = enginePrefix + "fence" // a store.Fence; none before the first copy
)

func nextKey(node string) []byte { return []byte(nextPrefix + node) }

const nextSchema = 1

func encodeNext(index uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{nextSchema}, index)
}

func decodeNext(b []byte) (uint64, error) {
	if len(b) != 9 {
		return 0, fmt.Errorf("the row of the next index has %d bytes instead of 9", len(b))
	}
	if b[0] != nextSchema {
		return 0, fmt.Errorf("the row of the next index has schema %d: this program reads %d", b[0], nextSchema)
	}
	return binary.BigEndian.Uint64(b[1:]), nil
}

// engineRows are what the engine keeps for itself.
type engineRows struct {
	batch uint64            // number of the last one
	next  map[string]uint64 // index of the next change of each node
	fence store.Fence
}

// readEngineRows returns the engine's rows as of the last batch. Every batch writes one of them: any newer row means that
// batches are missing.
func readEngineRows(db *badger.DB) (engineRows, error) {
	rows := engineRows{batch: db.MaxVersion(), next: map[string]uint64{}}
	txn := db.NewTransactionAt(rows.batch, false)
	defer txn.Discard()
	it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte(enginePrefix)})
	defer it.Close()
	var newest uint64
	for it.Rewind(); it.Valid(); it.Next() {
		newest = max(newest, it.Item().Version())
		if err := rows.read(it.Item()); err != nil {
			return engineRows{}, err
		}
	}
	if newest != rows.batch {
		return engineRows{}, fmt.Errorf("the newest of the engine's rows is of batch %d, the newest row of batch %d", newest, rows.batch)
	}
	return rows, nil
}

func (r *engineRows) read(item *badger.Item) error {
	node, isNext := strings.CutPrefix(string(item.Key()), nextPrefix)
	return item.Value(func(b []byte) (err error) {
		switch {
		case isNext:
			if r.next[node], err = decodeNext(b); err != nil {
				err = fmt.Errorf("the log of node %s: %w", node, err)
			}
		case string(item.Key()) == fenceKey:
			r.fence, err = store.DecodeFence(b)
		default:
			err = fmt.Errorf("the engine's row %q is none of this program's", item.Key())
		}
		return err
	})
}

// logger hands Badger's messages to slog, each on one line; what Badger calls information is detail here.
type logger struct{ log *slog.Logger }

func (l logger) Errorf(f string, a ...any)   { l.log.Error(message(f, a)) }
func (l logger) Warningf(f string, a ...any) { l.log.Warn(message(f, a)) }
func (l logger) Infof(f string, a ...any)    { l.log.Debug(message(f, a)) }
func (l logger) Debugf(string, ...any)       {}

// messageLimit is in bytes: Badger prints whole compactions, keys and all.
const messageLimit = 400

func message(format string, args []any) string {
	m := oneLine(fmt.Sprintf(format, args...))
	if len(m) > messageLimit {
		m = m[:messageLimit/2] + " … " + m[len(m)-messageLimit/2:]
	}
	return "badger: " + m
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

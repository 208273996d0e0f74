package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"ramzban/keyservice/store/badgerstore"
	"ramzban/keyservice/store/pgstore"
	"ramzban/keyservice/store/transfer"
)

func storeCommand() *cobra.Command {
	return group("store", "The database: moving it from one engine to another", storeCopyCommand())
}

// copyFlags say from where to where, and how the result is shown.
type copyFlags struct {
	from, to        string // configuration files
	abandon, asJSON bool
}

func storeCopyCommand() *cobra.Command {
	var f copyFlags
	c := &cobra.Command{
		Use:   "copy --from OLD.yaml --to NEW.yaml",
		Short: "Move the database to another one",
		Long: `Moves the database of one configuration to the empty one of another: from Badger to PostgreSQL or back.
Stop every node first. What is copied is compared before the new database is released; from then on only that one can be
served from. Whatever ends the copy early, the same command again finishes it; with --abandon it gives up a copy that is
not finished. To come back from a finished one, copy in the other direction. Run it as the service's user.

` + copyExits,
		Args: func(c *cobra.Command, args []string) error { return refusedFlags(cobra.NoArgs(c, args)) },
		RunE: func(c *cobra.Command, _ []string) error {
			keepFilesPrivate()
			return f.run(c.Context(), c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return refusedFlags(c.Parent().FlagErrorFunc()(c, err))
	})
	flags := c.Flags()
	flags.StringVar(&f.from, "from", "", "the configuration `FILE` whose database is copied")
	flags.StringVar(&f.to, "to", "", "the configuration `FILE` whose database is filled")
	flags.BoolVar(&f.abandon, "abandon", false, "give up the unfinished copy: the old database can be served from again")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON")
	return c
}

// refusedFlags gives a wrong command line the status of what must be mended first.
func refusedFlags(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", transfer.ErrRefused, err)
}

func (f copyFlags) run(ctx context.Context, out, notes io.Writer) error {
	if f.from == "" || f.to == "" {
		return fmt.Errorf("%w: give both --from and --to, configuration files of `ramzban serve`", transfer.ErrRefused)
	}
	from, err := openForCopy(ctx, "--from", f.from, false)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := openForCopy(ctx, "--to", f.to, true)
	if err != nil {
		return err
	}
	defer to.Close()
	report := copyReport{Database: from.Name(), Other: to.Name(), State: "abandoned", config: f.to, node: to.node}
	if f.abandon {
		if err := transfer.Abandon(ctx, from, to); err != nil {
			return interrupted(ctx, err, "run the same command again")
		}
		report.config = f.from
		return report.print(out, f.asJSON)
	}
	progress := newCopyProgress(notes)
	result, err := transfer.Copy(ctx, from, to, progress.report)
	progress.end()
	if err != nil {
		return explainCopy(ctx, err)
	}
	report.take(result)
	return report.print(out, f.asJSON)
}

// explainCopy says what to do after a copy that was begun and did not end.
func explainCopy(ctx context.Context, err error) error {
	if errors.Is(err, transfer.ErrRefused) {
		return err
	}
	if ctx.Err() != nil {
		err = errInterrupted
	}
	return fmt.Errorf("the copy is not finished: %w: run the same command again, or with --abandon to give it up; until then no node can serve", err)
}

// errInterrupted stands in place of what a signal made of a statement or a read that was under way.
var errInterrupted = errors.New("interrupted")

// interrupted puts what an operator knows in place of an error that only comes of the signal.
func interrupted(ctx context.Context, err error, advice string) error {
	if ctx.Err() == nil || errors.Is(err, transfer.ErrRefused) {
		return err
	}
	return fmt.Errorf("%w: %s", errInterrupted, advice)
}

// copied is a database that is open for a copy, and the node of the configuration that names it.
type copied struct {
	copyable
	node string
}

// copyable is such a database, of either engine.
type copyable interface {
	transfer.Database
	Close() error
}

// openForCopy opens the database that a configuration file names, whether or not a node may serve from it.
func openForCopy(ctx context.Context, flag, path string, mayBeNew bool) (copied, error) {
	c, err := loadForCopy(flag, path)
	if err != nil {
		return copied{}, err
	}
	log := slog.New(slog.DiscardHandler)
	var d copyable
	if c.Store.Postgres != nil {
		d, err = c.Store.Postgres.openForCopy(ctx, mayBeNew, log)
	} else {
		d, err = c.Store.Badger.openForCopy(mayBeNew, log)
	}
	if errors.Is(err, badgerstore.ErrLocked) {
		err = fmt.Errorf("%w: %w", transfer.ErrRefused, err)
	}
	if err != nil {
		return copied{}, fmt.Errorf("%s %s: %w", flag, path, interrupted(ctx, err, "nothing was changed"))
	}
	return copied{d, c.Node}, nil
}

func loadForCopy(flag, path string) (Config, error) {
	c, err := LoadConfig(path)
	var unread *fs.PathError
	switch {
	case errors.As(err, &unread) && unread.Path == path:
		return Config{}, fmt.Errorf("%w: %w: name an existing file with %s", errConfiguration, unread, flag)
	case err != nil:
		return Config{}, fmt.Errorf("%s: %w", flag, err)
	}
	return c, nil
}

func (b BadgerConfig) openForCopy(mayBeNew bool, log *slog.Logger) (copyable, error) {
	const key = "store.badger.dir"
	if err := requirePrivate(key, b.Dir); err != nil {
		return nil, err
	}
	if err := requireOwn(key, b.Dir, os.Geteuid()); err != nil {
		return nil, err
	}
	found, err := badgerstore.Exists(b.Dir)
	if err != nil {
		return nil, wrong(key, "%v: let the service's user look at it", err)
	}
	if !found && !mayBeNew {
		return nil, wrong(key, "%s holds no database: mount its disk, or name another configuration", b.Dir)
	}
	return open(badgerstore.OpenTransfer(badgerstore.Options{Dir: b.Dir, Reserve: uint64(b.Reserve), Log: log}))
}

// requireOwn refuses a folder of another user, whose node could not open what this process writes there. Of a folder that
// is yet to be made, root is refused if what it will be in is another user's.
func requireOwn(key, dir string, uid int) error {
	there := dir
	info, err := os.Stat(there)
	for errors.Is(err, fs.ErrNotExist) && there != filepath.Dir(there) {
		there = filepath.Dir(there)
		info, err = os.Stat(there)
	}
	if err != nil {
		return wrong(key, "%v: let the service's user look at it", err)
	}
	stat, known := info.Sys().(*syscall.Stat_t)
	if !known || int(stat.Uid) == uid || there != dir && uid != 0 {
		return nil
	}
	return wrong(key, "%s belongs to %s: run the copy as that user", there, nameOfUser(stat.Uid))
}

func nameOfUser(uid uint32) string {
	id := fmt.Sprint(uid)
	if u, err := user.LookupId(id); err == nil {
		return "the user " + u.Username
	}
	return "the user with the number " + id
}

func (p PostgresConfig) openForCopy(ctx context.Context, mayBeNew bool, log *slog.Logger) (copyable, error) {
	dsn, err := p.dsn()
	if err != nil {
		return nil, err
	}
	expect := pgstore.ExpectUsed
	if mayBeNew {
		expect = pgstore.ExpectAny
	}
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	d, err := pgstore.OpenTransfer(ctx, pgstore.Options{DSN: dsn, Expect: expect, StatementTimeout: time.Duration(p.StatementTimeout), Log: log})
	switch {
	case errors.Is(err, pgstore.ErrAbsent):
		return nil, wrong(p.dsnKey(), "its database is no node's yet: there is nothing to copy")
	case errors.Is(err, pgstore.ErrRights):
		return nil, fmt.Errorf("%w: %s: %w", errConfiguration, p.dsnKey(), err)
	case err != nil:
		return nil, p.explain(err)
	}
	return d, nil
}

// open keeps a nil of an engine's type from passing for a database.
func open[D copyable](d D, err error) (copyable, error) {
	if err != nil {
		return nil, err
	}
	return d, nil
}

// copyReport is what the command has done.
type copyReport struct {
	Database string            `json:"from"`
	Other    string            `json:"to"`
	State    string            `json:"state"` // "moved", "moved before" or "abandoned"
	Rows     uint64            `json:"rows,omitempty"`
	Bytes    uint64            `json:"bytes,omitempty"`
	Kinds    map[string]uint64 `json:"rows_by_kind,omitempty"`
	Logs     map[string]uint64 `json:"audit_entries_by_node,omitempty"`
	Digest   string            `json:"sha256,omitempty"`

	config string // what to start a node with now
	node   string // of the new configuration
}

func (r *copyReport) take(result transfer.Result) {
	if r.State = "moved"; result.Already {
		r.State = "moved before"
		return
	}
	r.Rows, r.Bytes, r.Logs, r.Digest = result.Rows, result.Bytes, result.Logs, fmt.Sprintf("%x", result.Digest)
	r.Kinds = map[string]uint64{}
	for letter, rows := range result.Kinds {
		r.Kinds[kindOf(letter)] += rows
	}
}

// kinds are the rows of the key service in words, by the first letter of their keys.
var kinds = map[string]string{
	"a": "audit entries", "b": "guess budgets", "c": "codes and challenges", "d": "declared restores", "e": "what pruned logs said", "f": "beginnings of pruned logs", "h": "makers' seeds",
	"i": "idempotent answers", "k": "key ring", "l": "live tokens of customers", "m": "Merkle trees of the logs",
	"n": "checkpoints of the logs", "o": "officers", "p": "proposals", "q": "imports of clear seeds", "s": "token states", "t": "tokens", "u": "subject feeds", "w": "leases of background work",
}

func kindOf(letter string) string {
	if name := kinds[letter]; name != "" {
		return name
	}
	return "others"
}

func (r copyReport) print(out io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	switch r.State {
	case "abandoned":
		_, err := fmt.Fprintf(out, "The copy is given up: %s can be served from again.\n%s is empty, and stays closed to nodes.\n"+
			"Next: start the nodes with the configuration %s.\n", r.Database, capital(r.Other), r.config)
		return err
	case "moved before":
		_, err := fmt.Fprintf(out, "%s was moved before: there was nothing left to copy.\nNext: start the nodes on %s, with the configuration %s.\n",
			capital(r.Database), r.Other, r.config)
		return err
	}
	return r.printMoved(out)
}

func (r copyReport) printMoved(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Moved %s\n   to %s.\n\n", r.Database, r.Other)
	for _, name := range slices.Sorted(maps.Keys(r.Kinds)) {
		fmt.Fprintf(&b, "%12d  %s\n", r.Kinds[name], name)
	}
	fmt.Fprintf(&b, "%12d  rows in all\n\nThe copy, read again, is the same: SHA-256 %s\n", r.Rows, r.Digest)
	for _, node := range slices.Sorted(maps.Keys(r.Logs)) {
		fmt.Fprintf(&b, "The log of node %s goes on with entry %d.\n", node, r.Logs[node])
	}
	if _, goesOn := r.Logs[r.node]; !goesOn {
		fmt.Fprintf(&b, "Node %s, of the configuration %s, begins a new log.\n", r.node, r.config)
	}
	fmt.Fprintf(&b, "\nNext: start the nodes with the configuration %s.\n%s is closed to nodes; to come back, copy in the other direction.\n"+
		"Take the new database into the backups before the old one is deleted.\n", r.config, capital(r.Database))
	_, err := io.WriteString(out, b.String())
	return err
}

// capital begins a sentence with the name of a database.
func capital(s string) string {
	if s[0] == 't' {
		return "T" + s[1:]
	}
	return s
}

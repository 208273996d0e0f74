// Package witness keeps the newest checkpoint of each node's audit log where whoever holds the database does not reach it:
// in a directory, or on a second host over HTTPS. A witness never goes back: it takes a checkpoint only with the proof that
// its tree begins with the one held before (https://c2sp.org/tlog-witness).
//
// It must not know the service, nor any database: it trusts the public audit keys alone.
package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/store"
)

// Keys returns an installation's public audit keys. Those of one must not be returned for another: whoever has them would
// sign its checkpoints.
type Keys func(ctx context.Context, installation string) ([]audit.PublicKey, error)

// Dir is a witness in a directory, of any number of installations: DIR/INSTALLATION/NODE/checkpoint is the node's newest
// signed checkpoint. Each new one takes the place of the one before, so that a crash leaves either, whole. It is safe for
// concurrent use.
type Dir struct {
	path string
	keys Keys
	mu   sync.Mutex // held while a file is compared and replaced
}

const (
	fileName   = "checkpoint"
	dirMode    = 0o755
	publicMode = 0o644
)

// OpenDir opens a directory, which must be there: one that is not mounted must not look like one without checkpoints.
func OpenDir(path string, keys Keys) (*Dir, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("the witness's directory: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("the witness's directory: %s is none", path)
	}
	return &Dir{path: path, keys: keys}, nil
}

// Offer takes a checkpoint in place of the one held: see audit.Offer.Accept for what it refuses. audit.ErrSignature: none
// of the installation's keys signed it.
func (d *Dir) Offer(ctx context.Context, o audit.Offer) error {
	offered, of, err := d.open(ctx, o.Note)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	held, err := d.held(ctx, of)
	if err != nil {
		return err
	}
	if err := o.Accept(held, offered); err != nil {
		return err
	}
	return d.replace(of, o.Note)
}

// owner is whose log it is.
type owner struct{ installation, node string }

// open checks a note's signature, under the origin that it claims.
func (d *Dir) open(ctx context.Context, note []byte) (audit.Checkpoint, owner, error) {
	installation, node, err := audit.OriginOf(note)
	if err != nil {
		return audit.Checkpoint{}, owner{}, err
	}
	keys, err := d.keys(ctx, installation)
	if err != nil {
		return audit.Checkpoint{}, owner{}, err
	}
	c, err := audit.OpenCheckpoint(note, audit.Origin(installation, node), keys)
	return c, owner{installation, node}, err
}

// held reads what is held of a node; the zero value if that is nothing.
func (d *Dir) held(ctx context.Context, of owner) (audit.Checkpoint, error) {
	path := d.file(of)
	note, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return audit.Checkpoint{}, nil
	}
	if err != nil {
		return audit.Checkpoint{}, err
	}
	c, says, err := d.open(ctx, note)
	if err == nil && says != of {
		err = fmt.Errorf("%w: it is of %s", audit.ErrCheckpoint, c.Origin)
	}
	if err != nil { // of these files, so none of the errors that speak of what was offered
		return audit.Checkpoint{}, fmt.Errorf("the witness's own file %s is damaged: %v", path, err)
	}
	return c, nil
}

func (d *Dir) file(of owner) string { return filepath.Join(d.path, of.installation, of.node, fileName) }

// replace makes the note what is held, on disk.
func (d *Dir) replace(of owner, note []byte) error {
	path := d.file(of)
	if now, err := os.ReadFile(path); err == nil && bytes.Equal(now, note) {
		return nil
	}
	dir := filepath.Dir(path)
	if err := errors.Join(makeDir(filepath.Dir(dir)), makeDir(dir)); err != nil {
		return err
	}
	next := path + ".new"
	if err := write(next, note); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	return syncDir(dir)
}

// makeDir makes a directory, on disk, if it is not there.
func makeDir(dir string) error {
	err := os.Mkdir(dir, dirMode)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// write makes a file, on disk.
func write(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, publicMode)
	if err != nil {
		return err
	}
	_, werr := f.Write(content)
	return errors.Join(werr, f.Sync(), f.Close())
}

// syncDir makes a directory's entries durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Held returns the checkpoints that are held of an installation, of all nodes in the order of their names, as they stand
// there: nothing of them was checked.
func (d *Dir) Held(_ context.Context, installation string) ([][]byte, error) {
	if err := store.CheckNode(installation); err != nil { // it becomes a path
		return nil, fmt.Errorf("%w: %q is no installation", audit.ErrOffer, installation)
	}
	if _, err := os.Stat(d.path); err != nil {
		return nil, fmt.Errorf("the witness's directory: %w", err)
	}
	dir := filepath.Join(d.path, installation)
	nodes, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the witness's directory: %w", err)
	}
	var notes [][]byte
	for _, node := range nodes {
		note, err := os.ReadFile(filepath.Join(dir, node.Name(), fileName))
		switch {
		case err == nil:
			notes = append(notes, note)
		case node.IsDir() && !errors.Is(err, os.ErrNotExist):
			return nil, fmt.Errorf("the witness's directory: %w", err)
		}
	}
	return notes, nil
}

package badgerstore

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"
)

// Names and sizes of Badger's files.
const (
	tableSuffix    = ".sst"
	walSuffix      = ".mem"
	valueSuffix    = ".vlog"
	logHeader      = 20 // of both logs: key id and initialisation vector
	registryHeader = 16 // initialisation vector, before registryText
	registryText   = "Hello Badger"
)

// inspect looks for damage before Badger opens the directory, because Badger would not report all of it: it panics or
// exits on a damaged table, drops what follows damage in a memtable's log, and deletes tables that a shortened manifest
// no longer names. Three facts make it visible: everything carries checksums, batch numbers have no gaps, and only the
// last batch can have been cut short.
//
// It cannot tell a damaged last batch from one that a power cut tore. The audit log's anchor outside can.
//
// It also removes empty logs, left by a process killed while it made or removed one: Badger refuses to open with them.
func inspect(dir string) error {
	if err := removeEmptyLogs(dir); err != nil {
		return err
	}
	if err := inspectRegistry(dir); err != nil {
		return err
	}
	manifest, err := readManifest(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", badger.ManifestFilename, err)
	}
	newest, err := inspectTables(dir, manifest)
	if err != nil {
		return err
	}
	if newest, err = inspectLogs(dir, newest); err != nil {
		return err
	}
	if err := inspectValueLogs(dir); err != nil {
		return err
	}
	return inspectUnnamed(dir, manifest, newest)
}

// list returns the paths of the files with the suffix in the order of their numbers, which Badger pads with zeroes.
func list(dir, suffix string) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(escapeGlob(dir), "*"+suffix))
	if err != nil {
		return nil, err
	}
	slices.SortFunc(paths, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return paths, nil
}

func escapeGlob(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

func removeEmptyLogs(dir string) error {
	wals, err := list(dir, walSuffix)
	if err != nil {
		return err
	}
	values, err := list(dir, valueSuffix)
	if err != nil {
		return err
	}
	for _, path := range append(wals, values...) {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Size() > 0 {
			continue
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// inspectRegistry checks the file of encryption keys, of which there are none.
func inspectRegistry(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, badger.KeyRegistryFileName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(b) != registryHeader+len(registryText) || string(b[registryHeader:]) != registryText {
		return fmt.Errorf("%s is damaged, or the database is encrypted", badger.KeyRegistryFileName)
	}
	return nil
}

// readManifest returns the list of tables; it is empty in a new directory.
func readManifest(dir string) (m badger.Manifest, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("reading it panicked: %v", r)
		}
	}()
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		return badger.Manifest{}, isNew(dir)
	}
	if err != nil {
		return badger.Manifest{}, err
	}
	defer f.Close()
	m, _, err = badger.ReplayManifestFile(f, magic, badger.DefaultOptions(dir).WithLogger(nil))
	return m, err
}

// Exists says whether dir holds a database, or what is left of a damaged one; it changes nothing.
func Exists(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, badger.ManifestFilename))
	if !errors.Is(err, fs.ErrNotExist) {
		return err == nil, err
	}
	for _, suffix := range []string{tableSuffix, walSuffix, valueSuffix} {
		if found, err := list(dir, suffix); err != nil || len(found) > 0 {
			return err == nil, err
		}
	}
	return false, nil
}

// isNew makes sure that there is nothing without a manifest: Badger makes it first.
func isNew(dir string) error {
	for _, suffix := range []string{tableSuffix, walSuffix, valueSuffix} {
		found, err := list(dir, suffix)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			return fmt.Errorf("missing, but there is %s", filepath.Base(found[0]))
		}
	}
	return nil
}

// inspectTables verifies every table that the manifest names and returns the newest batch in them.
func inspectTables(dir string, manifest badger.Manifest) (newest uint64, err error) {
	for id, t := range manifest.Tables {
		path := table.NewFilename(id, dir)
		if t.Level >= maxLevels || t.KeyID != 0 {
			return 0, fmt.Errorf("%s: the manifest says level %d, key %d", filepath.Base(path), t.Level, t.KeyID)
		}
		batch, err := inspectTable(path)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", filepath.Base(path), err)
		}
		newest = max(newest, batch)
	}
	return newest, nil
}

// inspectLogs checks that the memtables' logs continue the tables, and each other, without a gap. It returns the newest
// batch.
func inspectLogs(dir string, newest uint64) (uint64, error) {
	paths, err := list(dir, walSuffix)
	if err != nil {
		return 0, err
	}
	var previous uint64 // last batch of the log before
	for _, path := range paths {
		name := filepath.Base(path)
		b, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		found, err := walkLog(b, newest)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		if found.first == 0 {
			continue
		}
		if found.first > newest+1 || previous > 0 && found.first != previous+1 {
			return 0, fmt.Errorf("%s begins with batch %d: batches before it are missing", name, found.first)
		}
		previous = found.last
		newest = max(newest, found.last)
	}
	return newest, nil
}

func inspectValueLogs(dir string) error {
	paths, err := list(dir, valueSuffix)
	if err != nil {
		return err
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if len(b) > logHeader && len(bytes.TrimRight(b[logHeader:], "\x00")) > 0 {
			return fmt.Errorf("%s is damaged: it should be empty", filepath.Base(path))
		}
	}
	return nil
}

// inspectUnnamed looks at tables that the manifest does not name; Badger deletes them. They come of a crash in a flush
// or a compaction, and then hold nothing that the others and the logs do not hold. If they do, the manifest lost its end.
func inspectUnnamed(dir string, manifest badger.Manifest, newest uint64) error {
	paths, err := list(dir, tableSuffix)
	if err != nil {
		return err
	}
	for _, path := range paths {
		id, ok := table.ParseFileID(path)
		if _, named := manifest.Tables[id]; named && ok {
			continue
		}
		batch, err := inspectTable(path)
		if err == nil && batch > newest {
			return fmt.Errorf("%s: it does not name %s, which holds the newest batch", badger.ManifestFilename, filepath.Base(path))
		}
	}
	return nil
}

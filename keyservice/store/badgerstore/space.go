package badgerstore

import (
	"fmt"

	"golang.org/x/sys/unix"

	"ramzban/keyservice/store"
)

// FreeSpace returns the bytes that an unprivileged process may still write on the directory's disk.
func FreeSpace(dir string) (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("asking %s for its free space: %w", dir, err)
	}
	return fs.Bavail * uint64(fs.Bsize), nil
}

// checkSpace returns store.ErrNoSpace below the reserve. Badger writes through memory maps: on a full disk the process
// would die of SIGBUS, and again at every start.
func checkSpace(o Options) error {
	free, err := o.FreeSpace(o.Dir)
	if err != nil {
		return err
	}
	if free < o.Reserve {
		return fmt.Errorf("%w: %d MiB are free in %s, %d MiB must stay free: make room on this disk",
			store.ErrNoSpace, free>>20, o.Dir, o.Reserve>>20)
	}
	return nil
}

package archive

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// An archive may have been made by whoever wants its reader to err, to wait for ever or to run out of memory. So only plain
// files and folders in it are opened, and of each no more is read than it can rightly hold.

// Bounds of an archive. A folder of exports made every five minutes has 300,000 files a year.
const (
	maxFiles = 1 << 20  // in a node's folder, and beside the nodes' folders
	maxNodes = 500      // logs: each has a file open while they are verified
	maxNote  = 64 << 10 // bytes of a checkpoint, and of the public keys
	maxLine  = 4 << 20  // bytes of a line, which holds an entry of at most 256 KiB twice
)

// Folder is an archive on disk. It is an fs.FS that opens plain files and folders alone: no symbolic link, whatever it leads
// to, and nothing that would keep its reader waiting, such as a pipe or a device.
type Folder struct{ root *os.Root }

// OpenFolder opens an archive's folder; the caller closes it.
func OpenFolder(path string) (*Folder, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("opening the archive: %w", err)
	}
	return &Folder{root}, nil
}

// Close ends the reading.
func (f *Folder) Close() error { return f.root.Close() }

// Open implements fs.FS; ErrArchive if something on the way is neither a plain file nor a folder.
func (f *Folder) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	for end, c := range name + "/" {
		if c != '/' {
			continue
		}
		info, err := f.root.Lstat(name[:end])
		if err != nil {
			return nil, err
		}
		if err := plain(name[:end], info.Mode()); err != nil {
			return nil, err
		}
	}
	// Without waiting: it may have become a pipe meanwhile.
	file, err := f.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil {
		err = plain(name, info.Mode())
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func plain(name string, mode fs.FileMode) error {
	if mode.IsRegular() || mode.IsDir() {
		return nil
	}
	return fmt.Errorf("%w: %s is neither a plain file nor a folder", ErrArchive, name)
}

// ReadPlain reads a plain file of at most so many bytes: for what others wrote that is no archive.
func ReadPlain(path string, most int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return readAll(f, path, most)
}

// readFile reads a file of an archive that has at most so many bytes.
func readFile(dir fs.FS, name string, most int64) ([]byte, error) {
	f, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return readAll(f, name, most)
}

func readAll(f fs.File, name string, most int64) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is no plain file", ErrArchive, name)
	}
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%w: %s has more than %d bytes", ErrArchive, name, most)
	}
	return b, err
}

// filesIn lists a folder, unless it has more files than any archive.
func filesIn(dir fs.FS) (all []fs.DirEntry, err error) {
	f, err := dir.Open(".")
	if err != nil {
		return nil, fmt.Errorf("reading the archive: %w", err)
	}
	defer func() { _ = f.Close() }()
	folder, is := f.(fs.ReadDirFile)
	if !is {
		return nil, fmt.Errorf("%w: it is no folder", ErrArchive)
	}
	for {
		some, err := folder.ReadDir(1024)
		if all = append(all, some...); len(all) > maxFiles {
			return nil, fmt.Errorf("%w: a folder has more than %d files", ErrArchive, maxFiles)
		}
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the archive: %w", err)
		}
	}
}

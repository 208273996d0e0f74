package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"ramzban/api/client"
	"ramzban/hsm"
	"ramzban/keyservice/backup"
)

func backupCommand() *cobra.Command {
	var o client.Options
	var out string
	var asJSON bool
	c := &cobra.Command{
		Use:   "backup --out FILE",
		Short: "Take a backup of the running service's database",
		Long: "Takes a backup while the service works: all of the database as of one moment, encrypted so that only the HSM opens\n" +
			"it. FILE appears when it is whole and on disk. To restore one see `ramzban restore`.",
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q: see `%s --help`", args[0], c.CommandPath())
			}
			if out == "" {
				return errors.New("name the file to write with --out")
			}
			keepFilesPrivate()
			return takeBackup(c.Context(), c.OutOrStdout(), o, out, asJSON)
		},
	}
	clientFlags(c, &o, "operator")
	c.Flags().StringVar(&out, "out", "", "`FILE` to write, which must not be there")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.AddCommand(backupVerifyCommand())
	return c
}

// takenBackup is what the command has done.
type takenBackup struct {
	File   string `json:"file"`
	Rows   uint64 `json:"rows"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

func takeBackup(ctx context.Context, out io.Writer, o client.Options, path string, asJSON bool) error {
	api, err := openClient(o)
	if err != nil {
		return err
	}
	defer api.Close()
	if there, err := exists(path); err != nil || there {
		return errors.Join(err, fmt.Errorf("%s is there already: name another file with --out", path))
	}
	var taken client.BackupTaken
	err = writeWhole(path, func(w io.Writer) (err error) {
		taken, err = api.Backup(ctx, w)
		return err
	})
	if err != nil {
		return fmt.Errorf("taking a backup: %w", interrupted(ctx, explainCall(err), "nothing was written"))
	}
	if asJSON {
		return json.NewEncoder(out).Encode(takenBackup{path, taken.Rows, taken.Bytes, taken.SHA256})
	}
	_, err = fmt.Fprintf(out, "%s: %d rows, %d bytes\nSHA-256 %s\n", path, taken.Rows, taken.Bytes, taken.SHA256)
	return err
}

// writeWhole makes a new file that appears under its name when all of it is on disk. Of what was cut short nothing is left.
func writeWhole(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".backup-*") // mode 0600
	if err != nil {
		return err
	}
	err = write(f)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Link(f.Name(), path) // never in place of another
	}
	if err = errors.Join(err, os.Remove(f.Name())); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func backupVerifyCommand() *cobra.Command {
	var config string
	var asJSON bool
	c := &cobra.Command{
		Use:   "verify FILE",
		Short: "Read all of a backup, which takes the HSM, and say what is in it",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			loaded, err := LoadConfig(config)
			if err != nil {
				return err
			}
			return withHSM(c.Context(), loaded, func(h *hsm.HSM) error {
				return verifyBackup(c.Context(), c.OutOrStdout(), args[0], h, asJSON)
			})
		},
	}
	configFlag(c, &config)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// withHSM opens the HSM of a configuration for a command that runs no service.
func withHSM(ctx context.Context, c Config, fn func(*hsm.HSM) error) error {
	h, err := openHSM(ctx, c.HSM, slog.New(slog.DiscardHandler), func(error) {})
	if err != nil {
		return err
	}
	return errors.Join(fn(h), h.Close())
}

// verifiedBackup is what is in a backup.
type verifiedBackup struct {
	File         string        `json:"file"`
	SHA256       string        `json:"sha256"`
	Installation string        `json:"installation"`
	Taken        time.Time     `json:"taken"`
	Node         string        `json:"node"`
	Ring         uint64        `json:"key_ring_revision"`
	Rows         uint64        `json:"rows"`
	Bytes        uint64        `json:"bytes"`
	Logs         []verifiedLog `json:"logs"`
}

type verifiedLog struct {
	Node    string `json:"node"`
	Entries uint64 `json:"entries"`
}

func verifyBackup(ctx context.Context, out io.Writer, path string, keys backup.Keys, asJSON bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	file, err := backup.OpenFile(ctx, f, info.Size(), keys)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	total, err := file.Check(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	h := file.Header
	v := verifiedBackup{path, hex.EncodeToString(file.Digest[:]), h.Installation, time.UnixMilli(h.Time).UTC(), h.Node, h.Ring, total.Rows, total.Bytes, nil}
	for _, l := range h.Logs {
		v.Logs = append(v.Logs, verifiedLog{l.Node, l.Entries})
	}
	if asJSON {
		return json.NewEncoder(out).Encode(v)
	}
	return v.print(out)
}

func (v verifiedBackup) print(out io.Writer) error {
	_, err := fmt.Fprintf(out, "%s is whole: %d rows, %d bytes inside\ntaken         %s by node %s\ninstallation  %s, key ring %d\nSHA-256       %s\n",
		v.File, v.Rows, v.Bytes, v.Taken.Format(time.RFC3339), v.Node, v.Installation, v.Ring, v.SHA256)
	for _, l := range v.Logs {
		if err == nil {
			_, err = fmt.Fprintf(out, "log of %s up to entry %d\n", l.Node, l.Entries)
		}
	}
	return err
}

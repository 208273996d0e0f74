package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"ramzban/hsm"
	"ramzban/keyservice"
	"ramzban/keyservice/audit"
	"ramzban/keyservice/audit/archive"
	"ramzban/keyservice/backup"
)

// restoreFlags say what is restored, where to, and who wants it.
type restoreFlags struct {
	config, backup, archive, proposal, approval string
	list                                        string // file for the tokens that are not what they were
	asJSON                                      bool
}

func restoreCommand() *cobra.Command {
	var f restoreFlags
	c := &cobra.Command{
		Use:   "restore --config NEW.yaml --backup FILE --proposal FILE --approval FILE",
		Short: "Make a new database out of a backup, as two officers have agreed",
		Long: `Restores a backup into the new, empty database of a configuration, of either engine, with the installation's HSM. Two
officers must have agreed on this file and on the anchor: see ` + "`ramzban restore parameters`" + `.

Nothing that was used or ended after the backup lives again. With --archive, the exported audit log, every token is brought
up to what the log says up to the anchor; without it, or if entries are missing there, all tokens start suspended. Passwords
of every time step until now, plus the longest drift and validity, are refused: customers wait some minutes.

` + restoreExits,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q: see `%s --help`", args[0], c.CommandPath())
			}
			keepFilesPrivate()
			return f.run(c.Context(), c.OutOrStdout())
		},
	}
	flags := c.Flags()
	flags.StringVar(&f.config, "config", "", "the configuration `FILE` whose database is made")
	flags.StringVar(&f.backup, "backup", "", "`FILE` that `ramzban backup` wrote")
	flags.StringVar(&f.archive, "archive", "", "`FOLDER` that `ramzban audit export` wrote")
	flags.StringVar(&f.proposal, "proposal", "", "`FILE` with an officer's signed proposal")
	flags.StringVar(&f.approval, "approval", "", "`FILE` with another officer's signed approval of it")
	flags.StringVar(&f.list, "list", "", "`FILE` to write, one JSON line for each token that is not what it was")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON")
	c.AddCommand(restoreParametersCommand())
	return c
}

// restoreExits are the exit statuses and what they mean, for --help.
const restoreExits = `Exit statuses:
   0  the database is whole: start the nodes
   1  it was refused, or cut short by an interruption, a server or a disk: until it ends well nobody can serve from there
  65  the backup or a database is damaged`

func (f restoreFlags) run(ctx context.Context, out io.Writer) error {
	if f.config == "" || f.backup == "" || f.proposal == "" || f.approval == "" {
		return errors.New("give --config, --backup, --proposal and --approval: see `ramzban restore --help`")
	}
	c, err := LoadConfig(f.config)
	if err != nil {
		return err
	}
	into, err := openForCopy(ctx, "--config", f.config, true)
	if err != nil {
		return err
	}
	defer into.Close()
	var result keyservice.Restored
	err = withHSM(ctx, c, func(h *hsm.HSM) (err error) {
		result, err = f.restore(ctx, c, h, into)
		return err
	})
	if err != nil {
		return explainRestore(ctx, err)
	}
	if err := f.writeList(result.Changed); err != nil {
		return err
	}
	return f.print(out, into, result)
}

// restore reads the files and restores.
func (f restoreFlags) restore(ctx context.Context, c Config, h *hsm.HSM, into copied) (keyservice.Restored, error) {
	var none keyservice.Restored
	file, err := os.Open(f.backup)
	if err != nil {
		return none, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return none, err
	}
	r := keyservice.Restore{HSM: h, File: file, Size: info.Size(), Node: c.Node, Into: into, Clock: time.Now}
	if r.Persons, err = c.persons(); err != nil {
		return none, err
	}
	if r.Proposal, err = readSigned(f.proposal); err != nil {
		return none, err
	}
	if r.Approval, err = readSigned(f.approval); err != nil {
		return none, err
	}
	if f.archive != "" {
		folder, err := archive.OpenFolder(f.archive)
		if err != nil {
			return none, err
		}
		defer func() { _ = folder.Close() }()
		if r.Archive, err = archive.NewReader(folder); err != nil {
			return none, fmt.Errorf("%s: %w", f.archive, err)
		}
	}
	return r.Run(ctx)
}

// persons are whose signatures count.
func (c Config) persons() (keyservice.Persons, error) {
	directory, err := c.directory()
	if err != nil {
		return keyservice.Persons{}, err
	}
	conf, revoked, err := c.API.tlsConfig(slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		return keyservice.Persons{}, err
	}
	p := keyservice.Persons{Directory: directory, Roots: conf.ClientCAs}
	if revoked != nil {
		p.Revoked = revoked.verifyChain
	}
	return p, nil
}

// explainRestore says what to do.
func explainRestore(ctx context.Context, err error) error {
	var e *keyservice.Error
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%w: run the same command again; until it ends well nobody can serve from there", errInterrupted)
	case errors.Is(err, backup.ErrDamaged):
		return fmt.Errorf("%w: take another backup", err)
	case errors.As(err, &e):
		return fmt.Errorf("not restored: %s", e.Detail)
	}
	return fmt.Errorf("not restored: %w", err)
}

func (f restoreFlags) writeList(changed []keyservice.TokenFate) error {
	if f.list == "" {
		return nil
	}
	return writeWhole(f.list, func(w io.Writer) error { return printJSON(w, changed) })
}

// restoreReport is what the command has done.
type restoreReport struct {
	Database     string                 `json:"database"`
	Installation string                 `json:"installation"`
	Proposal     string                 `json:"proposal"`
	Taken        time.Time              `json:"backup_taken"`
	Restored     time.Time              `json:"restored"`
	Complete     bool                   `json:"complete"`
	Rows         uint64                 `json:"rows"`
	Entries      uint64                 `json:"entries_put_back"`
	Tokens       int                    `json:"tokens"`
	Suspended    int                    `json:"suspended"`
	Gone         int                    `json:"gone"`
	Unreadable   int                    `json:"unreadable"`
	Closed       []keyservice.ClosedLog `json:"closed_logs,omitempty"`
}

func (f restoreFlags) print(out io.Writer, into copied, r keyservice.Restored) error {
	report := restoreReport{
		into.Name(), r.Installation, r.Proposal, r.TakenAt, r.Now, r.Complete, r.Rows, r.Entries, r.Tokens, r.Suspended, r.Gone, r.Unreadable, r.Closed,
	}
	if f.asJSON {
		return json.NewEncoder(out).Encode(report)
	}
	return report.print(out, f)
}

func (r restoreReport) print(out io.Writer, f restoreFlags) error {
	how := "Nothing is missing: every token is what the log says, up to the anchor."
	if !r.Complete {
		how = "ENTRIES ARE LOST: every token that lived is suspended. Look at what your own\nbooks say of each before it is resumed. Counters take two resynchronisations."
	}
	text := fmt.Sprintf("Restored the backup of %s\nto %s.\n\n%s\n\n%12d  rows\n%12d  audit entries put back\n%12d  tokens written anew\n%12d  of them suspended\n"+
		"%12d  tokens gone: issue new ones\n%12d  tokens whose rows fail their check\n",
		r.Taken.Format(time.RFC3339), r.Database, how, r.Rows, r.Entries, r.Tokens, r.Suspended, r.Gone, r.Unreadable)
	for _, l := range r.Closed {
		text += fmt.Sprintf("\nThe log of node %s ends with entry %d: no node may have this name any more.\n", l.Node, l.Entries)
	}
	if f.list == "" && r.Suspended+r.Gone+r.Unreadable > 0 {
		text += "\nWhich tokens these are stands in the log, and in what --list FILE writes.\n"
	}
	text += fmt.Sprintf("\nNext: start the nodes with the configuration %s.\n", f.config)
	_, err := io.WriteString(out, text)
	return err
}

// digestOf is the SHA-256 of a file, in hexadecimal.
func digestOf(f *os.File) (string, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, 1<<62)); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func restoreParametersCommand() *cobra.Command {
	var file string
	var anchors, keys, nodes, without []string
	c := &cobra.Command{
		Use:   "parameters --backup FILE --anchor FOLDER --key FILE",
		Short: "Print what two officers sign to have a backup restored",
		Long: "Prints the parameters of a proposal to restore, for `ramzban approvals sign --action restore --parameters`: the backup's\n" +
			"SHA-256, of each node the newest checkpoint that a witness holds, and the names of all nodes that wrote to the database\n" +
			"until it was lost: those of the anchors, and each --node. Look whether one is missing: what it decided would live again.\n" +
			"A log without an anchor counts as cut.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := restoreParameters(file, anchors, keys, nodes)
			if err != nil {
				return err
			}
			p.Without = without
			return json.NewEncoder(c.OutOrStdout()).Encode(p)
		},
	}
	f := c.Flags()
	f.StringVar(&file, "backup", "", "`FILE` that `ramzban backup` wrote")
	f.StringArrayVar(&anchors, "anchor", nil, "checkpoint that a witness keeps: its `FILE`, or its folder of the installation")
	f.StringArrayVar(&nodes, "node", nil, "`NAME` of a further node that wrote to the database, also if it joined after the backup")
	f.StringArrayVar(&without, "without", nil, "version of a master key that is gone, `KEY` such as ramzban/wrap/1: what needs it is given up, and an HSM that still has it erases it")
	f.StringArrayVar(&keys, "key", nil, "`FILE` with a public audit key (PEM); once for each version")
	return c
}

func restoreParameters(file string, anchors, keys, nodes []string) (p keyservice.RestoreParameters, err error) {
	if file == "" || len(anchors) > 0 && len(keys) == 0 {
		return p, errors.New("give --backup, and for every --anchor the --key that it is checked with")
	}
	f, err := os.Open(file)
	if err != nil {
		return p, err
	}
	defer func() { _ = f.Close() }()
	if p.Backup, err = digestOf(f); err != nil {
		return p, err
	}
	p.Anchor, p.Nodes = []keyservice.Anchor{}, append([]string{}, nodes...)
	if len(anchors) > 0 {
		if p.Anchor, err = openAnchors(anchors, keys); err != nil {
			return p, err
		}
	}
	for _, a := range p.Anchor {
		p.Nodes = append(p.Nodes, a.Node)
	}
	slices.Sort(p.Nodes)
	p.Nodes = slices.Compact(p.Nodes)
	return p, nil
}

// openAnchors reads checkpoints and returns the newest of each node.
func openAnchors(anchors, keys []string) (all []keyservice.Anchor, err error) {
	trusted, err := readKeys(keys)
	if err != nil {
		return nil, err
	}
	found, err := readAnchors(anchors)
	if err != nil {
		return nil, err
	}
	for _, one := range found {
		a, err := openAnchor(one.Signed, trusted)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", one.Name, err)
		}
		if i := slices.IndexFunc(all, func(other keyservice.Anchor) bool { return other.Node == a.Node }); i < 0 {
			all = append(all, a)
		} else if all[i].Size < a.Size {
			all[i] = a
		}
	}
	return all, nil
}

func openAnchor(note []byte, keys []audit.PublicKey) (keyservice.Anchor, error) {
	installation, node, err := audit.OriginOf(note)
	if err != nil {
		return keyservice.Anchor{}, err
	}
	c, err := audit.OpenCheckpoint(note, audit.Origin(installation, node), keys)
	return keyservice.Anchor{Node: node, Size: uint64(c.Tree.N), Root: c.Tree.Hash.String(), Time: c.Time.UTC()}, err
}

package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"ramzban/api/client"
	"ramzban/api/wire"
	"ramzban/keyservice"
)

func tokensImportClearCommand() *cobra.Command {
	return group("import-clear", "Take in seeds that the maker of hardware tokens delivered in clear",
		tokensImportProposeCommand(), tokensImportSendCommand())
}

func tokensImportProposeCommand() *cobra.Command {
	var o officer
	var source string
	c := &cobra.Command{
		Use:   "propose FILE --source TEXT",
		Short: "Propose to take a file of seeds in clear",
		Long: fmt.Sprintf("FILE has a line for each device, at most %d:\n"+
			"{\"device\":\"GX-000123\",\"hash\":\"SHA1\",\"seed\":\"3132…\"}, the seed in hexadecimal. Nobody but its owner may\n"+
			"read it. Only its SHA-256 and the number of lines leave this machine.", keyservice.MaxClearSeeds),
		Args: oneSeedFile,
		RunE: func(c *cobra.Command, args []string) error {
			return o.propose(c.Context(), c.OutOrStdout(), keyservice.ActionImportClear, func(wire.ProposalsAnswer) (any, error) {
				return describeSeeds(args[0], source)
			})
		},
	}
	proposerFlags(c, &o)
	c.Flags().StringVar(&source, "source", "", "who delivered it, `TEXT`: maker, order, box")
	return c
}

func oneSeedFile(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errors.New("name the one file that the maker delivered")
	}
	return nil
}

// describeSeeds says which file it is, once each of its lines could be taken.
func describeSeeds(path, source string) (keyservice.ClearImport, error) {
	if source == "" {
		return keyservice.ClearImport{}, errors.New("say with --source who delivered the file")
	}
	file, err := readSeeds(path)
	if err != nil {
		return keyservice.ClearImport{}, err
	}
	defer clear(file)
	lines, err := keyservice.CheckClearSeeds(file)
	if err != nil {
		return keyservice.ClearImport{}, fmt.Errorf("%s: %w", path, err)
	}
	return keyservice.ClearImport{SHA256: fmt.Sprintf("%x", sha256.Sum256(file)), Lines: lines, Source: source}, nil
}

func tokensImportSendCommand() *cobra.Command {
	var o client.Options
	var out string
	c := &cobra.Command{
		Use:   "send ID FILE --out OUT",
		Short: "Send the file that another officer has approved",
		Long: "ID is the approved proposal's, or the beginning of it. OUT gets a line for each device, in the order of FILE, with the\n" +
			"maker_seed that its token is activated with. It holds no seed in clear. The file may be sent again within seven\n" +
			"days of the approval, with another OUT. Destroy FILE afterwards.",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 2 || out == "" {
				return errors.New("give the approved proposal's id, the file, and with --out the file for the wrapped seeds")
			}
			return oneID(c, args[:1])
		},
		RunE: func(c *cobra.Command, args []string) error {
			return withProposal(c.Context(), o, args[0], func(api *client.Client, _ string, p wire.Proposal) error {
				return sendSeeds(c.Context(), c.OutOrStdout(), api, p.ID, args[1], out)
			})
		},
	}
	clientFlags(c, &o, "officer-1")
	c.Flags().StringVar(&out, "out", "", "`OUT` to write, which must not be there")
	return c
}

// sendSeeds sends the file, and writes down what it became.
func sendSeeds(ctx context.Context, w io.Writer, api *client.Client, id, path, out string) error {
	if there, err := exists(out); there || err != nil {
		return errors.Join(err, fmt.Errorf("--out %s must be a file that is not there", out))
	}
	file, err := readSeeds(path)
	if err != nil {
		return err
	}
	defer clear(file)
	answer, err := api.ImportClear(ctx, id, file)
	if err != nil {
		return fmt.Errorf("sending the seeds: %w", explainCall(err))
	}
	var lines []byte
	refused := 0
	for _, s := range answer.Seeds {
		line, err := json.Marshal(s)
		if err != nil {
			return err
		}
		if lines = append(append(lines, line...), '\n'); s.Refused != "" {
			refused++
		}
	}
	if err := createFile(out, lines, privateFile); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "%s: seeds wrapped: %d; destroy %s\n", out, len(answer.Seeds)-refused, path); err != nil {
		return err
	}
	if refused > 0 {
		return fmt.Errorf("%d seeds were refused, because tokens have them: see %s", refused, out)
	}
	return nil
}

// readSeeds reads a file of seeds, if nobody but its owner can, into one buffer.
func readSeeds(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no file: seeds are read from a file", path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s can be read by others than its owner: run chmod 600 %s", path, path)
	case info.Size() > keyservice.MaxClearFile:
		return nil, fmt.Errorf("%s has more than %d KiB: propose and send it in parts", path, keyservice.MaxClearFile>>10)
	}
	file := make([]byte, info.Size())
	if _, err := io.ReadFull(f, file); err != nil {
		clear(file)
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return file, nil
}

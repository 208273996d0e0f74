package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func deviceCommand() *cobra.Command {
	return group("device", "The reference phone: activates a token and makes its passwords offline",
		deviceNewCommand(), devicePublicKeyCommand(), deviceActivateCommand(), deviceOTPCommand(), deviceSignCommand(),
		deviceSyncCommand(), deviceRemoveCommand())
}

func deviceNewCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "new --dir DIR",
		Short: "Make a phone: a folder with a new RSA key; never replaces one",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := newPhone(dir); err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "A phone with a key of its own is in %s; its public key is shown by\n  ramzban device public-key --dir %s\n", dir, dir)
			return err
		},
	}
	dirFlag(c, &dir)
	return c
}

func devicePublicKeyCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "public-key --dir DIR",
		Short: "Print the phone's public key, and its SHA-256 for an issuer who pins it",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := openPhone(dir)
			if err != nil {
				return err
			}
			return printPublicKey(c.OutOrStdout(), p)
		},
	}
	dirFlag(c, &dir)
	return c
}

func printPublicKey(w io.Writer, p phone) error {
	der, err := p.publicKey()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(der)
	lines := []string{"device_key_sha256", hex.EncodeToString(sum[:]), "public_key"}
	for chunk := range slices.Chunk([]byte(base64.StdEncoding.EncodeToString(der)), 76) {
		lines = append(lines, string(chunk))
	}
	_, err = fmt.Fprintln(w, strings.Join(lines, "\n"))
	return err
}

func dirFlag(c *cobra.Command, dir *string) {
	c.Flags().StringVar(dir, "dir", "phone", "the phone's folder, `DIR`")
}

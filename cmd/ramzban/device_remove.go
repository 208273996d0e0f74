package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"ramzban/api/client"
	"ramzban/api/wire"
	"ramzban/keyservice"
)

func deviceRemoveCommand() *cobra.Command {
	var dir string
	var o client.Options
	c := &cobra.Command{
		Use:   "remove --dir DIR",
		Short: "Give the token up, through the mobile-bank backend's certificate",
		Long: "Ends this phone's token for ever, and then deletes it from the phone, which keeps its key and may be given another\n" +
			"token. Speaks to the service as the mobile-bank backend would, and proves that the phone has the token's seed.\n" +
			"Run it again if the answer was lost.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := openPhone(dir)
			if err != nil {
				return err
			}
			serial, err := p.removeThrough(c.Context(), o)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "token %s has ended, and is deleted from this phone\n", serial)
			return err
		},
	}
	dirFlag(c, &dir)
	clientFlags(c, &o, "mobile-bank")
	return c
}

func (p phone) removeThrough(ctx context.Context, o client.Options) (serial string, err error) {
	api, err := openClient(o)
	if err != nil {
		return "", err
	}
	defer api.Close()
	return p.remove(ctx, api)
}

// remove ends the phone's token and then deletes it, never the other way round: without its seed the phone could not
// prove anything. A token that the service has ended already, perhaps upon a request whose answer was lost, is deleted too.
func (p phone) remove(ctx context.Context, api *client.Client) (serial string, err error) {
	t, err := p.token()
	if err != nil {
		return "", err
	}
	publicKey, err := p.publicKey()
	if err != nil {
		return "", err
	}
	proof, err := t.proofOf("ramzban/remove/1", publicKey)
	if err != nil {
		return "", err
	}
	if _, err := api.Remove(ctx, t.Serial, wire.RemovalRequest{Proof: proof}); err != nil && !endedBefore(err) {
		return "", fmt.Errorf("removal: %w", explainCall(err))
	}
	return t.Serial, p.deleteToken()
}

// endedBefore says that the token is deactivated: a phone has the seed of no token that is merely issued, and from all
// other statuses it can be removed.
func endedBefore(err error) bool {
	var p *wire.Problem
	return errors.As(err, &p) && p.Code == string(keyservice.CodeTransition)
}

func (p phone) deleteToken() error {
	err := os.Remove(filepath.Join(p.dir, phoneTokenFile))
	if err == nil {
		err = syncFolder(p.dir)
	}
	if err != nil {
		return fmt.Errorf("phone: the token has ended, but its file is still there: %w: make its folder writable and run this again", err)
	}
	return nil
}

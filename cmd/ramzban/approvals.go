package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"ramzban/api/client"
	"ramzban/api/wire"
	"ramzban/keyservice/authz/approval"
)

func approvalsCommand() *cobra.Command {
	return group("approvals", "What takes two officers: see what was proposed, and approve it",
		approvalsListCommand(), approvalsShowCommand(), approvalsApproveCommand(), approvalsWithdrawCommand(),
		approvalsSignCommand(), approvalsVerifyCommand())
}

func approvalsListCommand() *cobra.Command {
	var o client.Options
	var all, asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List what waits for an approval",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			api, err := openClient(o)
			if err != nil {
				return err
			}
			defer api.Close()
			answer, err := api.Proposals(c.Context())
			if err != nil {
				return fmt.Errorf("asking for the proposals: %w", explainCall(err))
			}
			if err := printDamaged(c.ErrOrStderr(), "proposal", answer.Damaged); err != nil {
				return err
			}
			return printProposals(c.OutOrStdout(), c.ErrOrStderr(), answer.Proposals, all, asJSON)
		},
	}
	clientFlags(c, &o, "officer-1")
	c.Flags().BoolVar(&all, "all", false, "those that wait no more too")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, one proposal a line")
	return c
}

func approvalsShowCommand() *cobra.Command {
	var o client.Options
	var asJSON bool
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Show a proposal in clear words, with the exact text that was signed",
		Args:  oneID,
		RunE: func(c *cobra.Command, args []string) error {
			return withProposal(c.Context(), o, args[0], func(_ *client.Client, _ string, p wire.Proposal) error {
				if asJSON {
					return printJSON(c.OutOrStdout(), []wire.Proposal{p})
				}
				return printProposal(c.OutOrStdout(), p)
			})
		},
	}
	clientFlags(c, &o, "officer-1")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func approvalsApproveCommand() *cobra.Command {
	var o officer
	var sure bool
	c := &cobra.Command{
		Use:   "approve ID",
		Short: "Approve another officer's proposal, after it was shown; it is then carried out",
		Args:  oneID,
		RunE: func(c *cobra.Command, args []string) error {
			return withProposal(c.Context(), o.options, args[0], func(api *client.Client, me string, p wire.Proposal) error {
				if err := printProposal(c.OutOrStdout(), p); err != nil {
					return err
				}
				if !sure {
					if err := confirm(c.InOrStdin(), c.OutOrStdout()); err != nil {
						return err
					}
				}
				return o.approve(c.Context(), c.OutOrStdout(), api, me, p)
			})
		},
	}
	clientFlags(c, &o.options, "officer-2")
	c.Flags().BoolVar(&sure, "yes", false, "do not ask")
	return c
}

func approvalsWithdrawCommand() *cobra.Command {
	var o client.Options
	c := &cobra.Command{
		Use:   "withdraw ID",
		Short: "Withdraw one's own proposal while it waits",
		Args:  oneID,
		RunE: func(c *cobra.Command, args []string) error {
			return withProposal(c.Context(), o, args[0], func(api *client.Client, _ string, p wire.Proposal) error {
				p, err := api.Withdraw(c.Context(), p.ID)
				if err != nil {
					return fmt.Errorf("withdrawing: %w", explainCall(err))
				}
				return printOutcome(c.OutOrStdout(), p)
			})
		},
	}
	clientFlags(c, &o, "officer-1")
	return c
}

// oneID: the beginning of a proposal's id is enough.
func oneID(_ *cobra.Command, args []string) error {
	if len(args) != 1 || len(args[0]) < 4 {
		return errors.New("name one proposal by its id, or by 4 or more of its first characters: `ramzban approvals list --all` shows them")
	}
	return nil
}

// withProposal finds a proposal by the beginning of its id, and looks whether it is what it says. fn is told, too, who the
// caller is to the service.
func withProposal(ctx context.Context, o client.Options, id string, fn func(api *client.Client, me string, p wire.Proposal) error) error {
	api, err := openClient(o)
	if err != nil {
		return err
	}
	defer api.Close()
	all, err := api.Proposals(ctx)
	if err != nil {
		return fmt.Errorf("asking for the proposals: %w", explainCall(err))
	}
	if strings.ContainsFunc(id, unicode.IsSpace) || id == "" {
		return errors.New("name one proposal: `ramzban approvals list` shows them")
	}
	found := slices.DeleteFunc(all.Proposals, func(p wire.Proposal) bool { return !strings.HasPrefix(p.ID, id) })
	switch {
	case len(found) > 1:
		return fmt.Errorf("%s… is the beginning of %d proposals: give more of its id", id, len(found))
	case len(found) == 0: // an old one is in no list
		p, err := api.Proposal(ctx, id)
		if err != nil {
			return fmt.Errorf("looking for %s: %w", id, explainCall(err))
		}
		found = []wire.Proposal{p}
	}
	if err := genuine(found[0]); err != nil {
		return err
	}
	return fn(api, all.Caller, found[0])
}

// genuine: what is shown and signed is the document. A service that says something else of it is not believed.
func genuine(p wire.Proposal) error {
	document, err := approval.ParseProposal([]byte(p.Proposal.Document))
	if err != nil {
		return err
	}
	if approval.ID([]byte(p.Proposal.Document)) != p.ID || document.Action != p.Action || document.Proposer != p.Proposer {
		return errors.New("what the service says of the proposal is not what its document says: approve nothing, and find out who answers at --url")
	}
	if _, err := signedOf(p.Proposal).Claimed(); err != nil {
		return fmt.Errorf("%w: approve nothing, and find out who answers at --url", err)
	}
	return nil
}

// confirm asks once.
func confirm(in io.Reader, out io.Writer) error {
	if _, err := fmt.Fprint(out, "\nApprove exactly this? Type yes: "); err != nil {
		return err
	}
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(answer) != "yes" {
		return errors.New("not approved: nothing was signed")
	}
	return nil
}

// approve signs the approval of the document that was shown, hands it in, and waits a while for what comes of it.
func (o officer) approve(ctx context.Context, w io.Writer, api *client.Client, me string, p wire.Proposal) error {
	document, err := approval.Approve([]byte(p.Proposal.Document), me, time.Now()).Encode()
	if err != nil {
		return err
	}
	signed, err := o.sign(document)
	if err != nil {
		return err
	}
	if p, err = api.Approve(ctx, p.ID, signed); err != nil {
		return fmt.Errorf("approving: %w", explainCall(err))
	}
	if p, err = awaitEnd(ctx, api, p); err != nil {
		return fmt.Errorf("it is approved, but not known whether it was carried out: %w", explainCall(err))
	}
	return printOutcome(w, p)
}

// Most actions are done within a second; a service whose node has just died goes on after a minute.
const (
	endLimit = 20 * time.Second
	endEvery = 250 * time.Millisecond
)

// awaitEnd polls until the proposal was carried out or failed, or it takes long.
func awaitEnd(ctx context.Context, api *client.Client, p wire.Proposal) (wire.Proposal, error) {
	often := time.NewTicker(endEvery)
	defer often.Stop()
	enough := time.NewTimer(endLimit)
	defer enough.Stop()
	for p.Status == "approved" || p.Status == "running" {
		select {
		case <-ctx.Done():
			return p, ctx.Err()
		case <-enough.C:
			return p, nil
		case <-often.C:
		}
		var err error
		if p, err = api.Proposal(ctx, p.ID); err != nil {
			return p, err
		}
	}
	return p, nil
}

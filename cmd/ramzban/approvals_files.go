package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/authz/approval"
)

// Where no service runs, as for a restore, officers sign files and whoever carries it out verifies them. A file holds one
// signed document, as it travels over the API.

// restoreLife is how long a proposal to restore is good for if nothing else is said.
const restoreLife = time.Hour

// papers are what `approvals sign` is told.
type papers struct {
	officer
	name         string // of the officer
	action       string
	parameters   string // JSON
	installation string
	of           string // the proposal's file, to approve it
	out          string
	sure         bool
}

func approvalsSignCommand() *cobra.Command {
	var p papers
	c := &cobra.Command{
		Use:   "sign --name NAME --out FILE (--of PROPOSAL | --action ACTION --installation ID)",
		Short: "Sign a proposal, or the approval of one, into a file, without a service",
		Long: "Signs a proposal into a file, or with --of another officer's approval of it, after it was shown. It is for what is\n" +
			"carried out while no service runs, such as `ramzban restore`. The files hold no secret.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if p.action == keyservice.ActionRestore && !c.Flags().Changed("expires") {
				p.life = restoreLife
			}
			return p.run(c.InOrStdin(), c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.StringVar(&p.options.CertFile, "cert", "var/dev/pki/officer-1.crt", "`FILE` with the officer's certificate")
	f.StringVar(&p.options.KeyFile, "key", "var/dev/pki/officer-1.key", "`FILE` with its private key")
	f.StringVar(&p.name, "name", "", "the officer's `NAME` in the service's configuration")
	f.StringVar(&p.action, "action", "", "what is proposed, `ACTION`, such as restore")
	f.StringVar(&p.parameters, "parameters", "{}", "what exactly: a `JSON` object")
	f.StringVar(&p.installation, "installation", "", "where: the `ID` that `ramzban approvals show` and `ramzban keys` show")
	f.DurationVar(&p.life, "expires", approval.DefaultLife, "how long it is good for: `DURATION`, 5m to 720h; a restore 1h unless told, 24h at most")
	f.StringVar(&p.of, "of", "", "approve the proposal in this `FILE`")
	f.StringVar(&p.out, "out", "", "`FILE` to write, which must not be there")
	f.BoolVar(&p.sure, "yes", false, "do not ask before an approval is signed")
	return c
}

func (p papers) run(in io.Reader, out io.Writer) error {
	if p.name == "" || p.out == "" {
		return errors.New("give --name, who signs, and --out, the file to write")
	}
	if (p.of == "") == (p.action == "") {
		return errors.New("give either --action, to propose, or --of, to approve")
	}
	document, err := p.document(in, out)
	if err != nil {
		return err
	}
	signed, err := p.sign(document)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(signed, "", "  ")
	if err != nil {
		return err
	}
	if err := createFile(p.out, append(b, '\n'), publicFile); err != nil {
		return fmt.Errorf("%w: name a file that is not there with --out", err)
	}
	_, err = fmt.Fprintf(out, "%s: signed by %s\n", p.out, p.name)
	return err
}

// document is the proposal that is made, or the approval of the one that is shown.
func (p papers) document(in io.Reader, out io.Writer) ([]byte, error) {
	if p.of == "" {
		if !json.Valid([]byte(p.parameters)) {
			return nil, errors.New("--parameters is no JSON object")
		}
		return newProposal(p.installation, p.action, json.RawMessage(p.parameters), p.name, p.life)
	}
	proposal, err := readSigned(p.of)
	if err != nil {
		return nil, err
	}
	document, err := approval.ParseProposal(proposal.Document)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.of, err)
	}
	if _, err := proposal.Claimed(); err != nil {
		return nil, fmt.Errorf("%s: %w", p.of, err)
	}
	if document.Proposer == p.name {
		return nil, approval.ErrSamePerson
	}
	shown := wire.Proposal{ID: approval.ID(proposal.Document), Status: "waiting", Proposal: wire.Signed{Document: string(proposal.Document)}}
	if err := printProposal(out, shown); err != nil {
		return nil, err
	}
	if !p.sure {
		if err := confirm(in, out); err != nil {
			return nil, err
		}
	}
	return approval.Approve(proposal.Document, p.name, time.Now()).Encode()
}

// readSigned reads a file of one signed document.
func readSigned(path string) (approval.Signed, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return approval.Signed{}, err
	}
	var s wire.Signed
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return approval.Signed{}, fmt.Errorf("%s is no signed document: %w", path, err)
	}
	return signedOf(s), nil
}

// readApproved reads the files of a proposal and its approval, and checks that two different officers agreed on the action,
// here and in time. What is carried out without a service begins with it.
func readApproved(v approval.Verifier, r approval.Rules, action, proposalFile, approvalFile string) (approval.Proposal, approval.Approval, error) {
	var none approval.Approval
	proposal, err := readSigned(proposalFile)
	if err != nil {
		return approval.Proposal{}, none, err
	}
	consent, err := readSigned(approvalFile)
	if err != nil {
		return approval.Proposal{}, none, err
	}
	p, a, err := v.Approved(proposal, consent, r)
	if err != nil {
		return approval.Proposal{}, none, err
	}
	if p.Action != action {
		return approval.Proposal{}, none, fmt.Errorf("two officers agreed on %s, not on %s", p.Action, action)
	}
	return p, a, nil
}

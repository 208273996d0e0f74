package main

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
)

// trust says whose signatures count offline: as a configuration of `serve` says, or, for whoever has only the authority's
// certificate, by the names in the certificates.
type trust struct {
	config, ca string
}

func trustFlags(c *cobra.Command, t *trust) {
	c.Flags().StringVar(&t.config, "config", "", "the service's configuration `FILE`, which says whose each certificate is")
	c.Flags().StringVar(&t.ca, "ca", "", "or else `FILE` with the CA of client certificates: their names are then taken for the persons'")
}

// verifier reads what is trusted.
func (t trust) verifier() (approval.Verifier, error) {
	if (t.config == "") == (t.ca == "") {
		return approval.Verifier{}, errors.New("give either --config or --ca")
	}
	if t.config == "" {
		roots, err := rootsOf(t.ca)
		return approval.Verifier{Roots: roots, Person: func(name string) (string, bool) { return name, name != "" }}, err
	}
	c, err := LoadConfig(t.config)
	if err != nil {
		return approval.Verifier{}, err
	}
	return c.verifier()
}

// verifier says whose signatures count by a configuration.
func (c Config) verifier() (approval.Verifier, error) {
	directory, err := c.directory()
	if err != nil {
		return approval.Verifier{}, err
	}
	roots, err := rootsOf(c.API.ClientCA)
	return approval.Verifier{Roots: roots, Person: func(name string) (string, bool) {
		caller, known := directory.Lookup(name)
		return caller.Name, known && authz.Check(caller, authz.ApproveProposal) == nil
	}}, err
}

func rootsOf(path string) (*x509.CertPool, error) {
	authorities, err := readCertificates(path)
	if err != nil {
		return nil, fmt.Errorf("%w: give the CA of client certificates", err)
	}
	pool := x509.NewCertPool()
	for _, a := range authorities {
		pool.AddCert(a)
	}
	return pool, nil
}

// verification is what `approvals verify` is told.
type verification struct {
	trust
	proposal, approval string // files of one signed document each
	export             []string
	installation       string
	officers           []string
	at                 string
}

func approvalsVerifyCommand() *cobra.Command {
	var v verification
	c := &cobra.Command{
		Use:   "verify (--config FILE | --ca FILE) (--proposal FILE --approval FILE | SEGMENT…)",
		Short: "Verify, offline, that two different officers signed the same bytes",
		Long: "Verifies a proposal and its approval from their files, or every proposal and approval in the segments of an\n" +
			"exported log: signatures, certificates, two different persons, in time. That a segment is the log itself,\n" +
			"whole and unchanged, `ramzban audit verify` says.",
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, segments []string) error {
			v.export = segments
			return v.run(c.OutOrStdout())
		},
	}
	trustFlags(c, &v.trust)
	f := c.Flags()
	f.StringVar(&v.proposal, "proposal", "", "the signed proposal's `FILE`")
	f.StringVar(&v.approval, "approval", "", "the signed approval's `FILE`")
	f.StringVar(&v.installation, "installation", "", "it must be for the installation of this `ID`")
	f.StringSliceVar(&v.officers, "officer", nil, "one who was an officer then, `NAME`; may be repeated; without it anyone counts")
	f.StringVar(&v.at, "at", "", "as of this `TIME` (RFC 3339), not now; a segment's are as of their entries' times")
	return c
}

func (v verification) run(out io.Writer) error {
	by, err := v.verifier()
	if err != nil {
		return err
	}
	if len(v.export) > 0 && v.proposal+v.approval == "" {
		return v.segments(by, out)
	}
	if v.proposal == "" || v.approval == "" || len(v.export) > 0 {
		return errors.New("give --proposal and --approval, or the segments of an exported log")
	}
	at := time.Now()
	if v.at != "" {
		if at, err = time.Parse(time.RFC3339, v.at); err != nil {
			return errors.New("--at is a time such as 2026-11-22T10:00:00Z")
		}
	}
	proposal, err := readSigned(v.proposal)
	if err != nil {
		return err
	}
	consent, err := readSigned(v.approval)
	if err != nil {
		return err
	}
	return v.agreed(by, proposal, consent, at, out)
}

// agreed verifies one proposal with its approval, and says who agreed on what.
func (v verification) agreed(by approval.Verifier, proposal, consent approval.Signed, at time.Time, out io.Writer) error {
	p, a, err := by.Approved(proposal, consent, v.rules(proposal, consent, at))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s: %s, proposed by %s, approved by %s: both signatures are good\n",
		shortID(approval.ID(proposal.Document)), p.Action, p.Proposer, a.Approver)
	return err
}

// rules hold the documents against what was asked for; what was not counts as they say it.
func (v verification) rules(proposal, consent approval.Signed, at time.Time) approval.Rules {
	r := approval.Rules{Installation: v.installation, Officers: v.officers, At: at}
	p, _ := approval.ParseProposal(proposal.Document) // whoever verifies them says what is wrong with them
	a, _ := approval.ParseApproval(consent.Document)
	if r.Installation == "" {
		r.Installation = p.Installation
	}
	if len(r.Officers) == 0 {
		r.Officers = []string{p.Proposer, a.Approver}
	}
	return r
}

// segments verifies what officers signed in segments of an exported log, by the entries' own bytes. A proposal that nobody
// approved is only counted.
func (v verification) segments(by approval.Verifier, out io.Writer) error {
	proposals, approved := map[string]approval.Signed{}, 0
	for _, path := range v.export {
		err := eachEntry(path, func(e audit.Entry) error {
			signed := approval.Signed{Document: e.Document, Signature: e.Signature, Certificate: e.Certificate}
			switch {
			case len(e.Document) == 0:
				return nil
			case e.Action == string(authz.MakeProposal):
				proposals[e.Proposal] = signed
				return nil
			}
			proposal, found := proposals[e.Proposal]
			if !found {
				return fmt.Errorf("proposal %s is in none of the segments before: name all of them, in their order", e.Proposal)
			}
			approved++
			return v.agreed(by, proposal, signed, time.UnixMilli(e.Time), out)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	_, err := fmt.Fprintf(out, "%d proposals, %d of them approved\n", len(proposals), approved)
	return err
}

// maxSegmentLine bounds a line: an entry is at most 256 KiB, and stands there twice, once in base64.
const maxSegmentLine = 2 << 20

// eachEntry reads a segment's entries from their leaves.
func eachEntry(path string, fn func(audit.Entry) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxSegmentLine)
	for number := 1; lines.Scan(); number++ {
		var line struct {
			Leaf []byte `json:"leaf"`
		}
		if err := json.NewDecoder(bytes.NewReader(lines.Bytes())).Decode(&line); err != nil {
			return fmt.Errorf("line %d is no entry: %w", number, err)
		}
		e, err := audit.Decode(line.Leaf)
		if err == nil {
			err = fn(e)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
	}
	return lines.Err()
}

package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"ramzban/api/client"
	"ramzban/api/wire"
	"ramzban/keyservice/authz/approval"
)

// officer is a security officer at a terminal, who calls the service and signs documents with the same certificate.
type officer struct {
	options client.Options
	life    time.Duration // of proposals
}

// proposerFlags are those of every command that proposes something.
func proposerFlags(c *cobra.Command, o *officer) {
	clientFlags(c, &o.options, "officer-1")
	c.Flags().DurationVar(&o.life, "expires", approval.DefaultLife, "how long it can be approved: `DURATION`, 5m to 720h")
}

// propose signs a proposal with the officer's own key, hands it in, and tells what must happen next. parameters is what the
// action takes, a struct with JSON names.
func (o officer) propose(ctx context.Context, w io.Writer, action string, parameters func(wire.ProposalsAnswer) (any, error)) error {
	_, err := o.proposed(ctx, w, action, parameters)
	return err
}

// proposed is propose for who goes on with the proposal.
func (o officer) proposed(ctx context.Context, w io.Writer, action string, parameters func(wire.ProposalsAnswer) (any, error)) (made wire.Proposal, err error) {
	api, err := openClient(o.options)
	if err != nil {
		return made, err
	}
	defer api.Close()
	now, err := api.Proposals(ctx)
	if err != nil {
		return made, fmt.Errorf("asking for the installation: %w", explainCall(err))
	}
	what, err := parameters(now)
	if err != nil {
		return made, err
	}
	document, err := newProposal(now.Installation, action, what, now.Caller, o.life)
	if err != nil {
		return made, err
	}
	signed, err := o.sign(document)
	if err != nil {
		return made, err
	}
	if made, err = api.Propose(ctx, signed); err != nil {
		return made, fmt.Errorf("proposing: %w", explainCall(err))
	}
	if err := printProposal(w, made); err != nil {
		return made, err
	}
	_, err = fmt.Fprintf(w, "\nAnother officer approves it with `ramzban approvals approve %s`.\n", shortID(made.ID))
	return made, err
}

// newProposal makes the document of a proposal.
func newProposal(installation, action string, parameters any, proposer string, life time.Duration) ([]byte, error) {
	nonce := make([]byte, 16)
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("making a nonce: %w", err)
	}
	p, err := approval.New(installation, action, parameters, proposer, nonce, time.Now(), life)
	if err != nil {
		return nil, err
	}
	return p.Encode()
}

// sign signs a document with the key of the officer's certificate.
func (o officer) sign(document []byte) (wire.Signed, error) {
	pair, err := tls.LoadX509KeyPair(o.options.CertFile, o.options.KeyFile)
	if errors.Is(err, os.ErrNotExist) {
		return wire.Signed{}, fmt.Errorf("%w: name the officer's files with --cert/--key", err)
	}
	if err != nil {
		return wire.Signed{}, fmt.Errorf("the officer's certificate %s with key %s: %w", o.options.CertFile, o.options.KeyFile, err)
	}
	key, can := pair.PrivateKey.(crypto.Signer)
	if !can {
		return wire.Signed{}, fmt.Errorf("%s cannot sign: give an ECDSA, RSA or Ed25519 key", o.options.KeyFile)
	}
	s, err := approval.Sign(document, key, pair.Certificate...)
	if err != nil {
		return wire.Signed{}, err
	}
	return wire.Signed{Document: string(s.Document), Signature: s.Signature, Certificate: s.Certificate}, nil
}

func signedOf(s wire.Signed) approval.Signed {
	return approval.Signed{Document: []byte(s.Document), Signature: s.Signature, Certificate: s.Certificate}
}

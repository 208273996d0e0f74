package main

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"ramzban/api/wire"
	"ramzban/keyservice/audit"
)

func auditReceiptCommand() *cobra.Command {
	var keys []string
	var transaction string
	var asJSON bool
	c := &cobra.Command{
		Use:   "receipt FILE",
		Short: "Check the signed receipt of a verification with the public key alone",
		Long: `Check a receipt. FILE holds the answer of the verification, the receipt object in it, or its note
alone; - is standard input.

Exit statuses:
   0  the audit key signed it
  65  it did not, or the receipt is of another transaction
   1  anything else, such as a file that cannot be read`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			trusted, err := readKeys(keys)
			if err != nil {
				return err
			}
			note, salt, err := readReceipt(c.InOrStdin(), args[0])
			if err != nil {
				return err
			}
			r, err := audit.OpenReceipt(note, trusted)
			if err != nil {
				return fmt.Errorf("%w: the receipt: %w", errNotSigned, err)
			}
			if transaction != "" {
				if err := sameTransaction(r, salt, transaction); err != nil {
					return err
				}
			}
			return printReceipt(c.OutOrStdout(), r, asJSON)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&keys, "key", nil, "`FILE` with a public audit key (PEM); once for each version")
	f.StringVar(&transaction, "transaction", "", "compare with the transaction in `FILE`, as JSON in the request has it")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// maxReceipt is more than any answer with a receipt, in bytes.
const maxReceipt = 1 << 20

// readReceipt reads a note, and the salt beside it, in any of the three forms in which they may have been kept.
func readReceipt(stdin io.Reader, file string) (note, salt []byte, err error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, nil, err
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxReceipt))
	if err != nil {
		return nil, nil, err
	}
	if !bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		return text, nil, nil
	}
	var kept struct {
		wire.Receipt              // the receipt object …
		Answer       wire.Receipt `json:"receipt"` // … or the answer that it is in
	}
	if err := json.Unmarshal(text, &kept); err != nil {
		return nil, nil, fmt.Errorf("reading the receipt: %w", err)
	}
	r := kept.Receipt
	if r.Note == "" {
		r = kept.Answer
	}
	if r.Note == "" {
		return nil, nil, fmt.Errorf("there is no receipt in it: the service says %q", cmp.Or(r.Missing, "nothing of one"))
	}
	return []byte(r.Note), r.TransactionSalt, nil
}

// sameTransaction returns nil if the receipt is of this transaction.
func sameTransaction(r audit.Receipt, salt []byte, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("--transaction: %w", err)
	}
	var t wire.Transaction
	if err := json.Unmarshal(text, &t); err != nil {
		return fmt.Errorf("--transaction %s: %w", file, err)
	}
	switch {
	case r.Transaction == nil:
		return fmt.Errorf("%w: the receipt is of no transaction", errNotSigned)
	case salt == nil:
		return errors.New("the salt is missing: keep the receipt with its transaction_salt, as the answer had it")
	case len(salt) != audit.SaltLength:
		return fmt.Errorf("%w: the salt has %d bytes instead of %d: keep it as the answer had it", errNotSigned, len(salt), audit.SaltLength)
	case !bytes.Equal(r.Transaction, audit.TransactionDigest(salt, t.Amount, t.Currency, t.Payee)):
		return fmt.Errorf("%w: the receipt is of another transaction", errNotSigned)
	}
	return nil
}

// receiptFields is a receipt as --json prints it.
type receiptFields struct {
	Log         string    `json:"log"`
	Index       uint64    `json:"index"`
	Leaf        []byte    `json:"leaf"`
	Time        time.Time `json:"time"`
	Serial      string    `json:"serial,omitempty"`
	Subject     []byte    `json:"subject,omitempty"`
	Use         string    `json:"use"`
	Transaction []byte    `json:"transaction,omitempty"`
	Bound       bool      `json:"bound"`
	Outcome     string    `json:"outcome"`
	Reason      string    `json:"reason,omitempty"`
}

func printReceipt(out io.Writer, r audit.Receipt, asJSON bool) error {
	if asJSON {
		return printJSON(out, []receiptFields{{r.Origin, r.Index, r.Leaf[:], r.Time.UTC(), r.Serial, r.Commitment, r.Use, r.Transaction, r.Bound, string(r.Outcome), r.Reason}})
	}
	outcome, transaction := string(r.Outcome), "none"
	if r.Reason != "" {
		outcome += ": " + r.Reason
	}
	if r.Transaction != nil {
		transaction = fmt.Sprintf("%s, bound %t", base64.StdEncoding.EncodeToString(r.Transaction), r.Bound)
	}
	_, err := fmt.Fprintf(out, "signed: %s\n  at     %s\n  token  %s\n  use    %s\n  paid   %s\n  entry  %d of %s\n", outcome,
		r.Time.UTC().Format("2006-01-02T15:04:05.000Z"), cmp.Or(r.Serial, "none matched"), r.Use, transaction, r.Index, r.Origin)
	return err
}

package keyservice

import (
	"context"
	"errors"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/store"
)

// Receipt is what a caller may keep of a verdict; see audit.Receipt.
type Receipt struct {
	Note    []byte // the signed note; nil if there is none
	Salt    []byte // of the digest of the transaction in it, 16 bytes; nil if there is none
	Missing Code   // why there is no note: the verdict stands all the same
}

const (
	receiptWait    = 2 * time.Second // how long an answer waits for its receipt
	receiptsAtOnce = 64              // how many are signed at once: more than an HSM does, and all that one which hangs keeps
)

// receipt signs what the entry of a verdict says. The entry is durable, and nothing that fails here changes the verdict:
// whoever repeats the request under its idempotency key can get the receipt then. It is read back from the store, so that
// verdicts without receipts carry nothing for them. Where an HSM hangs and keeps all places, the rest are CodeBusy.
func (s *Service) receipt(ctx context.Context, r VerifyRequest, v Verdict) *Receipt {
	ctx, cancel := context.WithTimeout(ctx, receiptWait)
	defer cancel()
	type result struct {
		made *Receipt
		err  error
	}
	done := make(chan result, 1)
	var got result
	select {
	case s.receipts <- struct{}{}:
		go func() { // a call into the HSM cannot be cancelled
			defer func() { <-s.receipts }()
			made, err := s.signReceipt(ctx, r, v)
			done <- result{made, err}
		}()
	case <-ctx.Done():
	}
	select {
	case got = <-done:
	case <-ctx.Done():
		got.err = ctx.Err()
	}
	if got.err == nil {
		return got.made
	}
	err := hsmError(got.err)
	s.Log.ErrorContext(ctx, "a verdict stands, but its receipt could not be signed", "error", err, "index", v.Audit.Index, "request_id", RequestID(ctx))
	return &Receipt{Missing: CodeOf(err)}
}

func (s *Service) signReceipt(ctx context.Context, r VerifyRequest, v Verdict) (*Receipt, error) {
	signed, err := s.receiptOf(ctx, v)
	if err != nil {
		return nil, err
	}
	made := &Receipt{}
	if r.Transaction != nil {
		if made.Salt, err = s.HSM.Random(ctx, audit.SaltLength); err != nil {
			return nil, err
		}
		signed.Transaction = transactionDigest(made.Salt, *r.Transaction)
	}
	made.Note, err = signed.Sign(ctx, s.signAudit)
	return made, err
}

func transactionDigest(salt []byte, t otp.Transaction) []byte {
	return audit.TransactionDigest(salt, t.Amount, t.Currency, t.Payee.Reveal())
}

// receiptOf reads the entry of a verdict, and the token that it names.
func (s *Service) receiptOf(ctx context.Context, v Verdict) (audit.Receipt, error) {
	keys := []store.Key{audit.EntryKey(v.Audit)}
	if v.Serial != "" {
		keys = append(keys, recordKey(v.Serial))
	}
	items, err := s.Store.Get(ctx, keys...)
	if err != nil {
		return audit.Receipt{}, storeError(err)
	}
	if items[0].Version == 0 {
		return audit.Receipt{}, errors.New("the verdict's entry is no longer in the database")
	}
	_, leaf, err := s.Audit.Leaf(items[0])
	if err != nil {
		return audit.Receipt{}, err
	}
	e, err := audit.Decode(leaf)
	if err != nil {
		return audit.Receipt{}, err
	}
	made := audit.Receipt{
		Origin: s.origin(v.Audit.Node), Index: v.Audit.Index, Leaf: tlog.RecordHash(leaf), Time: time.UnixMilli(e.Time), Serial: v.Serial,
		Use: e.Use, Bound: v.Bound, Outcome: e.Outcome, Reason: e.Reason,
	}
	if v.Serial != "" {
		record, err := s.unseal(ctx, items[1], true)
		if err != nil {
			return audit.Receipt{}, err
		}
		made.Commitment = record.commitment()
	}
	return made, nil
}

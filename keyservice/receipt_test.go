package keyservice

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// signingHSM is the real HSM; sign, if set, is asked before each signature. It counts signatures and random numbers.
type signingHSM struct {
	HSM
	sign          atomic.Pointer[func() error]
	signed, drawn atomic.Int64
}

func (h *signingHSM) SignAudit(ctx context.Context, message []byte) (seed.Signature, error) {
	h.signed.Add(1)
	if sign := h.sign.Load(); sign != nil {
		if err := (*sign)(); err != nil {
			return seed.Signature{}, err
		}
	}
	return h.HSM.SignAudit(ctx, message)
}

func (h *signingHSM) Random(ctx context.Context, n int) ([]byte, error) {
	h.drawn.Add(1)
	return h.HSM.Random(ctx, n)
}

// receipts makes the world's service sign with an HSM that can fail.
func (w *world) receipts() *signingHSM {
	h := &signingHSM{HSM: w.hsm}
	w.Service.HSM = h
	return h
}

func (w *world) withReceipt(r VerifyRequest) Verdict {
	r.Receipt = true
	v, err := w.Verify(context.Background(), coreBanking, r)
	require.NoError(w.t, err)
	require.NotNil(w.t, v.Receipt)
	return v
}

// opened checks a receipt's signature with the HSM's public keys.
func (w *world) opened(v Verdict) audit.Receipt {
	require.Empty(w.t, v.Receipt.Missing)
	keys, err := w.PublicAuditKeys(context.Background())
	require.NoError(w.t, err)
	r, err := audit.OpenReceipt(v.Receipt.Note, keys)
	require.NoError(w.t, err)
	return r
}

// A receipt says what the entry says, in words that the audit key signed: for what was accepted, for what was refused, and
// for a subject that has nothing.
func TestAReceiptSaysWhatTheLogSays(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "unbound-60")
	paid := &otp.Transaction{Amount: "1500000", Currency: "IRR", Payee: seed.NewSubject(card(2))}
	typed := p.password()
	ask := VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: typed, Transaction: paid}
	for _, c := range []struct {
		ask     VerifyRequest
		outcome audit.Outcome
		reason  Reason
	}{
		{ask, audit.Accepted, ""},
		{ask, audit.Refused, ReasonAlreadyUsed},
		{VerifyRequest{Serial: p.serial, Use: "login", OTP: typed}, audit.Refused, ReasonNotConnected},
		{bySubject(card(7), typed), audit.Refused, ReasonMismatch},
	} {
		v := w.withReceipt(c.ask)
		got := w.opened(v)
		log, err := w.AuditEntries(context.Background(), auditor, AuditQuery{From: v.Audit.Index, Limit: 1})
		require.NoError(t, err)
		e := log.Entries[0].Entry
		leaf, err := audit.Encode(e)
		require.NoError(t, err)
		want := audit.Receipt{
			Origin: w.origin("node-1"), Index: v.Audit.Index, Leaf: tlog.RecordHash(leaf), Time: time.UnixMilli(e.Time).UTC(), Use: c.ask.Use,
			Outcome: c.outcome, Reason: string(c.reason),
		}
		if c.ask.Serial != "" {
			record, err := w.load(context.Background(), p.serial)
			require.NoError(t, err)
			want.Serial, want.Commitment = p.serial, record.commitment()
		}
		if c.ask.Transaction != nil {
			want.Transaction = audit.TransactionDigest(v.Receipt.Salt, paid.Amount, paid.Currency, paid.Payee.Reveal())
		}
		require.Equal(t, want, got)
		require.Equal(t, c.ask.Transaction != nil, v.Receipt.Salt != nil)
	}
}

// A password that signs its transaction has a receipt that says so.
func TestAReceiptTellsABoundPassword(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "signing-60")
	paid := &otp.Transaction{Amount: "1", Currency: "IRR", Payee: seed.NewSubject(card(2))}
	v := w.withReceipt(VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: p.signed(p.factor(), paid), Transaction: paid})
	require.True(t, v.Accepted)
	require.True(t, w.opened(v).Bound)
}

// The verdict is given whatever becomes of its receipt, which a repeat can get.
func TestAReceiptThatFailsChangesNoVerdict(t *testing.T) {
	over := make(chan struct{})
	defer close(over)
	for name, c := range map[string]struct {
		sign func() error
		why  Code
	}{
		"the HSM refuses": {func() error { return fmt.Errorf("%w: out of order", seed.ErrUnavailable) }, CodeHSMUnavailable},
		"the HSM hangs":   {func() error { <-over; return seed.ErrUnavailable }, CodeBusy},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p, h := w.enrol(card(1), "counter-6"), w.receipts()
			ask := VerifyRequest{IdempotencyKey: "k", Serial: p.serial, Use: "second-pin", OTP: p.password()}
			h.sign.Store(&c.sign)
			v := w.withReceipt(ask)
			require.True(t, v.Accepted)
			require.Equal(t, &Receipt{Missing: c.why}, v.Receipt)
			index := w.head.Load()

			h.sign.Store(nil)
			again := w.withReceipt(ask)
			require.True(t, again.Accepted && again.Repeated)
			require.Equal(t, v.Audit, again.Audit)
			require.Equal(t, v.Audit.Index, w.opened(again).Index, "it is of the first decision")
			require.Equal(t, index+1, w.head.Load(), "a repeat is logged, a receipt is not")
		})
	}
}

// An HSM that hangs keeps so many calls and no more. Verdicts go on, with receipts as soon as it answers again.
func TestReceiptsThatHangAreBounded(t *testing.T) {
	w := newWorld(t)
	p, h := w.enrol(card(1), "counter-6"), w.receipts()
	over := make(chan struct{})
	hang := func() error { <-over; return seed.ErrUnavailable }
	h.sign.Store(&hang)
	index := w.position(w.head.Load() - 1)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	var asking sync.WaitGroup
	for range receiptsAtOnce + 20 {
		asking.Go(func() {
			assert.Equal(t, &Receipt{Missing: CodeBusy}, w.receipt(ctx, VerifyRequest{}, Verdict{Audit: index}))
		})
	}
	asking.Wait()
	require.EqualValues(t, receiptsAtOnce, h.signed.Load())
	require.True(t, w.try(p, p.password()).Accepted)
	h.sign.Store(nil)
	close(over)
	require.Eventually(t, func() bool { return len(w.Service.receipts) == 0 }, 10*time.Second, time.Millisecond)
	w.opened(w.withReceipt(VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: p.password()}))
}

// Who asked without may ask again with a receipt, and the other way round.
func TestARepeatMayWantAReceipt(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	ask := VerifyRequest{IdempotencyKey: "k", Serial: p.serial, Use: "second-pin", OTP: p.password()}
	v, err := w.Verify(context.Background(), coreBanking, ask)
	require.NoError(t, err)
	require.Nil(t, v.Receipt)
	require.Equal(t, audit.Accepted, w.opened(w.withReceipt(ask)).Outcome)
	v, err = w.Verify(context.Background(), coreBanking, ask)
	require.NoError(t, err)
	require.True(t, v.Accepted && v.Repeated)
}

// Other answers cost nothing more, and a receipt no commit.
func TestOnlyReceiptsCost(t *testing.T) {
	w := newWorld(t)
	p, h := w.enrol(card(1), "counter-6"), w.receipts()
	reads := 0
	w.store.reading = func([]store.Key) { reads++ }
	cost := func(receipt bool) (commits uint64, read int, signed int64) {
		h.drawn.Store(0)
		h.signed.Store(0)
		reads = 0
		before := w.head.Load()
		_, err := w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: p.password(), Receipt: receipt})
		require.NoError(t, err)
		require.Zero(t, h.drawn.Load(), "no transaction, no salt")
		return w.head.Load() - before, reads, h.signed.Load()
	}
	cost(false) // warms the caches
	commits, read, signed := cost(false)
	require.Equal(t, []any{uint64(1), int64(0)}, []any{commits, signed})
	commits, more, signed := cost(true)
	require.Equal(t, []any{uint64(1), read + 1, int64(1)}, []any{commits, more, signed})
}

// A stored entry or token that was changed is not vouched for.
func TestNoReceiptForWhatWasChanged(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	ask := VerifyRequest{IdempotencyKey: "k", Serial: p.serial, Use: "second-pin", OTP: p.password()}
	v := w.withReceipt(ask)
	row := w.row(entryKey(v.Audit.Index))
	v.Receipt = nil
	for _, damage := range []func(){
		func() { row.Value[len(row.Value)-1] ^= 1; w.attack([]store.Put{row}) },
		func() { w.attack(nil, row.Key) },
	} {
		damage()
		require.Equal(t, &Receipt{Missing: CodeInternal}, w.receipt(context.Background(), ask, v))
	}
}

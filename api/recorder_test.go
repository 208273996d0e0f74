package api_test

import (
	"context"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice"
	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// call is one use case as the transport called it.
type call struct {
	name      string
	caller    authz.Caller
	requestID string
	input     any
}

// recorder stands behind the transport where a test is about the transport alone: it notes calls and answers plausibly.
type recorder struct {
	hook    func(ctx context.Context, name string) error // may block or fail; nil: succeed
	sms     bool                                         // codes are SMS passwords, tokens are for SMS or hardware
	repeats bool                                         // answers were given before
	cut     func(ctx context.Context) error              // why streams of entries end early; nil: they do not
	barren  func() bool                                  // streams of entries find nothing before they go on; nil: they do

	mu    sync.Mutex
	calls []call
}

func (r *recorder) note(ctx context.Context, name string, c authz.Caller, input any) error {
	r.mu.Lock()
	r.calls = append(r.calls, call{name, c, keyservice.RequestID(ctx), input})
	r.mu.Unlock()
	if r.hook != nil {
		return r.hook(ctx, name)
	}
	return nil
}

func (r *recorder) seen() []call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]call{}, r.calls...)
}

var someTime = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

var someToken = keyservice.IssuedToken{
	Serial: "402519938461", Status: keyservice.Issued, Activation: &keyservice.Activation{ID: "5d0f", ExpiresAt: someTime},
}

func (r *recorder) Issue(ctx context.Context, c authz.Caller, in keyservice.IssueRequest) (keyservice.IssuedToken, error) {
	t := someToken
	if r.sms {
		t.Status, t.Activation = keyservice.Active, nil
	}
	t.Repeated = r.repeats
	return t, r.note(ctx, "issue", c, in)
}

func (r *recorder) RenewCode(ctx context.Context, c authz.Caller, serial string) (keyservice.IssuedToken, error) {
	return someToken, r.note(ctx, "renew", c, serial)
}

func (r *recorder) CollectCode(ctx context.Context, c authz.Caller, id string) (keyservice.CollectedCode, error) {
	code := keyservice.CollectedCode{Kind: "activation", Serial: someToken.Serial, Code: seed.NewCode("83920174"), ExpiresAt: someTime}
	if r.sms {
		code.Kind, code.Mobile, code.Transaction = "sms", seed.NewMobile("09121234567"), &otp.Transaction{
			Amount: "1500000", Currency: "IRR", Payee: seed.NewSubject("6037997551493320"),
		}
	}
	return code, r.note(ctx, "collect", c, id)
}

func (r *recorder) Activate(ctx context.Context, c authz.Caller, in keyservice.ActivateRequest) (keyservice.ActivatedToken, error) {
	policy := otp.Policy{Type: otp.TOTP, Hash: seed.SHA1, Digits: 6, Period: time.Minute}
	t := keyservice.ActivatedToken{Serial: in.Serial, Status: keyservice.Pending, Seed: []byte("sealed"), Policy: policy, ServerTime: someTime, Repeated: r.repeats}
	if in.MakerSeed != nil {
		t.Seed = nil
	}
	return t, r.note(ctx, "activate", c, in)
}

func (r *recorder) Confirm(ctx context.Context, c authz.Caller, in keyservice.ConfirmRequest) (keyservice.Status, error) {
	return keyservice.Active, r.note(ctx, "confirm", c, in)
}

func (r *recorder) Token(ctx context.Context, c authz.Caller, serial string) (keyservice.TokenView, error) {
	v := keyservice.TokenView{
		Serial: serial, Class: "card", Channel: "app", Profile: "offline-60", Uses: []string{"second-pin"}, Status: keyservice.Active,
		LastFour: "7893", Drift: -61 * time.Second, CreatedAt: someTime, DeviceID: "a1b2",
		Mobile: "0912***4567",
	}
	return v, r.note(ctx, "token", c, serial)
}

func (r *recorder) Suspend(ctx context.Context, c authz.Caller, serial string) (keyservice.Status, error) {
	return keyservice.Suspended, r.note(ctx, "suspend", c, serial)
}

func (r *recorder) Resume(ctx context.Context, c authz.Caller, serial string) (keyservice.Status, error) {
	return keyservice.Active, r.note(ctx, "resume", c, serial)
}

func (r *recorder) Deactivate(ctx context.Context, c authz.Caller, serial string) (keyservice.Status, error) {
	return keyservice.Deactivated, r.note(ctx, "deactivate", c, serial)
}

func (r *recorder) Verify(ctx context.Context, c authz.Caller, in keyservice.VerifyRequest) (keyservice.Verdict, error) {
	v := keyservice.Verdict{Reason: keyservice.ReasonThrottled, Serial: in.Serial, RetryAfter: 1500 * time.Millisecond, Audit: audit.Position{Node: "n1", Index: 1842}, Repeated: r.repeats}
	if in.Subject.Reveal() != "" {
		v = keyservice.Verdict{Accepted: true, Serial: someToken.Serial, Kind: "sms", Bound: true, Audit: audit.Position{Node: "n1", Index: 1843}, Repeated: r.repeats}
	}
	if in.Receipt {
		v.Receipt = &keyservice.Receipt{Note: []byte("a note\n"), Salt: []byte{1, 2, 3}}
	}
	return v, r.note(ctx, "verify", c, in)
}

func (r *recorder) AuditLogs(ctx context.Context, c authz.Caller) ([]keyservice.AuditLog, error) {
	return []keyservice.AuditLog{{Node: "n1", Entries: 5}}, r.note(ctx, "logs", c, nil)
}

// somePage is an entry of a log that has 20.
func somePage(from uint64) keyservice.AuditPage {
	e := keyservice.LoggedEntry{Index: from + 4, Entry: audit.Entry{
		Schema: 1, Time: someTime.UnixMilli(), Node: "n1", Actor: "core", Action: "otp.verify", Outcome: audit.Refused, Reason: "mismatch",
	}}
	return keyservice.AuditPage{Entries: []keyservice.LoggedEntry{e}, Next: from + 5, End: 20}
}

func (r *recorder) AuditEntries(ctx context.Context, c authz.Caller, q keyservice.AuditQuery) (keyservice.AuditPage, error) {
	return somePage(q.From), r.note(ctx, "entries", c, q)
}

func (r *recorder) StreamAudit(ctx context.Context, c authz.Caller, q keyservice.AuditQuery) (keyservice.AuditStream, error) {
	s := keyservice.AuditStream{Log: keyservice.AuditLog{Node: "n1", Entries: 20}, Pages: func(yield func(keyservice.AuditPage, error) bool) {
		for r.barren != nil && r.barren() {
			if ctx.Err() != nil || !yield(keyservice.AuditPage{Next: q.From}, nil) {
				return
			}
		}
		for from := q.From; from < 20; from += 5 {
			if r.cut != nil && from >= 10 {
				yield(keyservice.AuditPage{}, r.cut(ctx))
				return
			}
			if !yield(somePage(from), nil) {
				return
			}
		}
	}}
	return s, r.note(ctx, "stream", c, q)
}

var someTree = tlog.Tree{N: 20, Hash: tlog.RecordHash([]byte("root"))}

func (r *recorder) AuditCheckpoint(ctx context.Context, c authz.Caller, node string) (keyservice.SignedCheckpoint, error) {
	p := audit.Checkpoint{Origin: "ramzban/5d0f/n1", Tree: someTree, Time: someTime}
	return keyservice.SignedCheckpoint{Node: "n1", Checkpoint: p, Note: []byte("note\n")}, r.note(ctx, "checkpoint", c, node)
}

func (r *recorder) Inclusion(ctx context.Context, c authz.Caller, node string, index, size uint64) (keyservice.InclusionProof, error) {
	p := keyservice.InclusionProof{Node: "n1", Index: index, Leaf: tlog.RecordHash(nil), Tree: someTree, Proof: tlog.RecordProof{someTree.Hash}}
	return p, r.note(ctx, "inclusion", c, sizes{node, index, size})
}

func (r *recorder) Consistency(ctx context.Context, c authz.Caller, node string, from, to uint64) (keyservice.ConsistencyProof, error) {
	p := keyservice.ConsistencyProof{Node: "n1", From: tlog.Tree{N: 7, Hash: someTree.Hash}, To: someTree}
	return p, r.note(ctx, "consistency", c, sizes{node, from, to})
}

func (r *recorder) AuditKeys(ctx context.Context, c authz.Caller) ([]keyservice.AuditKey, error) {
	return []keyservice.AuditKey{{Version: 2}}, r.note(ctx, "audit-keys", c, nil)
}

// sizes are what a proof is asked for.
type sizes struct {
	node  string
	at, n uint64
}

func (r *recorder) CompareAudit(ctx context.Context, c authz.Caller) ([]keyservice.Discrepancy, error) {
	return nil, r.note(ctx, "compare", c, nil)
}

func (r *recorder) Remove(ctx context.Context, c authz.Caller, in keyservice.RemoveRequest) (keyservice.Status, error) {
	return keyservice.Deactivated, r.note(ctx, "remove", c, in)
}

// asked is which entries were.
// setUses, setPIN, setMobile and endSubject are the inputs of use cases that take no struct.
type (
	setUses struct {
		serial string
		uses   []string
	}
	setPIN struct {
		serial string
		pin    seed.PIN
	}
	setMobile struct {
		serial string
		mobile seed.Mobile
	}
	endSubject struct {
		class   string
		subject seed.Subject
	}
)

func (r *recorder) SetUses(ctx context.Context, c authz.Caller, serial string, uses []string) ([]string, error) {
	return uses, r.note(ctx, "set-uses", c, setUses{serial, uses})
}

func (r *recorder) SetPIN(ctx context.Context, c authz.Caller, serial string, pin seed.PIN) (keyservice.Status, error) {
	return keyservice.Issued, r.note(ctx, "set-pin", c, setPIN{serial, pin})
}

func (r *recorder) SetMobile(ctx context.Context, c authz.Caller, serial string, mobile seed.Mobile) (keyservice.IssuedToken, error) {
	return someToken, r.note(ctx, "set-mobile", c, setMobile{serial, mobile})
}

func (r *recorder) Unlock(ctx context.Context, c authz.Caller, serial string) (keyservice.Status, error) {
	return keyservice.Active, r.note(ctx, "unlock", c, serial)
}

func (r *recorder) Resync(ctx context.Context, c authz.Caller, in keyservice.ResyncRequest) (keyservice.ResyncVerdict, error) {
	return keyservice.ResyncVerdict{Accepted: true, Drift: 2 * time.Minute, Audit: audit.Position{Node: "n1", Index: 7}}, r.note(ctx, "resync", c, in)
}

func (r *recorder) SubjectTokens(ctx context.Context, c authz.Caller, class string, subject seed.Subject) ([]keyservice.TokenView, error) {
	return []keyservice.TokenView{{Serial: someToken.Serial}}, r.note(ctx, "subject-tokens", c, endSubject{class, subject})
}

func (r *recorder) DeactivateSubject(ctx context.Context, c authz.Caller, class string, subject seed.Subject) ([]string, error) {
	return []string{someToken.Serial}, r.note(ctx, "deactivate-subject", c, endSubject{class, subject})
}

func (r *recorder) ImportKey(ctx context.Context, c authz.Caller) ([]byte, error) {
	return []byte("der"), r.note(ctx, "import-key", c, nil)
}

func (r *recorder) Challenge(ctx context.Context, c authz.Caller, in keyservice.ChallengeRequest) (keyservice.Challenge, error) {
	return keyservice.Challenge{ID: "5d0f", ExpiresAt: someTime, Repeated: r.repeats}, r.note(ctx, "challenge", c, in)
}

func (r *recorder) MayIssue(ctx context.Context, c authz.Caller) error {
	return r.note(ctx, "may-issue", c, nil)
}

// TakeBackup only refuses: what a backup writes, the real service must say.
func (r *recorder) TakeBackup(ctx context.Context, c authz.Caller) (*keyservice.Backup, error) {
	if err := r.note(ctx, "backup", c, nil); err != nil {
		return nil, err
	}
	return nil, &keyservice.Error{Code: keyservice.CodeBusy, Detail: "one at a time"}
}

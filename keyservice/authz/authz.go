// Package authz says who may do what: roles, the actions each grants, and the directory that maps a certificate's name
// to a named client or person. Pure, default deny.
//
// It must not know TLS, HTTP or storage: it is handed names and answers yes or no.
package authz

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// ErrDenied: the caller has no role that grants the action.
var ErrDenied = errors.New("this client's roles do not allow it")

// Role is a set of actions that belong to one job.
type Role string

// The roles. A bank may give one client several; the demo does not.
const (
	Issuer    Role = "issuer"    // issues, connects, suspends, resumes, unlocks, deactivates tokens, says where their codes go
	Activator Role = "activator" // activates, confirms, resynchronises and removes tokens for phones
	Courier   Role = "courier"   // collects codes for delivery (SMS gateway)
	Verifier  Role = "verifier"  // verifies passwords, asks for SMS passwords
	Officer   Role = "officer"   // the key ceremony, rotation, approvals
	Auditor   Role = "auditor"   // reads and checks the audit log
	Operator  Role = "operator"  // health and metrics, and backups, which only the HSM opens
)

// Roles lists all of them.
func Roles() []Role {
	return []Role{Issuer, Activator, Courier, Verifier, Officer, Auditor, Operator}
}

// Action is one use case.
type Action string

// The actions, named as they stand in audit entries.
const (
	IssueToken      Action = "token.issue"
	RenewCode       Action = "token.renew-code"
	ReadToken       Action = "token.read"
	SuspendToken    Action = "token.suspend"
	ResumeToken     Action = "token.resume"
	DeactivateToken Action = "token.deactivate"
	CollectCode     Action = "code.collect"
	ActivateToken   Action = "token.activate"
	ConfirmToken    Action = "token.confirm"
	SetUses         Action = "token.set-uses"
	SetPIN          Action = "token.set-pin"
	SetMobile       Action = "token.set-mobile"
	RemoveToken     Action = "token.remove"
	UnlockToken     Action = "token.unlock"
	ResyncToken     Action = "token.resync"
	EndSubject      Action = "subject.deactivate"
	ReadImportKey   Action = "import-key.read"
	AskChallenge    Action = "challenge.ask"
	VerifyOTP       Action = "otp.verify"
	ReadAudit       Action = "audit.read"
	CompareAudit    Action = "audit.compare"
	ReadMetrics     Action = "metrics.read"
	TakeBackup      Action = "backup.take"
	MakeProposal    Action = "proposal.make"
	ApproveProposal Action = "proposal.approve"
	EndProposal     Action = "proposal.withdraw"
	ReadProposals   Action = "proposal.read"
	ReadKeys        Action = "keys.read"
	ReadRotations   Action = "rotation.read"
	PauseRotation   Action = "rotation.pause"
	ResumeRotation  Action = "rotation.resume"
	FeedSubjects    Action = "subject.feed"

	ImportClearSeeds Action = "seed.import-clear"
)

var grants = map[Role][]Action{
	Issuer: {IssueToken, RenewCode, ReadToken, SuspendToken, ResumeToken, DeactivateToken, SetUses, SetPIN, SetMobile,
		UnlockToken, EndSubject},
	Activator: {ActivateToken, ConfirmToken, RemoveToken, ResyncToken, ReadImportKey},
	Courier:   {CollectCode},
	Verifier:  {VerifyOTP, AskChallenge},
	Officer: {MakeProposal, ApproveProposal, EndProposal, ReadProposals, ReadKeys, ReadRotations, PauseRotation, ResumeRotation,
		FeedSubjects, ImportClearSeeds},
	Auditor:  {ReadAudit, CompareAudit},
	Operator: {ReadMetrics, TakeBackup},
}

// Caller is who asks: a named client or person, and its roles. The zero Caller may do nothing.
type Caller struct {
	Name  string
	Roles []Role
}

// Check returns nil if one of the caller's roles grants the action, else an error that wraps ErrDenied.
func Check(c Caller, a Action) error {
	if c.Name == "" {
		return fmt.Errorf("%w: no identity", ErrDenied)
	}
	for _, r := range c.Roles {
		if slices.Contains(grants[r], a) {
			return nil
		}
	}
	return fmt.Errorf("%w: %s needs another role", ErrDenied, a)
}

// Directory maps a certificate's name (URI SAN, else CN) to a caller. Several certificates may name the same caller: a
// renewed certificate is the same person.
type Directory struct {
	callers map[string]Caller // by certificate name
	named   map[string]Caller
}

// Client is one line of the directory as configured.
type Client struct {
	Name         string   // who it is in audit entries
	Certificates []string // the certificate names (URI SAN or CN) that are this client's
	Roles        []Role
}

// NewDirectory checks the clients: names and certificate names unique and not empty, roles known. Names that differ in
// capital letters alone, or in what cannot be seen, are refused: whoever reads one in a proposal must know whose it is.
func NewDirectory(clients []Client) (*Directory, error) {
	d := &Directory{callers: map[string]Caller{}, named: map[string]Caller{}}
	for i, c := range clients {
		if c.Name == "" || slices.ContainsFunc(clients[:i], func(o Client) bool { return strings.EqualFold(o.Name, c.Name) }) {
			return nil, fmt.Errorf("client name %q is empty, or given twice but for capital letters", c.Name)
		}
		if strings.TrimSpace(c.Name) != c.Name || strings.ContainsFunc(c.Name, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return nil, fmt.Errorf("client name %q begins or ends with a space, or holds characters that cannot be seen", c.Name)
		}
		d.named[c.Name] = Caller{Name: c.Name, Roles: slices.Clone(c.Roles)}
		if err := d.add(c); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (d *Directory) add(c Client) error {
	for _, r := range c.Roles {
		if _, known := grants[r]; !known {
			return fmt.Errorf("client %q: role %q is not one of %v", c.Name, r, Roles())
		}
	}
	if len(c.Certificates) == 0 {
		return fmt.Errorf("client %q names no certificate", c.Name)
	}
	for _, cert := range c.Certificates {
		if _, taken := d.callers[cert]; taken || cert == "" {
			return fmt.Errorf("client %q: certificate name %q is empty or already taken", c.Name, cert)
		}
		d.callers[cert] = Caller{Name: c.Name, Roles: slices.Clone(c.Roles)}
	}
	return nil
}

// Lookup returns the caller of a certificate name; false if it is nobody's.
func (d *Directory) Lookup(certificate string) (Caller, bool) {
	c, ok := d.callers[certificate]
	return c, ok
}

// Named returns the caller of this name; false if there is none.
func (d *Directory) Named(name string) (Caller, bool) {
	c, ok := d.named[name]
	return c, ok
}

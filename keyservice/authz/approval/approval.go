// Package approval is the paperwork of dual control: what an officer proposes, what another one approves, and how anyone
// who has the documents, the signatures, the certificates and the authority's certificate finds out, offline, that two
// different persons agreed on exactly these bytes.
//
// A document is one line of JSON in one form only (see Parse…): what is signed is what is stored and shown, byte for byte.
// A signature is detached and made with the key of the officer's client certificate, so that other tools can check it
// (openssl dgst -sha256 -verify; for Ed25519 openssl pkeyutl -verify -rawin). Pure: no I/O, no clock.
//
// It must not know what the actions mean, nor how documents are kept or sent.
package approval

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Why documents and signatures do not count. All errors of the package wrap one of them.
var (
	ErrDocument     = errors.New("this is not a document of dual control in its one form")
	ErrSignature    = errors.New("the signature is not that of the document under the certificate's key")
	ErrCertificate  = errors.New("the signer's certificate does not count")
	ErrSigner       = errors.New("the document was signed by another person than it names")
	ErrInstallation = errors.New("the document is for another installation")
	ErrNotYet       = errors.New("the document is dated in the future")
	ErrExpired      = errors.New("the proposal has expired")
	ErrNotOfficer   = errors.New("the signer is not an officer of this installation")
	ErrSamePerson   = errors.New("a proposal must be approved by another person than its proposer")
	ErrOther        = errors.New("the approval is for another proposal")
)

// Bounds of a document, and of how long a proposal can wait for its approval.
const (
	MaxDocument = 4096 // bytes
	MinLife     = 5 * time.Minute
	MaxLife     = 30 * 24 * time.Hour
	DefaultLife = 72 * time.Hour
)

// version of the documents' form.
const version = 1

// Proposal is what an officer wants to be done:
//
//	{"ramzban_proposal":1,"installation":"5d0f6f3c1b7e49a2","action":"officers.change","parameters":{…},
//	"proposer":"officer-1","nonce":"…","created_at":"2026-11-22T10:00:00Z","expires_at":"2026-11-25T10:00:00Z"}
type Proposal struct {
	Version      int             `json:"ramzban_proposal"`
	Installation string          `json:"installation"` // where it is to be done, and nowhere else
	Action       string          `json:"action"`
	Parameters   json.RawMessage `json:"parameters"` // an object whose names are sorted
	Proposer     string          `json:"proposer"`   // the person's name in the installation's configuration
	Nonce        string          `json:"nonce"`      // 32 hexadecimal digits, random: no two proposals are the same
	CreatedAt    time.Time       `json:"created_at"` // UTC, whole seconds
	ExpiresAt    time.Time       `json:"expires_at"` // MinLife to MaxLife later: from then on it is not carried out
}

// Approval is another officer's consent to one proposal:
//
//	{"ramzban_approval":1,"proposal_sha256":"…","approver":"officer-2","created_at":"2026-11-22T11:00:00Z"}
type Approval struct {
	Version   int       `json:"ramzban_approval"`
	Proposal  string    `json:"proposal_sha256"` // of the proposal's bytes, 64 hexadecimal digits
	Approver  string    `json:"approver"`
	CreatedAt time.Time `json:"created_at"` // UTC, whole seconds
}

// New makes a proposal. parameters is encoded as JSON and must be an object; nonce is 16 random bytes. Fractions of a
// second are dropped from now; life is MinLife to MaxLife.
func New(installation, action string, parameters any, proposer string, nonce []byte, now time.Time, life time.Duration) (Proposal, error) {
	object, err := sortedObject(parameters)
	if err != nil {
		return Proposal{}, err
	}
	now = now.UTC().Truncate(time.Second)
	p := Proposal{
		Version: version, Installation: installation, Action: action, Parameters: object, Proposer: proposer,
		Nonce: hex.EncodeToString(nonce), CreatedAt: now, ExpiresAt: now.Add(life.Truncate(time.Second)),
	}
	_, err = p.Encode()
	return p, err
}

// Approve makes the approval of a proposal's bytes.
func Approve(proposal []byte, approver string, now time.Time) Approval {
	return Approval{Version: version, Proposal: Digest(proposal), Approver: approver, CreatedAt: now.UTC().Truncate(time.Second)}
}

// Digest is the SHA-256 of a document, in hexadecimal.
func Digest(document []byte) string {
	sum := sha256.Sum256(document)
	return hex.EncodeToString(sum[:])
}

// ID is the short name of a proposal: the first 16 bytes of its digest, in hexadecimal.
func ID(document []byte) string { return Digest(document)[:32] }

// Encode returns the proposal's bytes, which are to be signed; ErrDocument if ParseProposal would not take them.
func (p Proposal) Encode() ([]byte, error) {
	b, err := canonical(p)
	if err == nil {
		_, err = ParseProposal(b)
	}
	return b, err
}

// Encode returns the approval's bytes, which are to be signed; ErrDocument if ParseApproval would not take them.
func (a Approval) Encode() ([]byte, error) {
	b, err := canonical(a)
	if err == nil {
		_, err = ParseApproval(b)
	}
	return b, err
}

// ParseProposal reads what Encode wrote and nothing else: any other spelling of the same values is ErrDocument.
func ParseProposal(document []byte) (Proposal, error) {
	p, err := parse[Proposal](document)
	if err == nil {
		err = p.check()
	}
	if err != nil {
		return Proposal{}, err
	}
	return p, nil
}

// ParseApproval reads what Encode wrote and nothing else.
func ParseApproval(document []byte) (Approval, error) {
	a, err := parse[Approval](document)
	if err == nil {
		err = a.check()
	}
	if err != nil {
		return Approval{}, err
	}
	return a, nil
}

// Into decodes the parameters into a struct, strictly: unknown and missing names are ErrDocument unless omitempty allows
// them to be missing.
func (p Proposal) Into(parameters any) error {
	dec := json.NewDecoder(bytes.NewReader(p.Parameters))
	dec.DisallowUnknownFields()
	if err := dec.Decode(parameters); err != nil {
		return fmt.Errorf("%w: the parameters of %s: %w", ErrDocument, p.Action, err)
	}
	again, err := sortedObject(parameters)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, p.Parameters) {
		return fmt.Errorf("%w: the parameters of %s must be spelt as %s", ErrDocument, p.Action, again)
	}
	return nil
}

var (
	actionForm       = regexp.MustCompile(`^[a-z]+(\.[a-z]+(-[a-z]+)*)?$`)
	installationForm = regexp.MustCompile(`^[0-9a-f]{16}$`)
	nonceForm        = regexp.MustCompile(`^[0-9a-f]{32}$`)
	digestForm       = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

func (p Proposal) check() error {
	object, err := sortedObject(p.Parameters)
	if err != nil {
		return err
	}
	life := p.ExpiresAt.Sub(p.CreatedAt)
	return firstWrong([]rule{
		{p.Version == version, "it is of another version"},
		{installationForm.MatchString(p.Installation), "the installation is not 16 hexadecimal digits"},
		{actionForm.MatchString(p.Action), "the action has another form than keys.rotate"},
		{bytes.Equal(object, p.Parameters), "the parameters are not sorted by their names"},
		{p.Proposer != "", "it names no proposer"},
		{nonceForm.MatchString(p.Nonce), "the nonce is not 32 hexadecimal digits"},
		{wholeSeconds(p.CreatedAt) && wholeSeconds(p.ExpiresAt), "a time is not in whole seconds, UTC"},
		{life >= MinLife && life <= MaxLife, fmt.Sprintf("it must be good for %v to %v", MinLife, MaxLife)},
	})
}

func (a Approval) check() error {
	return firstWrong([]rule{
		{a.Version == version, "it is of another version"},
		{digestForm.MatchString(a.Proposal), "the proposal's SHA-256 is not 64 hexadecimal digits"},
		{a.Approver != "", "it names no approver"},
		{wholeSeconds(a.CreatedAt), "the time is not in whole seconds, UTC"},
	})
}

type rule struct {
	holds bool
	wrong string
}

func firstWrong(rules []rule) error {
	if i := slices.IndexFunc(rules, func(r rule) bool { return !r.holds }); i >= 0 {
		return fmt.Errorf("%w: %s", ErrDocument, rules[i].wrong)
	}
	return nil
}

func wholeSeconds(t time.Time) bool { return t.Nanosecond() == 0 && t.Location() == time.UTC }

// parse decodes a document and encodes it again, which must give the same bytes.
func parse[T any](document []byte) (T, error) {
	var v, none T
	if err := checkText(document); err != nil {
		return none, err
	}
	dec := json.NewDecoder(bytes.NewReader(document))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		return none, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	again, err := canonical(v)
	if err != nil {
		return none, err
	}
	if !bytes.Equal(again, document) {
		return none, fmt.Errorf("%w: it is spelt in another way than Ramzban spells it", ErrDocument)
	}
	return v, nil
}

// checkText: everything in a document can be seen, so that who approves it saw all of it. The only escapes are those of
// quotes and backslashes.
func checkText(document []byte) error {
	text := string(document)
	switch {
	case len(document) > MaxDocument:
		return fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrDocument, len(document), MaxDocument)
	case !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("%w: it holds characters that cannot be seen", ErrDocument)
	case strings.Contains(strings.NewReplacer(`\\`, "", `\"`, "").Replace(text), `\`):
		return fmt.Errorf("%w: it holds escaped characters that cannot be seen", ErrDocument)
	}
	return nil
}

// canonical is JSON without white space, its names in the order of the type's fields, or sorted in maps.
func canonical(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// sortedObject encodes v, which must be a JSON object, with the names of all objects in it sorted.
func sortedObject(v any) (json.RawMessage, error) {
	b, err := canonical(v)
	if err != nil {
		return nil, err
	}
	var object map[string]any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&object); err != nil || object == nil {
		return nil, fmt.Errorf("%w: the parameters are no object", ErrDocument)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows the parameters", ErrDocument)
	}
	return canonical(object)
}

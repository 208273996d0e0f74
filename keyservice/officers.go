package keyservice

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/store"
)

// Persons says whose signatures count. Officers act in person: by name, whichever of their certificates they use, and with
// the role, and while they stand in the row of officers. The zero value is for a service on which nothing can be proposed.
type Persons struct {
	Directory *authz.Directory                      // whose a certificate is, and with which roles
	Roots     *x509.CertPool                        // the authorities of client certificates
	Revoked   func(chain []*x509.Certificate) error // why a chain, the leaf first, does not count any more; may be nil
	Officers  []string                              // the first officers' names, for a database that names none yet; nobody looks at it later
}

// The officers are one row. Only an approved proposal changes it, so that no configuration file and no one officer does.

const officersKey store.Key = "o/officers"

const officersRow = "officers" // as errors name it

const beginOfficers authz.Action = "officers.begin"

// Bounds of how many officers there are. With fewer than two, nothing could be approved.
const (
	minOfficers = 2
	maxOfficers = 32
)

// officers is the row. On disk it is CBOR with these integer keys under the state MAC.
type officers struct {
	Schema   uint8    `cbor:"0,keyasint"`
	Revision uint64   `cbor:"1,keyasint"` // grows with every change
	Names    []string `cbor:"2,keyasint"` // sorted
}

// loadOfficers reads the row, and what a decision about it depends on. Without a row nobody is an officer. One that is older
// than this process has seen, or a checkpoint told of when it began, was put back: its MAC is right, but it names officers
// who were removed.
func (s *Service) loadOfficers(ctx context.Context) (officers, store.Require, error) {
	seen := s.officers.Load() // before the row is read, so that what is written meanwhile does not make it look old
	items, err := s.Store.Get(ctx, officersKey)
	if err != nil {
		return officers{}, store.Require{}, storeError(err)
	}
	require := requireItems(items)[0]
	if require.Version == 0 {
		return officers{}, require, nil
	}
	if _, err := s.ringOf(ctx, items[0]); err != nil {
		return officers{}, require, err
	}
	o, err := unmac[officers](s, items[0], officersRow)
	if err == nil && o.Schema != schema {
		err = &tampered{what: officersRow, err: errors.New("not a row of this version")}
	}
	if err == nil && o.Revision < seen {
		err = &tampered{what: officersRow, err: fmt.Errorf("an older row was put back: it is of revision %d, and revision %d was in use", o.Revision, seen)}
	}
	if err == nil {
		s.sawOfficers(o.Revision)
	}
	return o, require, err
}

// sawOfficers remembers the highest revision.
func (s *Service) sawOfficers(revision uint64) {
	for {
		seen := s.officers.Load()
		if revision <= seen || s.officers.CompareAndSwap(seen, revision) {
			return
		}
	}
}

// officersRevision is the revision of the row as it is stored; 0 if it fails its check, which whoever uses it alarms.
func (s *Service) officersRevision(ctx context.Context) (uint64, error) {
	o, _, err := s.loadOfficers(ctx)
	if isTampered(err) {
		return 0, nil
	}
	return o.Revision, err
}

// beginOfficers names the first officers of a database that has none. A row that was there and is gone is alarmed and not
// made again; the service goes on, and nothing can be proposed.
func (s *Service) beginOfficers(ctx context.Context) error {
	for range maxConflicts {
		d, err := s.firstOfficers(ctx)
		var tam *tampered
		switch {
		case errors.As(err, &tam):
			if err := s.failed(ctx, itself, beginOfficers, "", err); CodeOf(err) != CodeTampered {
				return err
			}
			return nil
		case err != nil || len(d.change.Put) == 0:
			return err
		}
		if _, err := s.commit(ctx, itself, beginOfficers, d); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return &Error{Code: CodeBusy, Detail: "the officers are named by several nodes at once; start again"}
}

// firstOfficers decides who the first officers are; it puts no row where there is one, or none are configured.
func (s *Service) firstOfficers(ctx context.Context) (decision, error) {
	ring := s.ring.Load()
	_, require, err := s.loadOfficers(ctx)
	if err != nil || require.Version != 0 || len(s.Persons.Officers) == 0 {
		return decision{}, err
	}
	names := slices.Sorted(slices.Values(s.Persons.Officers))
	if refusal := s.checkOfficers(names); refusal != nil {
		return decision{}, refusal
	}
	before, err := s.officersBefore(ctx)
	if err != nil {
		return decision{}, err
	}
	if before {
		return decision{}, &tampered{what: officersRow, err: errors.New("the row is missing, and the log tells of officers")}
	}
	row, err := s.mac(officersKey, officers{Schema: schema, Revision: 1, Names: names})
	return decision{
		ring:   ring,
		change: store.Change{Require: []store.Require{require}, Put: []store.Put{row}},
		entry:  audit.Entry{Outcome: audit.Done, Detail: strings.Join(names, ", "), Revision: 1},
	}, err
}

// officersBefore says whether officers were named before, by what the logs and the other rows tell.
func (s *Service) officersBefore(ctx context.Context) (bool, error) {
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return false, storeError(err)
	}
	defer snap.Close()
	first, err := firstKey(ctx, snap, proposalRows, "")
	if err != nil || first != "" {
		return first != "", storeErrorOf(err)
	}
	logs, _, err := s.logs(ctx, snap, s.head.Load())
	for _, log := range logs {
		if log.First > 0 {
			return true, nil // what was removed, two officers removed
		}
		err = s.scanGenuine(ctx, snap, audit.Position{Node: log.Node}, func(e LoggedEntry) error {
			if e.Action == string(beginOfficers) && e.Outcome == audit.Done {
				return errFound
			}
			return nil
		})
		if err != nil {
			break
		}
	}
	if errors.Is(err, errFound) {
		return true, nil
	}
	return false, storeErrorOf(err)
}

// storeErrorOf is storeError for what may be nil.
func storeErrorOf(err error) error {
	if err == nil {
		return nil
	}
	return storeError(err)
}

// checkOfficers says what is wrong with a list of officers: it must be sorted, and each must be a configured person with
// the role, or an installation could lock itself out.
func (s *Service) checkOfficers(names []string) *Error {
	wrong := func(format string, a ...any) *Error {
		return &Error{Code: CodeInvalid, Detail: fmt.Sprintf(format, a...)}
	}
	if len(names) < minOfficers || len(names) > maxOfficers {
		return wrong("there must be %d to %d officers", minOfficers, maxOfficers)
	}
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		return wrong("officers must be sorted by name, and each named once")
	}
	for _, name := range names {
		if s.Persons.Directory == nil {
			return wrong("no clients are configured, so nobody can be an officer")
		}
		if c, known := s.Persons.Directory.Named(name); !known || !isOfficer(c) {
			return wrong("%q is no configured client with the role officer", name)
		}
	}
	return nil
}

func isOfficer(c authz.Caller) bool { return authz.Check(c, authz.ApproveProposal) == nil }

// verifier says whose signatures count here: persons' who have the role.
func (s *Service) verifier() approval.Verifier {
	return approval.Verifier{Roots: s.Persons.Roots, Revoked: s.Persons.Revoked, Person: func(certificate string) (string, bool) {
		if s.Persons.Directory == nil {
			return "", false
		}
		c, known := s.Persons.Directory.Lookup(certificate)
		return c.Name, known && isOfficer(c)
	}}
}

// latest is the later of the node's clock and the store's: a clock that is behind makes nothing live longer.
func (s *Service) latest(ctx context.Context) (time.Time, error) {
	now, err := s.Store.Now(ctx)
	if err != nil {
		return time.Time{}, storeError(err)
	}
	if own := s.Clock(); own.After(now) {
		now = own
	}
	return now, nil
}

// ActionOfficers is the change of officers; OfficersChange its parameters.
const ActionOfficers = "officers.change"

// OfficersChange are the parameters of a change of officers.
type OfficersChange struct {
	Officers  []string `json:"officers"`   // who they will be: sorted, at least two
	InsteadOf []string `json:"instead_of"` // who they were when it was proposed: if that has changed it is not carried out
}

func (s *Service) checkOfficersChange(_ context.Context, p approval.Proposal) (*Error, error) {
	var change OfficersChange
	if err := p.Into(&change); err != nil {
		return &Error{Code: CodeDocumentInvalid, Detail: "the parameters are officers and instead_of, two lists of names", Err: err}, nil
	}
	return s.checkOfficers(change.Officers), nil
}

// changeOfficers writes the row. Approvals of whoever is no officer any more count no longer: that is looked at when a
// proposal begins to be carried out.
func (s *Service) changeOfficers(ctx context.Context, x *execution) (decision, *Error, error) {
	var change OfficersChange
	if err := x.Proposal.Into(&change); err != nil {
		return decision{}, nil, err
	}
	o, require, err := s.loadOfficers(ctx)
	if err != nil {
		return decision{}, nil, err
	}
	if !slices.Equal(o.Names, change.InsteadOf) {
		return decision{}, &Error{Code: CodeProposalClosed, Detail: "the officers have changed since it was proposed"}, nil
	}
	o.Names, o.Revision = change.Officers, o.Revision+1
	row, err := s.mac(officersKey, o)
	return decision{
		change: store.Change{Require: []store.Require{require}, Put: []store.Put{row}},
		entry:  audit.Entry{Detail: strings.Join(o.Names, ", "), Revision: o.Revision},
	}, nil, err
}

// installation names this installation in officers' documents, so that what was signed for another one counts for nothing.
func (s *Service) installation() string { return s.ring.Load().Installation }

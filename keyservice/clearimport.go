package keyservice

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // OAEP as Import takes it
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// Some makers deliver the seeds of hardware tokens in clear. Two officers agree on such a file by its digest, and then one
// of them sends it. The service wraps each seed to its own import key, which is what every other route takes, and keeps
// nothing but how many lines it has logged: a token gets the seed when its device is handed out, as if its maker had
// wrapped it. There a seed lives once, whichever way it came.

// ActionImportClear lets officers send one file of seeds in clear.
const ActionImportClear = "seeds.import-clear"

// ClearImport are the parameters of ActionImportClear.
type ClearImport struct {
	SHA256 string `json:"sha256"` // of the file, 64 hexadecimal digits
	Lines  int    `json:"lines"`  // 1 to MaxClearSeeds
	Source string `json:"source"` // who delivered it, in words: 1 to 100 characters
}

// clearImportOpen is how long the file may be sent after the approval. Within it a lost answer can be had again.
const clearImportOpen = 7 * 24 * time.Hour

// WrappedSeed is a seed of the file as activation takes it.
type WrappedSeed struct {
	Device    string // its maker's serial
	Hash      seed.Hash
	MakerSeed []byte // RSA-OAEP under the import key, anew each time the file is sent; nil if it is refused
	Refused   Code   // CodeSeedInUse: a token has it; "" if none has
}

func clearImportKey(id string) store.Key { return store.Key("q/" + id) }

const clearImportRow = "import of clear seeds" // as errors name it

// clearImport is the row of an import that was approved. On disk it is CBOR with these integer keys under the state MAC.
type clearImport struct {
	Schema uint8  `cbor:"0,keyasint"`
	Until  int64  `cbor:"1,keyasint"` // Unix milliseconds
	SHA256 []byte `cbor:"2,keyasint"`
	Lines  int    `cbor:"3,keyasint"`
	Logged int    `cbor:"4,keyasint"` // lines of which the log tells already
}

// errLogged: the log tells of this line already, because the file was sent before, or is being sent elsewhere.
var errLogged = errors.New("the log tells of this seed already")

func (s *Service) checkClearImport(_ context.Context, p approval.Proposal) (*Error, error) {
	if _, _, err := clearImportOf(p); err != nil {
		return &Error{Code: CodeDocumentInvalid, Err: err, Detail: fmt.Sprintf("the parameters are sha256 of the file (64 hexadecimal digits), "+
			"lines (1 to %d) and source: who delivered it, in 1 to 100 characters", MaxClearSeeds)}, nil
	}
	return nil, nil //nolint:nilnil // nothing is wrong
}

func clearImportOf(p approval.Proposal) (want ClearImport, digest []byte, err error) {
	if err = p.Into(&want); err != nil {
		return want, nil, err
	}
	digest, err = hex.DecodeString(want.SHA256)
	source := utf8.RuneCountInString(want.Source) // that all of it can be seen is so of every document
	if err == nil && (len(digest) != sha256.Size || want.Lines < 1 || want.Lines > MaxClearSeeds || source < 1 || source > 100) {
		err = errors.New("a parameter is out of its range")
	}
	return want, digest, err
}

// openClearImport lets officers send the file from now on.
func (s *Service) openClearImport(_ context.Context, x *execution) (decision, *Error, error) {
	want, digest, err := clearImportOf(x.Proposal)
	if err != nil {
		return decision{}, nil, err
	}
	ring, until := s.ring.Load(), s.Clock().Add(clearImportOpen)
	row, err := s.mac(clearImportKey(x.ID), clearImport{Schema: schema, Until: until.UnixMilli(), SHA256: digest, Lines: want.Lines})
	return decision{
		ring:   ring,
		change: store.Change{Require: []store.Require{{Key: row.Key}}, Put: []store.Put{row}},
		entry:  audit.Entry{Detail: "until " + until.UTC().Format(time.RFC3339)},
	}, nil, err
}

// MayImportClear returns nil if the caller may send a file, and writes a denial to the log as ImportClear would. It is for who
// must refuse others before it reads their file.
func (s *Service) MayImportClear(ctx context.Context, c authz.Caller) error {
	return s.authorise(ctx, c, authz.ImportClearSeeds, "")
}

// ImportClear takes the file that was agreed on, and returns its seeds wrapped to the import key, in its order. The file is
// wiped. The log tells what was begun, of each device once, and what came of it. The same file may be sent again while the
// import is open: after a crash the log goes on where it ended, and who lost the answer gets one as good. A node imports
// one file at a time, else CodeBusy: each takes the HSM for as many seeds as it has.
func (s *Service) ImportClear(ctx context.Context, c authz.Caller, id string, file []byte) ([]WrappedSeed, error) {
	defer clear(file)
	if !s.importing.TryLock() {
		return nil, &Error{Code: CodeBusy, Detail: "a file of seeds is being imported by this node; one at a time"}
	}
	defer s.importing.Unlock()
	var seeds []clearSeed
	err := s.asOfficer(ctx, c, authz.ImportClearSeeds, func() (d decision, err error) {
		wipe(seeds)
		seeds, d, err = s.beginImport(ctx, id, file)
		return d, err
	})
	clear(file)
	defer wipe(seeds)
	if err != nil {
		return nil, err
	}
	wrapped, err := s.wrapSeeds(ctx, seeds)
	if err != nil {
		return nil, errors.Join(err, s.importFailed(ctx, c, id, 0, len(seeds), err))
	}
	return s.takeSeeds(ctx, c, id, wrapped)
}

// wrapSeeds encrypts each seed to the import key, as a maker should have done, and wipes it.
func (s *Service) wrapSeeds(ctx context.Context, seeds []clearSeed) ([]WrappedSeed, error) {
	key, err := s.publicImportKey(ctx)
	if err != nil {
		return nil, hsmError(err)
	}
	all := make([]WrappedSeed, len(seeds))
	for i, c := range seeds {
		made, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, key, c.seed, nil)
		if err != nil {
			return nil, &Error{Code: CodeInternal, Detail: "the seeds could not be wrapped to the import key", Err: err}
		}
		clear(c.seed)
		all[i] = WrappedSeed{Device: c.device, Hash: c.hash, MakerSeed: made}
	}
	return all, nil
}

func (s *Service) publicImportKey(ctx context.Context) (*rsa.PublicKey, error) {
	der, err := s.HSM.ImportKey(ctx)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("the import key: %w", err)
	}
	public, is := key.(*rsa.PublicKey)
	if !is {
		return nil, fmt.Errorf("the import key is a %T, not an RSA key", key)
	}
	return public, nil
}

// beginImport decides whether the file may be taken.
func (s *Service) beginImport(ctx context.Context, id string, file []byte) ([]clearSeed, decision, error) {
	open, seeds, refusal, err := s.agreedSeeds(ctx, id, file)
	if err != nil {
		return nil, decision{}, err
	}
	d := decision{entry: audit.Entry{Outcome: audit.Begun, Detail: fmt.Sprintf("%d seeds, %d of them logged before", open.Lines, open.Logged)}}
	if refusal != nil {
		d = refuse(refusal.Code, refusal.Detail)
		d.entry.Detail = refusal.Detail
	}
	if open.Schema != 0 {
		d.entry.Proposal = id
	}
	return seeds, d, nil
}

// agreedSeeds reads the file, if it is what two officers agreed on.
func (s *Service) agreedSeeds(ctx context.Context, id string, file []byte) (clearImport, []clearSeed, *Error, error) {
	open, _, refusal, err := s.openImport(ctx, id)
	if refusal != nil || err != nil {
		return open, nil, refusal, err
	}
	if sum := sha256.Sum256(file); !bytes.Equal(sum[:], open.SHA256) {
		return open, nil, &Error{Code: CodeDocumentInvalid, Detail: "this is not the file that was approved: its SHA-256 is another one"}, nil
	}
	seeds, err := parseClearSeeds(file)
	var bad *Error
	if errors.As(err, &bad) {
		return open, nil, bad, nil
	}
	if err == nil && len(seeds) != open.Lines {
		wipe(seeds)
		return open, nil, badSeeds("the file has %d lines, and %d were approved", len(seeds), open.Lines), nil
	}
	return open, seeds, nil, err
}

// openImport loads the row of an import that can be carried out now, and says why there is none.
func (s *Service) openImport(ctx context.Context, id string) (clearImport, []store.Require, *Error, error) {
	closed := &Error{Code: CodeProposalClosed, Detail: "no import is open under this id: propose " + ActionImportClear + ", and let another officer approve it"}
	if !proposalID.MatchString(id) {
		return clearImport{}, nil, closed, nil
	}
	items, err := s.Store.Get(ctx, clearImportKey(id))
	if err != nil {
		return clearImport{}, nil, nil, storeError(err)
	}
	if items[0].Version == 0 {
		return clearImport{}, nil, closed, nil
	}
	open, err := unmac[clearImport](s, items[0], clearImportRow)
	if err == nil && open.Schema != schema {
		err = &tampered{what: clearImportRow, err: errors.New("not a row of this version")}
	}
	if err == nil && s.Clock().UnixMilli() >= open.Until {
		return open, nil, closed, nil
	}
	return open, requireItems(items), nil, err
}

// takeSeeds looks at each wrapped seed inside the HSM, logs it, and sums up what came of the file.
func (s *Service) takeSeeds(ctx context.Context, c authz.Caller, id string, seeds []WrappedSeed) ([]WrappedSeed, error) {
	refused := 0
	for i := range seeds {
		if err := s.takeSeed(ctx, c, id, i, &seeds[i]); err != nil {
			return nil, errors.Join(err, s.importFailed(ctx, c, id, i, len(seeds), err))
		}
		if seeds[i].Refused != "" {
			refused++
		}
	}
	_, err := s.commit(ctx, c, authz.ImportClearSeeds, decision{entry: audit.Entry{
		Outcome: audit.Done, Proposal: id, Detail: fmt.Sprintf("%d wrapped, %d refused", len(seeds)-refused, refused),
	}})
	if err != nil {
		return nil, err
	}
	return seeds, nil
}

// takeSeed refuses a seed that a token has, and logs what came of this line unless the log tells of it already.
func (s *Service) takeSeed(ctx context.Context, c authz.Caller, id string, line int, w *WrappedSeed) error {
	made, err := s.HSM.Import(ctx, w.MakerSeed, w.Hash)
	if err != nil {
		return hsmError(err)
	}
	digest := s.ring.Load().makerSeed(made)
	err = s.asOfficer(ctx, c, authz.ImportClearSeeds, func() (decision, error) {
		holder, inUse, err := s.takeOver(ctx, token{}, digest)
		if err != nil {
			return decision{}, err
		}
		if w.Refused = ""; inUse != nil {
			w.Refused = inUse.Code
		}
		open, now, refusal, err := s.openImport(ctx, id)
		switch {
		case refusal != nil:
			return refuse(refusal.Code, refusal.Detail), nil
		case err != nil:
			return decision{}, err
		case open.Logged > line:
			return decision{}, errLogged
		}
		open.Logged = line + 1
		row, err := s.mac(clearImportKey(id), open)
		return decision{
			change: store.Change{Require: append(now, holder.require...), Put: []store.Put{row}},
			entry:  w.entry(id, digest),
		}, err
	})
	if w.Refused != "" {
		w.MakerSeed = nil
	}
	if errors.Is(err, errLogged) {
		return nil
	}
	return err
}

// entry tells of one device. The digest is that which the entry of an activation names as its maker's seed; without the host's
// key nobody can hold a seed against it.
func (w WrappedSeed) entry(id string, digest []byte) audit.Entry {
	outcome := audit.Done
	if w.Refused != "" {
		outcome = audit.Refused
	}
	return audit.Entry{
		Outcome: outcome, Reason: string(w.Refused), Proposal: id,
		Detail: fmt.Sprintf("device %s, %s, digest %s", w.Device, w.Hash, base64.StdEncoding.EncodeToString(digest)),
	}
}

// importFailed logs that an import ended early, also where that was because its time was over.
func (s *Service) importFailed(ctx context.Context, c authz.Caller, id string, taken, all int, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_, err := s.commit(ctx, c, authz.ImportClearSeeds, decision{entry: audit.Entry{
		Outcome: audit.Failed, Reason: string(cmp.Or(CodeOf(why), CodeInternal)), Proposal: id,
		Detail: fmt.Sprintf("after %d of %d seeds: send the same file again", taken, all),
	}})
	return err
}

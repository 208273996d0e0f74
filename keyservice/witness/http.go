package witness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"ramzban/keyservice/audit"
)

const (
	offerPath = "/add-checkpoint"
	heldPath  = "/checkpoints"
	sizeType  = "text/x.tlog.size"
	ofQuery   = "installation"
	maxHeld   = 1 << 20 // bytes of all notes that are held: a few hundred for each node
)

// Handler answers for a directory. POST /add-checkpoint is that of https://c2sp.org/tlog-witness, but for the answer to a
// checkpoint that was taken: it has no cosignature. GET /checkpoints?installation=… lists what is held of one, as JSON
// strings. Whoever reaches it may call it: only what the audit key signed is taken.
func Handler(d *Dir) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+offerPath, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, audit.MaxOffer+1))
		if err != nil {
			return // nobody is there to be answered
		}
		o, err := audit.ParseOffer(body)
		if err == nil {
			err = d.Offer(r.Context(), o)
		}
		answer(w, err)
	})
	mux.HandleFunc("GET "+heldPath, func(w http.ResponseWriter, r *http.Request) {
		notes, err := d.Held(r.Context(), r.URL.Query().Get(ofQuery))
		if err != nil {
			answer(w, err)
			return
		}
		texts := make([]string, len(notes))
		for i, n := range notes {
			texts[i] = string(n)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(texts) // an error means that nobody reads it
	})
	return mux
}

// answer tells what became of an offer.
func answer(w http.ResponseWriter, err error) {
	var stale *audit.StaleError
	switch {
	case err == nil:
		w.WriteHeader(http.StatusOK)
	case errors.As(err, &stale):
		w.Header().Set("Content-Type", sizeType)
		w.WriteHeader(http.StatusConflict)
		_, _ = fmt.Fprintf(w, "%d\n", stale.Size)
	case errors.Is(err, audit.ErrContradicted):
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
	case errors.Is(err, audit.ErrSignature):
		http.Error(w, err.Error(), http.StatusForbidden)
	case errors.Is(err, audit.ErrOffer), errors.Is(err, audit.ErrCheckpoint):
		http.Error(w, err.Error(), http.StatusBadRequest)
	default:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// Remote is a witness on another host, as Handler answers there.
type Remote struct {
	base   string
	client *http.Client
}

// NewRemote makes one of its https address. The client says whom to trust.
func NewRemote(base string, client *http.Client) *Remote {
	return &Remote{base: strings.TrimSuffix(base, "/"), client: client}
}

// Offer implements what keyservice.Witness asks for.
func (r *Remote) Offer(ctx context.Context, o audit.Offer) error {
	status, contentType, body, err := r.do(ctx, http.MethodPost, offerPath, o.Encode())
	if err != nil {
		return err
	}
	said := strings.TrimSpace(string(body))
	size, serr := strconv.ParseInt(said, 10, 64)
	switch {
	case status == http.StatusOK:
		return nil
	case status == http.StatusConflict && contentType == sizeType && serr == nil && size >= 0:
		return &audit.StaleError{Size: size}
	case status == http.StatusUnprocessableEntity, status == http.StatusConflict:
		return fmt.Errorf("%w: %s", audit.ErrContradicted, said)
	}
	return fmt.Errorf("the witness answered %d: %s", status, said)
}

// Held implements what keyservice.Witness asks for.
func (r *Remote) Held(ctx context.Context, installation string) ([][]byte, error) {
	status, _, body, err := r.do(ctx, http.MethodGet, heldPath+"?"+url.Values{ofQuery: {installation}}.Encode(), nil)
	if err != nil {
		return nil, err
	}
	var texts []string
	if status != http.StatusOK || json.Unmarshal(body, &texts) != nil {
		return nil, fmt.Errorf("the witness answered %d without its checkpoints", status)
	}
	notes := make([][]byte, len(texts))
	for i, t := range texts {
		notes[i] = []byte(t)
	}
	return notes, nil
}

func (r *Remote) do(ctx context.Context, method, path string, body []byte) (status int, contentType string, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, r.base+path, bytes.NewReader(body))
	if err != nil {
		return 0, "", nil, fmt.Errorf("asking the witness: %w", err)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, "", nil, fmt.Errorf("asking the witness: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxHeld))
	if err != nil {
		return 0, "", nil, fmt.Errorf("asking the witness: %w", err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), answer, nil
}

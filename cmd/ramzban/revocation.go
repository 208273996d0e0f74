package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// crlInterval is how often the file of revocation lists is looked at, at most.
const crlInterval = time.Minute

// revocations refuses client certificates that their authority has revoked. It looks whether its file has changed when a
// client connects or asks, and keeps what it read last for as long as the new content cannot be used. Once a list has
// expired, everyone it stands for is refused.
type revocations struct {
	path        string
	authorities []*x509.Certificate
	log         *slog.Logger
	now         func() time.Time

	mu     sync.Mutex // guards what follows
	looked time.Time  // at the file
	read   fileStamp  // of the content that lists was read from
	lists  crlSet
}

// fileStamp tells two contents of a file apart.
type fileStamp struct {
	modified time.Time
	size     int64
}

func stampOf(path string) (fileStamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fileStamp{}, err
	}
	return fileStamp{modified: info.ModTime(), size: info.Size()}, nil
}

// openRevocations reads the lists of all authorities. now is time.Now.
func openRevocations(path string, authorities []*x509.Certificate, log *slog.Logger, now func() time.Time) (*revocations, error) {
	r := &revocations{path: path, authorities: authorities, log: log, now: now, looked: now()}
	if err := r.readIfChanged(); err != nil {
		return nil, err
	}
	return r, nil
}

// verify is for tls.Config.VerifyConnection, which the API asks again at every request: it refuses a client if any
// certificate it was trusted by is revoked, or if that is not known. Callers without a certificate are let by; they may read the documentation and the time.
func (r *revocations) verify(state tls.ConnectionState) error {
	if len(state.VerifiedChains) == 0 {
		return nil
	}
	for _, chain := range state.VerifiedChains {
		if err := r.verifyChain(chain); err != nil {
			return err
		}
	}
	return nil
}

// verifyChain refuses a certificate, the first of a chain, if any of them is revoked, or if that is not known.
func (r *revocations) verifyChain(chain []*x509.Certificate) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refresh()
	for i, issuer := range chain[1:] {
		if err := r.lists.check(chain[i], issuer, r.now()); err != nil {
			return err
		}
	}
	return nil
}

// nextUpdate is when the first of the lists expires.
func (r *revocations) nextUpdate() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refresh()
	return r.lists.nextUpdate()
}

// refresh looks at the file if that is due. The caller holds mu.
func (r *revocations) refresh() {
	now := r.now()
	if now.Sub(r.looked) < crlInterval {
		return
	}
	r.looked = now
	if err := r.readIfChanged(); err != nil {
		r.log.Error("the revocation lists cannot be read again: those read before hold until they expire", "error", oneLine(err))
	}
	if next := r.lists.nextUpdate(); now.After(next) {
		r.log.Error("a revocation list has expired: its authority's clients are refused until there is a new one",
			"file", r.path, "next_update", next)
	}
}

func (r *revocations) readIfChanged() error {
	stamp, err := stampOf(r.path)
	if err != nil {
		return fmt.Errorf("%w: put the authorities' revocation lists there", err)
	}
	if stamp == r.read {
		return nil
	}
	lists, err := readCRLs(r.path, r.authorities, r.now())
	if err != nil {
		return err
	}
	r.lists, r.read = lists, stamp
	r.log.Info("revocation lists read", "file", r.path, "revoked", lists.revoked(), "next_update", lists.nextUpdate())
	return nil
}

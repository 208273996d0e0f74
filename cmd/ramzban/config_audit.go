package main

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"os"
	"time"

	"ramzban/keyservice"
	"ramzban/keyservice/witness"
)

func (a AuditConfig) validate() error {
	if d := time.Duration(a.CheckpointInterval); d < 100*time.Millisecond || d > time.Second {
		return wrong("audit.checkpoint_interval", "must be between 100ms and 1s, not %v", a.CheckpointInterval)
	}
	if a.Witness == nil {
		return nil
	}
	return a.Witness.validate()
}

func (w WitnessConfig) validate() error {
	if (w.Dir == "") == (w.URL == "") {
		return wrong("audit.witness", "give either dir or url")
	}
	if w.Dir != "" {
		for key, value := range map[string]string{"ca": w.CA, "certificate": w.Certificate, "key": w.Key} {
			if value != "" {
				return wrong("audit.witness."+key, "is for url only")
			}
		}
		return nil
	}
	if u, err := url.Parse(w.URL); err != nil || u.Scheme != "https" || u.Host == "" {
		return wrong("audit.witness.url", "give an https address such as https://witness.bank.example:8444")
	}
	if (w.Certificate == "") != (w.Key == "") {
		return wrong("audit.witness.certificate", "goes together with audit.witness.key")
	}
	return nil
}

// witness opens the witness; nil if there is none. With the keys nil it only looks at what the configuration names.
func (a AuditConfig) witness(keys witness.Keys) (keyservice.Witness, error) {
	switch w := a.Witness; {
	case w == nil:
		return nil, nil //nolint:nilnil // none is configured
	case w.Dir != "":
		d, err := witness.OpenDir(w.Dir, keys)
		if err != nil {
			return nil, wrong("audit.witness.dir", "%v: mount its disk, or make it", err)
		}
		return d, nil
	default:
		client, err := w.client()
		if err != nil {
			return nil, err
		}
		return witness.NewRemote(w.URL, client), nil
	}
}

// client is how the witness's host is reached. How long a call may take, its caller says.
func (w WitnessConfig) client() (*http.Client, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS13}
	if w.CA != "" {
		pem, err := os.ReadFile(w.CA)
		if err != nil {
			return nil, wrong("audit.witness.ca", "%v: put it there, or correct the path", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, wrong("audit.witness.ca", "%s holds no PEM certificate", w.CA)
		}
	}
	if w.Certificate != "" {
		if err := requirePrivate("audit.witness.key", w.Key); err != nil {
			return nil, err
		}
		own, err := tls.LoadX509KeyPair(w.Certificate, w.Key)
		if err != nil {
			return nil, wrong("audit.witness.certificate", "%v: give a certificate and its own key", err)
		}
		conf.Certificates = []tls.Certificate{own}
	}
	return &http.Client{
		Transport:     &http.Transport{TLSClientConfig: conf, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"syscall"
	"time"
)

// tlsConfig reads the server's certificate, the CA of its clients and, if configured, who of them is revoked. What
// expires is held against clock.
func (a APIConfig) tlsConfig(log *slog.Logger, clock func() time.Time) (*tls.Config, *revocations, error) {
	conf, authorities, err := a.certificates()
	if err != nil {
		return nil, nil, err
	}
	conf.Time = clock
	if a.ClientCRL == "" {
		return conf, nil, nil
	}
	revoked, err := openRevocations(a.ClientCRL, authorities, log, clock)
	if err != nil {
		return nil, nil, wrong("api.client_crl", "%v", err)
	}
	conf.VerifyConnection = revoked.verify
	return conf, revoked, nil
}

// certificates reads the server's certificate and the authorities of its clients.
func (a APIConfig) certificates() (*tls.Config, []*x509.Certificate, error) {
	if err := requirePrivate("api.key", a.Key); err != nil {
		return nil, nil, err
	}
	cert, err := tls.LoadX509KeyPair(a.Certificate, a.Key)
	if err != nil {
		return nil, nil, wrong("api.certificate", "%s with key %s cannot be used: %v: give a PEM certificate and its own key",
			a.Certificate, a.Key, err)
	}
	authorities, err := readCertificates(a.ClientCA)
	if err != nil {
		return nil, nil, wrong("api.client_ca", "%v: give the CA of the clients' certificates", err)
	}
	pool := x509.NewCertPool()
	for _, authority := range authorities {
		pool.AddCert(authority)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{cert}, ClientCAs: pool,
		MinVersion: tls.VersionTLS13, ClientAuth: tls.VerifyClientCertIfGiven,
	}, authorities, nil
}

// readCertificates reads every certificate of a PEM file.
func readCertificates(path string) ([]*x509.Certificate, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var found []*x509.Certificate
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", path, len(found)+1, err)
		}
		found = append(found, cert)
	}
	if found == nil {
		return nil, fmt.Errorf("%s holds no PEM certificate", path)
	}
	return found, nil
}

// listeners are the two ports. They are taken when the service can answer: until then a caller is refused at once, not
// left waiting.
type listeners struct{ api, operator net.Listener }

// tryAddresses finds out before anything slow is begun whether the ports can be had.
func tryAddresses(c Config) error {
	on, err := listen(c)
	if err != nil {
		return err
	}
	return on.close()
}

func listen(c Config) (listeners, error) {
	api, err := listenOn("api.listen", c.API.Listen)
	if err != nil {
		return listeners{}, err
	}
	operator, err := listenOn("operator.listen", c.Operator.Listen)
	if err != nil {
		return listeners{}, errors.Join(err, api.Close())
	}
	return listeners{api: api, operator: operator}, nil
}

// listenOn takes one port. Its errors may pass without the configuration being changed: another process ends, an address
// comes up.
func listenOn(key, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, &inUseError{key: key, address: address}
	case errors.Is(err, syscall.EACCES):
		return nil, wrong(key, "%s may not be used by this user: choose a port above 1023", address)
	case err != nil:
		return nil, fmt.Errorf("%s: %w: choose an address of this machine", key, err)
	}
	return l, nil
}

// inUseError is a port that another process has.
type inUseError struct{ key, address string }

func (e *inUseError) Error() string {
	return fmt.Sprintf("%s: %s is in use: stop the other process or choose another port", e.key, e.address)
}

func (e *inUseError) Unwrap() error { return syscall.EADDRINUSE }

// close gives back the ports that were taken; a listener that was served is closed already.
func (l listeners) close() error {
	var errs []error
	for _, one := range []net.Listener{l.api, l.operator} {
		if one == nil {
			continue
		}
		if err := one.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, fmt.Errorf("closing a listener: %w", err))
		}
	}
	return errors.Join(errs...)
}

package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// tlsConfig reads the server's certificate and the CA of its clients.
func (a APIConfig) tlsConfig() (*tls.Config, error) {
	if err := requirePrivate("api.key", a.Key); err != nil {
		return nil, err
	}
	cert, err := tls.LoadX509KeyPair(a.Certificate, a.Key)
	if err != nil {
		return nil, wrong("api.certificate", "%s with key %s cannot be used: %v: give a PEM certificate and its own key",
			a.Certificate, a.Key, err)
	}
	pem, err := os.ReadFile(a.ClientCA)
	if err != nil {
		return nil, wrong("api.client_ca", "%v: give the CA of the clients' certificates", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, wrong("api.client_ca", "%s holds no PEM certificate: give the CA of the clients' certificates", a.ClientCA)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{cert}, ClientCAs: pool,
		MinVersion: tls.VersionTLS13, ClientAuth: tls.VerifyClientCertIfGiven,
	}, nil
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
		return nil, fmt.Errorf("%s: %s is in use: stop the other process or choose another port", key, address)
	case errors.Is(err, syscall.EACCES):
		return nil, wrong(key, "%s may not be used by this user: choose a port above 1023", address)
	case err != nil:
		return nil, fmt.Errorf("%s: %w: choose an address of this machine", key, err)
	}
	return l, nil
}

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

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/goccy/go-yaml"

	"ramzban/softhsm"
)

// devClients are the people and systems of the development PKI: one role each, the names of their certificates.
var devClients = []ClientConfig{
	{Name: "branch", Certificates: []string{"branch"}, Roles: []string{"issuer"}},
	{Name: "mobile-bank", Certificates: []string{"mobile-bank"}, Roles: []string{"activator"}},
	{Name: "sms-gateway", Certificates: []string{"sms-gateway"}, Roles: []string{"courier"}},
	{Name: "core-banking", Certificates: []string{"core-banking"}, Roles: []string{"verifier"}},
	{Name: "officer-1", Certificates: []string{"officer-1"}, Roles: []string{"officer"}},
	{Name: "officer-2", Certificates: []string{"officer-2"}, Roles: []string{"officer"}},
	{Name: "officer-3", Certificates: []string{"officer-3"}, Roles: []string{"officer"}}, // none of the first officers
	{Name: "auditor", Certificates: []string{"auditor"}, Roles: []string{"auditor"}},
	{Name: "operator", Certificates: []string{"operator"}, Roles: []string{"operator"}},
}

// setUp makes what is missing in the folder and returns the path of the configuration. What is there is kept.
func (d dev) setUp(ctx context.Context) (string, error) {
	dir, err := filepath.Abs(d.dir)
	if err != nil {
		return "", err
	}
	token, err := d.setUpKeys(ctx, dir)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "ramzban.yaml")
	if found, err := exists(path); err != nil || found {
		return path, err
	}
	b, err := yaml.Marshal(devConfig(dir, token))
	if err != nil {
		return "", fmt.Errorf("writing the configuration: %w", err)
	}
	if err := replaceFile(d.newDatabaseMark(), nil); err != nil {
		return "", err
	}
	header := "# Made by `ramzban dev run`; yours to change. `ramzban config example` explains every key.\n"
	return path, replaceFile(path, append([]byte(header), b...))
}

// setUpKeys makes the certificates and the HSM.
func (d dev) setUpKeys(ctx context.Context, dir string) (*softhsm.Token, error) {
	if err := os.MkdirAll(dir, privateFolder); err != nil {
		return nil, err
	}
	if err := d.setUpPKI(filepath.Join(dir, "pki")); err != nil {
		return nil, err
	}
	return softhsm.Provision(ctx, filepath.Join(dir, "hsm"))
}

func (d dev) setUpPKI(dir string) error {
	p, err := openPKI(dir)
	if err != nil {
		return err
	}
	for _, c := range devClients {
		if err := p.client(c.Name); err != nil {
			return err
		}
	}
	host, _, err := net.SplitHostPort(d.api)
	if err != nil {
		return fmt.Errorf("%s: %w: give an address and port such as 127.0.0.1:8443", apiEnv, err)
	}
	return p.server(host)
}

func devConfig(dir string, token *softhsm.Token) Config {
	c := DefaultConfig()
	c.Node = "dev"
	c.API.Certificate = filepath.Join(dir, "pki", "server.crt")
	c.API.Key = filepath.Join(dir, "pki", "server.key")
	c.API.ClientCA = filepath.Join(dir, "pki", "ca.crt")
	c.HSM.Module, c.HSM.TokenLabel = token.Module, token.Label
	c.HSM.PINFile = filepath.Join(token.Dir, "pin")
	c.HSM.KnownAnswerFile = filepath.Join(token.Dir, "known-answer.json")
	c.HSM.Environment = map[string]string{"SOFTHSM2_CONF": token.Conf}
	c.Store.Badger.Dir = filepath.Join(dir, "badger")
	c.Clients = devClients
	c.Officers = []string{"officer-1", "officer-2"}
	return c
}

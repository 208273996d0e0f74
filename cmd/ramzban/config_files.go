package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"ramzban/hsm/profile"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/store/pgstore"
)

// checkFiles looks for what the configuration names, and tells the first thing to mend. Neither the HSM nor the database
// is touched; what the files hold is read where that is cheap.
func (c Config) checkFiles() error {
	if _, err := profile.ByName(c.HSM.Profile); err != nil {
		return wrong("hsm.profile", "%v", err)
	}
	for _, f := range []struct{ key, path string }{
		{"api.certificate", c.API.Certificate}, {"api.key", c.API.Key}, {"api.client_ca", c.API.ClientCA},
		{"api.client_crl", c.API.ClientCRL}, {"hsm.module", c.HSM.Module}, {"hsm.known_answer_file", c.HSM.KnownAnswerFile},
		{"audit.anchor", c.Audit.Anchor},
	} {
		if err := readable(f.key, f.path); err != nil {
			return err
		}
	}
	if _, _, err := c.API.certificates(); err != nil {
		return err
	}
	if _, err := c.HSM.knownAnswers(); err != nil {
		return err
	}
	if _, err := c.Audit.witness(nil); err != nil {
		return err
	}
	if c.HSM.PINEnv == "" { // only the service's own environment has the variable
		if _, err := c.HSM.pin(); err != nil {
			return err
		}
	}
	if p := c.Store.Postgres; p != nil && p.DSNEnv == "" {
		dsn, err := p.dsn()
		if err != nil {
			return err
		}
		if err := pgstore.CheckDSN(dsn); err != nil {
			return wrong(p.dsnKey(), "%v", err)
		}
	}
	return nil
}

// readable: an empty path is a key that is not used.
func readable(key, path string) error {
	if path == "" {
		return nil
	}
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		return wrong(key, "%s is not a file", path)
	}
	if err != nil {
		return wrong(key, "%v: put it there, or correct the path", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return wrong(key, "%v: let the service's user read it", err)
	}
	return f.Close()
}

// keptApart are the pairs of roles that no client should have together, and what one with both could do alone.
var keptApart = []struct {
	roles [2]authz.Role
	could string
}{
	{[2]authz.Role{authz.Issuer, authz.Activator}, "issue and activate"},
	{[2]authz.Role{authz.Issuer, authz.Courier}, "issue and read the code"},
	{[2]authz.Role{authz.Activator, authz.Courier}, "read a code and activate"},
	{[2]authz.Role{authz.Verifier, authz.Courier}, "read a code and verify"},
}

// warnings are what a bank may do, and should know of: one client with roles that were made to be apart.
func (c Config) warnings() []string {
	var found []string
	for _, client := range c.Clients {
		has := func(r authz.Role) bool { return slices.Contains(client.Roles, string(r)) }
		var could []string
		for _, pair := range keptApart {
			if has(pair.roles[0]) && has(pair.roles[1]) {
				could = append(could, pair.could)
			}
		}
		if could != nil {
			found = append(found, fmt.Sprintf("clients: %q alone could %s: keep these roles apart", client.Name, strings.Join(could, ", ")))
		}
	}
	return found
}

package main

import (
	"fmt"
	"os"
	"slices"

	"ramzban/hsm/profile"
	"ramzban/keyservice/authz"
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
	if c.HSM.PINEnv != "" { // only the service's own environment has it
		return nil
	}
	_, err := c.HSM.pin()
	return err
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

// warnings are what a bank may do, and should know of: one client that could make somebody's second factor alone.
func (c Config) warnings() []string {
	var found []string
	for _, client := range c.Clients {
		has := func(r authz.Role) bool { return slices.Contains(client.Roles, string(r)) }
		switch {
		case has(authz.Issuer) && has(authz.Activator) && has(authz.Courier):
			found = append(found, fmt.Sprintf("clients: %q alone could issue, read a code and activate: keep them apart", client.Name))
		case has(authz.Verifier) && has(authz.Courier):
			found = append(found, fmt.Sprintf("clients: %q alone could read a code and verify: keep them apart", client.Name))
		}
	}
	return found
}

package hsm

import (
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"
)

// ModuleInfo is what a PKCS#11 module says of itself.
type ModuleInfo struct {
	Path         string `json:"path"`
	Manufacturer string `json:"manufacturer"`
	Description  string `json:"description"`
	Version      string `json:"version"`
	Cryptoki     string `json:"cryptoki"` // the version of PKCS#11
}

// TokenInfo is what a PKCS#11 token says of itself.
type TokenInfo struct {
	Label        string `json:"label"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	Serial       string `json:"serial"`
	Hardware     string `json:"hardware"`
	Firmware     string `json:"firmware"`
}

// describeToken reads what module and token say of themselves.
func describeToken(g *generation) (CeremonyRecord, error) {
	info, err := g.p.GetInfo()
	if err != nil {
		return CeremonyRecord{}, fmt.Errorf("describe the PKCS#11 module: %w", err)
	}
	token, err := g.p.GetTokenInfo(g.slot)
	if err != nil {
		return CeremonyRecord{}, fmt.Errorf("describe PKCS#11 token %q: %w", g.cfg.TokenLabel, err)
	}
	return CeremonyRecord{
		Module: ModuleInfo{Path: g.cfg.Module, Manufacturer: words(info.ManufacturerID), Description: words(info.LibraryDescription),
			Version: version(info.LibraryVersion), Cryptoki: version(info.CryptokiVersion)},
		Token: TokenInfo{Label: words(token.Label), Manufacturer: words(token.ManufacturerID), Model: words(token.Model),
			Serial: words(token.SerialNumber), Hardware: version(token.HardwareVersion), Firmware: version(token.FirmwareVersion)},
	}, nil
}

// words are a fixed field of PKCS#11 without its padding.
func words(field string) string { return strings.TrimRight(field, " \x00") }

func version(v pkcs11.Version) string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// refuseStrangers refuses objects that are labelled like master keys, but are none that this version knows, and those that
// share a label: whoever put them there, a ceremony is the moment to find out.
func refuseStrangers(s *session, found keyring) error {
	if err := found.single(found.sorted()...); err != nil {
		return refuse("%w", err)
	}
	for ref := range found.publics {
		if _, ok := found.handles[ref]; !ok {
			return refuse("the public half of %s is in the HSM without its key: destroy it", ref)
		}
	}
	all, err := s.find([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)})
	if err != nil {
		return fmt.Errorf("find strangers: %w", err)
	}
	for _, h := range all {
		name, err := s.label(h)
		if err != nil {
			return err
		}
		_, ours := parseLabel(name)
		if _, mark := parseMark(name); !ours && !mark && strings.HasPrefix(name, labelPrefix) {
			return refuse("an object is labelled %q, which is no master key of this version: destroy or rename it", name)
		}
	}
	return nil
}

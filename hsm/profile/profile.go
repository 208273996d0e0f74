// Package profile says what each HSM product does differently, as data: mechanism numbers, template habits, limits.
//
// It must not know how PKCS#11 is called: numbers here are plain integers from the PKCS#11 standard or a vendor's
// manual, and package hsm is their only reader. A profile is shipped only for a product the tests run against.
package profile

import (
	"fmt"
	"sort"
	"strings"

	"ramzban/keyservice/seed"
)

// Derivation is the way a seed is derived from the derivation master key.
type Derivation int

// The derivations package hsm can do.
const (
	// EncryptData is CKM_AES_ECB_ENCRYPT_DATA in counter form: block i is i (1 byte) and the first 15 bytes of
	// SHA-256(context), encrypted under the derivation master key, which is good for nothing else.
	EncryptData Derivation = iota + 1
)

// OAEP is the hash of the RSA-OAEP wrap to a phone.
type OAEP int

// The OAEP variants package hsm can do. The label is always empty.
const (
	OAEPSHA1 OAEP = iota + 1 // SHA-1 with MGF1-SHA-1
)

// Profile is one HSM product.
type Profile struct {
	Name string // as in the configuration

	WrapMechanism      uint // the CKM number of RFC 5649 (AES key wrap with padding)
	PadsBeforeWrapping bool // zero-pads the key to a multiple of 8 bytes before RFC 5649: 20 bytes come back as 24
	UnwrapNeedsLength  bool // CKA_VALUE_LEN is required in an unwrap template; otherwise it is left out

	MinSHA1Key, MinSHA256Key, MinSHA512Key int // shortest HMAC keys, in bytes

	Derivation Derivation
	OAEP       OAEP

	ReadOnlySessions  bool // read-only sessions may create session objects, and suffice
	MaxSessions       int  // most sessions one process should open
	AllowedMechanisms bool // CKA_ALLOWED_MECHANISMS is stored and enforced
	CopyableFlag      bool // CKA_COPYABLE is known (PKCS#11 2.40)

	Busy    []uint // CKRs, beyond those of the standard, that mean "busy: try later"
	BadBlob []uint // CKRs that C_UnwrapKey or C_Decrypt gives, beyond those of the standard, for a damaged blob

	// RecycleAfter is the number of destroyed session objects after which the module is finalised and initialised
	// again, because it leaks with each; 0 for never.
	RecycleAfter uint64
}

// softHSM is SoftHSM 2.6.1. It leaks up to 1 KB for each destroyed session object until C_Finalize, so 100,000 of them
// cost at most 100 MB. It answers CKR_GENERAL_ERROR to a damaged blob and to a wrong wrapping key.
var softHSM = Profile{
	Name:               "softhsm",
	WrapMechanism:      0x210A,
	PadsBeforeWrapping: true,
	MinSHA1Key:         20,
	MinSHA256Key:       32,
	MinSHA512Key:       64,
	Derivation:         EncryptData,
	OAEP:               OAEPSHA1,
	MaxSessions:        1024,
	AllowedMechanisms:  true,
	CopyableFlag:       true,
	BadBlob:            []uint{0x00000005}, // CKR_GENERAL_ERROR
	RecycleAfter:       100_000,
}

var profiles = map[string]Profile{softHSM.Name: softHSM}

// SoftHSM returns the profile of SoftHSM 2.6.
func SoftHSM() Profile { return softHSM }

// ByName returns the profile of that name; the error of an unknown one lists those there are.
func ByName(name string) (Profile, error) {
	if p, ok := profiles[name]; ok {
		return p, nil
	}
	names := make([]string, 0, len(profiles))
	for n := range profiles {
		names = append(names, n)
	}
	sort.Strings(names)
	return Profile{}, fmt.Errorf("no HSM profile is named %q: use one of %s", name, strings.Join(names, ", "))
}

// MinKey is the shortest HMAC key, in bytes, the module accepts for a hash. Seeds of the product have at least that
// length: Validate refuses any other profile, and an import refuses a shorter seed of a hardware token. Nothing pads one;
// zero bytes would leave its HMAC unchanged up to the hash's block size (RFC 2104 section 2).
func (p Profile) MinKey(h seed.Hash) int {
	switch h {
	case seed.SHA1:
		return p.MinSHA1Key
	case seed.SHA256:
		return p.MinSHA256Key
	default:
		return p.MinSHA512Key
	}
}

// Validate says what the profile asks for that package hsm cannot do.
func (p Profile) Validate() error {
	switch {
	case p.Name == "":
		return fmt.Errorf("HSM profile has no name")
	case p.WrapMechanism == 0:
		return fmt.Errorf("HSM profile %s names no wrap mechanism", p.Name)
	case p.Derivation != EncryptData:
		return fmt.Errorf("HSM profile %s asks for derivation %d, which is not known", p.Name, p.Derivation)
	case p.OAEP != OAEPSHA1:
		return fmt.Errorf("HSM profile %s asks for OAEP variant %d, which is not known", p.Name, p.OAEP)
	}
	for _, h := range []seed.Hash{seed.SHA1, seed.SHA256, seed.SHA512} {
		if h.SeedLength() < p.MinKey(h) {
			return fmt.Errorf("HSM profile %s wants %s keys of %d bytes; seeds have %d", p.Name, h, p.MinKey(h), h.SeedLength())
		}
	}
	return nil
}

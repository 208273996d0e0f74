package hsm

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/pkcs11"

	"ramzban/hsm/profile"
	"ramzban/keyservice/seed"
)

// The labels of the master keys; an object's label in the HSM is "ramzban/<label>/<version>".
const (
	labelWrap   = "wrap"   // the wrapping master key: seeds at rest
	labelDerive = "derive" // the derivation master key: makes seeds
	labelSeal   = "seal"   // seals of records, and the state key
	labelDigest = "digest" // codes and idempotency digests
	labelLookup = "lookup" // pseudonyms of subjects
	labelData   = "data"   // small secrets the service must read back
	labelImport = "import" // brings in the seeds of hardware tokens
	labelBackup = "backup" // data keys of backups
	labelAudit  = "audit"  // signs checkpoints of the audit log
)

const labelPrefix = "ramzban/"

// keySpec is what a master key must be.
type keySpec struct {
	keyType   uint // CKK; an RSA or EC key is a private key, any other a secret one
	length    int  // bytes; of an RSA key, of its modulus; of an EC key, of a coordinate
	generate  uint // CKM that makes it
	may       usage
	mechanism func(profile.Profile) uint // the one mechanism it may be used with
}

func fixed(mechanism uint) func(profile.Profile) uint {
	return func(profile.Profile) uint { return mechanism }
}

var (
	macKey = keySpec{pkcs11.CKK_GENERIC_SECRET, 64, pkcs11.CKM_GENERIC_SECRET_KEY_GEN, maySign, fixed(pkcs11.CKM_SHA256_HMAC)}

	// keySpecs holds every master key of this version; all must be present.
	keySpecs = map[string]keySpec{
		labelWrap: {pkcs11.CKK_AES, 32, pkcs11.CKM_AES_KEY_GEN, mayWrap | mayUnwrap,
			func(p profile.Profile) uint { return p.WrapMechanism }},
		labelDerive: {pkcs11.CKK_AES, 32, pkcs11.CKM_AES_KEY_GEN, mayDerive, fixed(pkcs11.CKM_AES_ECB_ENCRYPT_DATA)},
		labelSeal:   macKey,
		labelDigest: macKey,
		labelLookup: macKey,
		labelData:   {pkcs11.CKK_AES, 32, pkcs11.CKM_AES_KEY_GEN, mayEncrypt | mayDecrypt, fixed(pkcs11.CKM_AES_GCM)},
		labelImport: {pkcs11.CKK_RSA, importKeyLength, pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, mayUnwrap, fixed(pkcs11.CKM_RSA_PKCS_OAEP)},
		labelBackup: {pkcs11.CKK_AES, 32, pkcs11.CKM_AES_KEY_GEN, mayWrap | mayUnwrap,
			func(p profile.Profile) uint { return p.WrapMechanism }},
		labelAudit: {pkcs11.CKK_EC, auditKeyLength, pkcs11.CKM_EC_KEY_PAIR_GEN, maySign, fixed(pkcs11.CKM_ECDSA)},
	}
)

func (k keySpec) private() bool { return k.keyType == pkcs11.CKK_RSA || k.keyType == pkcs11.CKK_EC }

// keepsPublic: the public half of an EC key is an object of its own under the same label, since not every module tells it
// from the private half. That of an RSA key can be read off the private half.
func (k keySpec) keepsPublic() bool { return k.keyType == pkcs11.CKK_EC }

// value is the attribute that holds the secret.
func (k keySpec) value() uint {
	if k.keyType == pkcs11.CKK_RSA {
		return pkcs11.CKA_PRIVATE_EXPONENT
	}
	return pkcs11.CKA_VALUE
}

func (k keySpec) class() uint {
	if k.private() {
		return pkcs11.CKO_PRIVATE_KEY
	}
	return pkcs11.CKO_SECRET_KEY
}

// labels are the labels of keySpecs in a fixed order.
var labels = []string{labelWrap, labelDerive, labelSeal, labelDigest, labelLookup, labelData, labelImport, labelBackup, labelAudit}

// learnKeys finds the master keys that this product may use and makes them those of the generation.
func (g *generation) learnKeys(s *session) error {
	found, err := readKeys(s)
	if err == nil && g.number <= 1 { // at start; later on, a mistake beside the keys in use is no reason to stop
		err = found.single(found.sorted()...)
	}
	if err == nil {
		err = found.complete()
	}
	if err == nil {
		found, err = g.matchAnswers(found)
	}
	if err != nil {
		return err
	}
	return g.adopt(s, found)
}

// adopt checks the attributes of keys, notes their handles as in use and makes them those of the generation.
func (g *generation) adopt(s *session, found keyring) error {
	for _, ref := range found.sorted() {
		if err := g.checkFound(s, found, ref, originOf(g.answers, ref)); err != nil {
			return err
		}
	}
	for _, ref := range found.sorted() {
		if err := g.noteHandles(found, ref); err != nil {
			return err
		}
	}
	g.keys.Store(&found)
	return nil
}

// checkFound refuses a key that is not as specified. Of a key pair it reads the public half that is kept in the HSM.
func (g *generation) checkFound(s *session, found keyring, ref seed.KeyRef, from Origin) (err error) {
	if err := checkKey(s, ref, found.handles[ref], from, g.cfg.Profile); err != nil {
		return err
	}
	if keySpecs[ref.Label].keepsPublic() {
		found.signers[ref], err = s.keptPublicHalf(found, ref)
	}
	return err
}

// noteHandles must come once for each key that is used, in one generation.
func (g *generation) noteHandles(found keyring, ref seed.KeyRef) error {
	handles := []pkcs11.ObjectHandle{found.handles[ref]}
	if public, ok := found.publics[ref]; ok {
		handles = append(handles, public)
	}
	for _, h := range handles {
		if _, err := g.handles.newObject(func() (pkcs11.ObjectHandle, error) { return h, nil }); err != nil {
			return fmt.Errorf("find master keys: %w", err)
		}
	}
	return nil
}

// listKeys reads the handles of all objects that carry a label of ours; exactly one may carry each, and one more if it is
// the public half of a key pair that keeps it.
func listKeys(s *session) (keyring, error) {
	found, err := readKeys(s)
	if err == nil {
		err = found.single(found.sorted()...)
	}
	return found, err
}

// readKeys is listKeys that notes two objects under one label without refusing them.
func readKeys(s *session) (keyring, error) {
	k := newKeyring()
	handles, err := s.find([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)})
	if err != nil {
		return k, fmt.Errorf("find master keys: %w", err)
	}
	for _, h := range handles {
		label, public, err := labelOf(s, h)
		if err != nil {
			return k, err
		}
		if ref, ok := parseLabel(label); ok {
			k.found(ref, h, public)
		} else if ref, ok := parseMark(label); ok {
			k.destroyed[ref] = true
		}
	}
	return k, nil
}

// seeKeys is readKeys for a generation at work. Who has lost the login is shown nothing, and not told why.
func seeKeys(s *session) (keyring, error) {
	found, err := readKeys(s)
	if err == nil && found.complete() != nil {
		err = fmt.Errorf("find master keys: some cannot be seen: %w", pkcs11.Error(pkcs11.CKR_USER_NOT_LOGGED_IN))
	}
	return found, err
}

// found adds an object that carries the label of a master key.
func (k keyring) found(ref seed.KeyRef, h pkcs11.ObjectHandle, public bool) {
	if public && keySpecs[ref.Label].keepsPublic() {
		_, twice := k.publics[ref]
		k.publics[ref], k.doubled[ref] = h, k.doubled[ref] || twice
		return
	}
	_, twice := k.handles[ref]
	k.add(ref, h)
	k.doubled[ref] = k.doubled[ref] || twice
}

// labelOf reads an object's label, and whether it is a public key.
func labelOf(s *session, h pkcs11.ObjectHandle) (label string, public bool, err error) {
	attrs, err := s.p.GetAttributeValue(s.handle, h, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil), pkcs11.NewAttribute(pkcs11.CKA_CLASS, nil)})
	if err != nil {
		return "", false, fmt.Errorf("read the label of an object: %w", err)
	}
	public = slices.Equal(attrs[1].Value, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY).Value)
	return string(attrs[0].Value), public, nil
}

// parseLabel reads "ramzban/<label>/<version>"; false for anything else and for labels this version does not know.
func parseLabel(s string) (seed.KeyRef, bool) {
	rest, ours := strings.CutPrefix(s, labelPrefix)
	label, number, cut := strings.Cut(rest, "/")
	if _, known := keySpecs[label]; !ours || !cut || !known {
		return seed.KeyRef{}, false
	}
	version, err := strconv.ParseUint(number, 10, 32)
	ref := seed.KeyRef{Label: label, Version: uint32(version)}
	return ref, err == nil && version > 0 && ref.String() == s
}

// checkKey reads a master key's attributes back and refuses the first that is not as specified.
func checkKey(s *session, ref seed.KeyRef, h pkcs11.ObjectHandle, from Origin, p profile.Profile) error {
	spec := keySpecs[ref.Label]
	for _, want := range wantedAttributes(spec, from, p) {
		attrs, err := s.p.GetAttributeValue(s.handle, h, []*pkcs11.Attribute{pkcs11.NewAttribute(want.attr, nil)})
		if err != nil {
			return fmt.Errorf("key %s: read %s: %w", ref, want.name, err)
		}
		if !slices.Equal(attrs[0].Value, want.value) {
			return notOurs(ref, want.name, want.words)
		}
	}
	if spec.keyType != pkcs11.CKK_RSA {
		return nil
	}
	public, err := s.publicHalf(h)
	if err == nil && (public.Size() != spec.length || public.E != publicExponent) {
		err = notOurs(ref, "RSA key", fmt.Sprintf("of %d bits with exponent %d", 8*spec.length, publicExponent))
	}
	return err
}

func notOurs(ref seed.KeyRef, what, must string) error {
	return fmt.Errorf("key %s: %s must be %s: it was not made by this product's key ceremony; do not use it", ref, what, must)
}

type wantedAttribute struct {
	attr  uint
	name  string
	value []byte
	words string
}

// wantedAttributes are the attributes that a key of this origin must have. One that was typed in must say so.
func wantedAttributes(spec keySpec, from Origin, p profile.Profile) []wantedAttribute {
	number := func(attr uint, name string, v uint) wantedAttribute {
		return wantedAttribute{attr, name, pkcs11.NewAttribute(attr, v).Value, strconv.FormatUint(uint64(v), 10)}
	}
	flag := func(attr uint, name string, v bool) wantedAttribute {
		return wantedAttribute{attr, name, pkcs11.NewAttribute(attr, v).Value, strconv.FormatBool(v)}
	}
	want := []wantedAttribute{
		number(pkcs11.CKA_CLASS, "CKA_CLASS", spec.class()),
		number(pkcs11.CKA_KEY_TYPE, "CKA_KEY_TYPE", spec.keyType),
		flag(pkcs11.CKA_PRIVATE, "CKA_PRIVATE", true),
		flag(pkcs11.CKA_SENSITIVE, "CKA_SENSITIVE", true),
		flag(pkcs11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE", from != Components),
		flag(pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false),
		flag(pkcs11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE", from != Components),
		flag(pkcs11.CKA_MODIFIABLE, "CKA_MODIFIABLE", false),
	}
	if !spec.private() {
		want = append(want, number(pkcs11.CKA_VALUE_LEN, "CKA_VALUE_LEN", uint(spec.length)))
	}
	if spec.keyType == pkcs11.CKK_EC {
		want = append(want, wantedAttribute{pkcs11.CKA_EC_PARAMS, "CKA_EC_PARAMS", curveP256, "P-256"})
	}
	for _, f := range spec.flags() {
		want = append(want, flag(f.attr, f.name, spec.may&f.use != 0))
	}
	if p.CopyableFlag {
		want = append(want, flag(pkcs11.CKA_COPYABLE, "CKA_COPYABLE", false))
	}
	if p.AllowedMechanisms {
		m := spec.mechanism(p)
		want = append(want, wantedAttribute{pkcs11.CKA_ALLOWED_MECHANISMS, "CKA_ALLOWED_MECHANISMS",
			allowedMechanisms(m).Value, fmt.Sprintf("0x%X alone", m)})
	}
	return want
}

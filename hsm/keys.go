package hsm

import (
	"cmp"
	"fmt"
	"maps"
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
	labelLookup = "lookup" // pseudonyms of subjects, fingerprints of makers' seeds
	labelData   = "data"   // small secrets the service must read back
	labelImport = "import" // brings in the seeds of hardware tokens
)

const labelPrefix = "ramzban/"

// keySpec is what a master key must be.
type keySpec struct {
	keyType   uint // CKK; an RSA key is a private key, any other a secret one
	length    int  // bytes; of an RSA key, of its modulus
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
	}
)

func (k keySpec) private() bool { return k.keyType == pkcs11.CKK_RSA }

func (k keySpec) class() uint {
	if k.private() {
		return pkcs11.CKO_PRIVATE_KEY
	}
	return pkcs11.CKO_SECRET_KEY
}

// labels are the labels of keySpecs in a fixed order.
var labels = []string{labelWrap, labelDerive, labelSeal, labelDigest, labelLookup, labelData, labelImport}

// keyring is the master keys of one generation: handles by label and version. It does not change once found.
type keyring struct {
	handles map[seed.KeyRef]pkcs11.ObjectHandle
	active  map[string]seed.KeyRef // the highest version of each label
}

func newKeyring() keyring {
	return keyring{handles: map[seed.KeyRef]pkcs11.ObjectHandle{}, active: map[string]seed.KeyRef{}}
}

func (k keyring) add(ref seed.KeyRef, h pkcs11.ObjectHandle) {
	k.handles[ref] = h
	if ref.Version > k.active[ref.Label].Version {
		k.active[ref.Label] = ref
	}
}

// sorted returns the versions of all keys, by the order of their labels, then the number.
func (k keyring) sorted() []seed.KeyRef {
	return slices.SortedFunc(maps.Keys(k.handles), func(a, b seed.KeyRef) int {
		return cmp.Or(cmp.Compare(slices.Index(labels, a.Label), slices.Index(labels, b.Label)), cmp.Compare(a.Version, b.Version))
	})
}

// get returns the handle of one version; seed.ErrKeyNotFound if the HSM does not have it.
func (k keyring) get(ref seed.KeyRef) (pkcs11.ObjectHandle, error) {
	h, ok := k.handles[ref]
	if !ok {
		return 0, fmt.Errorf("%w: %s", seed.ErrKeyNotFound, ref)
	}
	return h, nil
}

// current returns the active version of a label. Every label has one: findKeys refuses otherwise.
func (k keyring) current(label string) (seed.KeyRef, pkcs11.ObjectHandle) {
	ref := k.active[label]
	return ref, k.handles[ref]
}

// newestFirst returns the versions of a label, the active one first.
func (k keyring) newestFirst(label string) []seed.KeyRef {
	all := slices.DeleteFunc(k.sorted(), func(ref seed.KeyRef) bool { return ref.Label != label })
	slices.Reverse(all)
	return all
}

// learnKeys finds the master keys and notes their handles as in use.
func (g *generation) learnKeys(s *session) error {
	var err error
	if g.keys, err = findKeys(s, g.cfg.Profile); err != nil {
		return err
	}
	for _, h := range g.keys.handles {
		if _, err := g.handles.newObject(func() (pkcs11.ObjectHandle, error) { return h, nil }); err != nil {
			return fmt.Errorf("find master keys: %w", err)
		}
	}
	return nil
}

// findKeys reads all master keys of the slot and refuses two under one label, any with other attributes than its
// specification, and any label without a key.
func findKeys(s *session, p profile.Profile) (keyring, error) {
	found, err := listKeys(s)
	if err != nil {
		return keyring{}, err
	}
	for ref, handle := range found.handles {
		if err := checkKey(s, ref, handle, p); err != nil {
			return keyring{}, err
		}
	}
	for _, label := range labels {
		if _, ok := found.active[label]; !ok {
			return keyring{}, fmt.Errorf("%w: %s%s/1 is missing: create the master keys, or check hsm.token_label",
				seed.ErrKeyNotFound, labelPrefix, label)
		}
	}
	return found, nil
}

// listKeys reads the handles of all objects that carry a label of ours; exactly one may carry each.
func listKeys(s *session) (keyring, error) {
	k := newKeyring()
	handles, err := s.find([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)})
	if err != nil {
		return k, fmt.Errorf("find master keys: %w", err)
	}
	for _, h := range handles {
		ref, ok, err := labelOf(s, h)
		if err != nil {
			return k, err
		}
		if !ok {
			continue
		}
		if _, twice := k.handles[ref]; twice {
			return k, fmt.Errorf("%w: two objects are labelled %s: destroy or rename the one that is not the master key",
				seed.ErrKeyNotFound, ref)
		}
		k.add(ref, h)
	}
	return k, nil
}

func labelOf(s *session, h pkcs11.ObjectHandle) (seed.KeyRef, bool, error) {
	attrs, err := s.p.GetAttributeValue(s.handle, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil)})
	if err != nil {
		return seed.KeyRef{}, false, fmt.Errorf("read the label of an object: %w", err)
	}
	ref, ok := parseLabel(string(attrs[0].Value))
	return ref, ok, nil
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
func checkKey(s *session, ref seed.KeyRef, h pkcs11.ObjectHandle, p profile.Profile) error {
	spec := keySpecs[ref.Label]
	for _, want := range wantedAttributes(spec, p) {
		attrs, err := s.p.GetAttributeValue(s.handle, h, []*pkcs11.Attribute{pkcs11.NewAttribute(want.attr, nil)})
		if err != nil {
			return fmt.Errorf("key %s: read %s: %w", ref, want.name, err)
		}
		if !slices.Equal(attrs[0].Value, want.value) {
			return notOurs(ref, want.name, want.words)
		}
	}
	if !spec.private() {
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

func wantedAttributes(spec keySpec, p profile.Profile) []wantedAttribute {
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
		flag(pkcs11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE", true),
		flag(pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false),
		flag(pkcs11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE", true),
		flag(pkcs11.CKA_MODIFIABLE, "CKA_MODIFIABLE", false),
	}
	if !spec.private() {
		want = append(want, number(pkcs11.CKA_VALUE_LEN, "CKA_VALUE_LEN", uint(spec.length)))
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

package hsm

import (
	"crypto/rsa"
	"encoding/binary"
	"math/big"

	"github.com/miekg/pkcs11"

	"ramzban/hsm/profile"
	"ramzban/keyservice/seed"
)

// usage is a set of things a key may do; everything not in it is set false explicitly, because modules default to true.
type usage uint

const (
	mayEncrypt usage = 1 << iota
	mayDecrypt
	maySign
	mayVerify
	mayWrap
	mayUnwrap
	mayDerive
	maySignRecover
	mayAskAlways // not a usage, but false all the same: a PIN for each use
)

// usageFlag pairs a usage with its attribute.
type usageFlag struct {
	use  usage
	attr uint
	name string
}

// usageFlags are those of a secret key.
var usageFlags = []usageFlag{
	{mayEncrypt, pkcs11.CKA_ENCRYPT, "CKA_ENCRYPT"},
	{mayDecrypt, pkcs11.CKA_DECRYPT, "CKA_DECRYPT"},
	{maySign, pkcs11.CKA_SIGN, "CKA_SIGN"},
	{mayVerify, pkcs11.CKA_VERIFY, "CKA_VERIFY"},
	{mayWrap, pkcs11.CKA_WRAP, "CKA_WRAP"},
	{mayUnwrap, pkcs11.CKA_UNWRAP, "CKA_UNWRAP"},
	{mayDerive, pkcs11.CKA_DERIVE, "CKA_DERIVE"},
}

// privateFlags are those of a private key.
var privateFlags = []usageFlag{
	{mayDecrypt, pkcs11.CKA_DECRYPT, "CKA_DECRYPT"},
	{maySign, pkcs11.CKA_SIGN, "CKA_SIGN"},
	{maySignRecover, pkcs11.CKA_SIGN_RECOVER, "CKA_SIGN_RECOVER"},
	{mayUnwrap, pkcs11.CKA_UNWRAP, "CKA_UNWRAP"},
	{mayDerive, pkcs11.CKA_DERIVE, "CKA_DERIVE"},
	{mayAskAlways, pkcs11.CKA_ALWAYS_AUTHENTICATE, "CKA_ALWAYS_AUTHENTICATE"},
}

func (k keySpec) flags() []usageFlag {
	if k.private() {
		return privateFlags
	}
	return usageFlags
}

func usageAttributes(may usage) []*pkcs11.Attribute { return flagAttributes(usageFlags, may) }

func flagAttributes(flags []usageFlag, may usage) []*pkcs11.Attribute {
	attrs := make([]*pkcs11.Attribute, 0, len(flags))
	for _, f := range flags {
		attrs = append(attrs, pkcs11.NewAttribute(f.attr, may&f.use != 0))
	}
	return attrs
}

// allowedMechanisms encodes CKA_ALLOWED_MECHANISMS: an array of CK_MECHANISM_TYPE in the machine's order.
func allowedMechanisms(mechs ...uint) *pkcs11.Attribute {
	var value []byte
	for _, m := range mechs {
		value = binary.NativeEndian.AppendUint64(value, uint64(m))
	}
	return pkcs11.NewAttribute(pkcs11.CKA_ALLOWED_MECHANISMS, value)
}

// masterTemplate generates one master key: a private, sensitive, unextractable token object with the usages of spec and
// no other. CKA_MODIFIABLE comes last: SoftHSM refuses any attribute after it.
func masterTemplate(ref seed.KeyRef, spec keySpec, p profile.Profile) []*pkcs11.Attribute {
	attrs := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, spec.class()),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, spec.keyType),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, ref.String()),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
	}
	if !spec.private() {
		attrs = append(attrs, pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, spec.length))
	}
	attrs = append(attrs, flagAttributes(spec.flags(), spec.may)...)
	if p.AllowedMechanisms {
		attrs = append(attrs, allowedMechanisms(spec.mechanism(p)))
	}
	if p.CopyableFlag {
		attrs = append(attrs, pkcs11.NewAttribute(pkcs11.CKA_COPYABLE, false))
	}
	return append(attrs, pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false))
}

// publicHalfTemplate generates the public half of a key pair, which may do nothing. That of an RSA key is a session object:
// it can be read off the private half, so that one object carries the label. That of an EC key stays, under the same label.
func publicHalfTemplate(ref seed.KeyRef, spec keySpec) []*pkcs11.Attribute {
	attrs := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, spec.keepsPublic()),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, false),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY_RECOVER, false),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, false),
	}
	if !spec.keepsPublic() {
		return append(attrs, pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, 8*spec.length),
			pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, big.NewInt(publicExponent).Bytes()))
	}
	return append(attrs, pkcs11.NewAttribute(pkcs11.CKA_LABEL, ref.String()), pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curveP256),
		pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false))
}

// seedTemplate is what the seed templates share: a private, sensitive session object.
func seedTemplate(extractable bool, may usage) []*pkcs11.Attribute {
	return append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, extractable),
	}, usageAttributes(may)...)
}

// birthTemplate is a seed between derivation and its two wraps: extractable, good for nothing else.
func birthTemplate(length int) []*pkcs11.Attribute {
	return append(seedTemplate(true, 0), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, length))
}

// verifyTemplate is a seed unwrapped to check passwords: it may make MACs of one hash, and never leaves the HSM. length
// is the seed's, in bytes, for modules that must be told.
func verifyTemplate(hash seed.Hash, length int, p profile.Profile) []*pkcs11.Attribute {
	attrs := seedTemplate(false, maySign)
	if p.AllowedMechanisms {
		attrs = append(attrs, allowedMechanisms(hmacMechanism(hash)))
	}
	if p.UnwrapNeedsLength {
		attrs = append(attrs, pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, length))
	}
	return attrs
}

// rewrapTemplate is a seed unwrapped to be wrapped again in the same call: extractable, good for nothing else.
func rewrapTemplate(length int, p profile.Profile) []*pkcs11.Attribute {
	attrs := seedTemplate(true, 0)
	if p.UnwrapNeedsLength {
		attrs = append(attrs, pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, length))
	}
	return attrs
}

// deviceTemplate imports a phone's public key as a session object that may only wrap.
func deviceTemplate(key *rsa.PublicKey) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, false),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY_RECOVER, false),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, false),
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS, key.N.Bytes()),
		pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, big.NewInt(int64(key.E)).Bytes()),
	}
}

// vectorKEKTemplate imports the wrapping key of the self-check's test vectors, which is no secret.
func vectorKEKTemplate(value []byte) []*pkcs11.Attribute {
	return append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, value),
	}, usageAttributes(mayWrap|mayUnwrap)...)
}

// vectorKeyTemplate imports a key to be wrapped in the self-check's test vectors, which is no secret.
func vectorKeyTemplate(value []byte) []*pkcs11.Attribute {
	return append(seedTemplate(true, 0), pkcs11.NewAttribute(pkcs11.CKA_VALUE, value))
}

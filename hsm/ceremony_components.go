package hsm

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/sha1" //nolint:gosec // the key check value of a generic secret is defined over it
	"crypto/subtle"
	"slices"

	"github.com/miekg/pkcs11"

	"ramzban/keyservice/seed"
)

// Origin says where a master key came from.
type Origin string

// The origins. A key from components was once outside the HSM, which reports it so for ever (CKA_ALWAYS_SENSITIVE and
// CKA_NEVER_EXTRACTABLE are false); any other key that was outside in clear is refused at every start.
const (
	Generated   Origin = "generate"     // made in the HSM
	VendorClone Origin = "vendor-clone" // made in another HSM and brought in by the vendor's own means, never in clear
	Components  Origin = "components"   // put together from what two or more custodians typed
)

var origins = []Origin{Generated, VendorClone, Components}

// minShares is how many custodians it takes: one alone would know the key.
const minShares = 2

// ShareLength is the length in bytes of each component of a key with this label, and of the key itself. A key pair has no
// components.
func ShareLength(label string) (int, error) {
	spec, known := keySpecs[label]
	if !known || spec.private() {
		return 0, refuse("%s%s has no components", labelPrefix, label)
	}
	return spec.length, nil
}

// ShareKCV is the key check value of a component, as if it were the key: of an AES key the first 3 bytes of the encrypted
// zero block, of a generic secret those of its SHA-1 (PKCS#11 2.40 sections 2.8.3 and 2.5.2).
func ShareKCV(label string, share []byte) ([]byte, error) {
	length, err := ShareLength(label)
	if err != nil {
		return nil, err
	}
	if len(share) != length {
		return nil, refuse("a component of %s%s has %d bytes, not %d", labelPrefix, label, length, len(share))
	}
	if keySpecs[label].keyType != pkcs11.CKK_AES {
		sum := sha1.Sum(share) //nolint:gosec // see above
		return sum[:checkValueLength], nil
	}
	block, err := aes.NewCipher(share)
	if err != nil {
		return nil, err
	}
	var zero [aes.BlockSize]byte
	block.Encrypt(zero[:], zero[:])
	return zero[:checkValueLength], nil
}

// Combine puts a key together from its components, by exclusive or, and refuses a result with another key check value.
// The components are wiped; the result is for Hold, which wipes it.
func Combine(k PlannedKey, shares [][]byte) ([]byte, error) {
	defer func() {
		for _, share := range shares {
			clear(share)
		}
	}()
	value, err := exclusiveOr(k.Key, shares)
	if err != nil {
		return nil, err
	}
	kcv, err := ShareKCV(k.Key.Label, value)
	if err == nil && !bytes.Equal(kcv, k.KCV) {
		err = refuse("the components of %s make a key with check value %X, not %X as planned", k.Key, kcv, k.KCV)
	}
	if err != nil {
		clear(value)
		return nil, err
	}
	return value, nil
}

func exclusiveOr(ref seed.KeyRef, shares [][]byte) ([]byte, error) {
	length, err := ShareLength(ref.Label)
	if err != nil {
		return nil, err
	}
	if len(shares) < minShares {
		return nil, refuse("%s needs at least %d components: one custodian alone would know the key", ref, minShares)
	}
	for i, share := range shares {
		if len(share) != length {
			return nil, refuse("component %d of %s has %d bytes, not %d", i+1, ref, len(share), length)
		}
		if bytes.Equal(share, make([]byte, length)) {
			return nil, refuse("component %d of %s is all zeroes: the others alone would be the key", i+1, ref)
		}
		if slices.ContainsFunc(shares[:i], func(other []byte) bool { return bytes.Equal(other, share) }) {
			return nil, refuse("component %d of %s was typed before: the two cancel out", i+1, ref)
		}
	}
	value := make([]byte, length)
	for _, share := range shares {
		subtle.XORBytes(value, value, share)
	}
	if bytes.Equal(value, make([]byte, length)) {
		return nil, refuse("the components of %s cancel out: the key would be all zeroes", ref)
	}
	return value, nil
}

// checkValues sees that exactly the planned keys were put together, each with the key check value of the plan.
func (c *ceremony) checkValues(values map[seed.KeyRef][]byte) error {
	for ref := range values {
		if k, planned := c.plan.planned(ref); !planned || k.Origin != Components {
			return refuse("%s is not planned to come from components", ref)
		}
	}
	for _, k := range c.plan.Keys {
		if k.Origin != Components {
			continue
		}
		kcv, err := ShareKCV(k.Key.Label, values[k.Key])
		if err != nil {
			return err
		}
		if !bytes.Equal(kcv, k.KCV) {
			return refuse("the components of %s make a key with check value %X, not %X as planned", k.Key, kcv, k.KCV)
		}
	}
	return nil
}

// checkValueLength is the length of a key's check value in bytes.
func (k keySpec) checkValueLength() int {
	if k.private() {
		return checkLength
	}
	return checkValueLength
}

func wipe(values map[seed.KeyRef][]byte) {
	for _, v := range values {
		clear(v)
	}
}

// DrawComponents draws n components of a key from the HSM's generator, for as many custodians. Nothing is kept of them; who
// has taken them down wipes them. It must not run while the module is open in this process.
func DrawComponents(ctx context.Context, config Config, label string, n int) ([][]byte, error) {
	length, err := ShareLength(label)
	if err != nil {
		return nil, err
	}
	if n < minShares {
		return nil, refuse("%s%s needs at least %d components: one custodian alone would know the key", labelPrefix, label, minShares)
	}
	var drawn [][]byte
	err = administer(config, func(g *generation) error {
		return g.workers.once(ctx, false, func(s *session) error {
			for range n {
				share, err := s.random(length)
				if err != nil {
					return err
				}
				drawn = append(drawn, share)
			}
			return nil
		})
	})
	return drawn, err
}

package hsm

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/miekg/pkcs11"

	"ramzban/keyservice/seed"
)

// The device keys that are accepted, in bits.
const minDeviceKey, maxDeviceKey = 2048, 4096

// Enrol derives the seed of d.Context under the active derivation master key, wraps it under the active wrapping master
// key (RFC 5649) and to the device (RSA-OAEP with SHA-1, MGF1-SHA-1 and no label), and destroys it. The same context
// gives the same seed again; the device's ciphertext differs each time. The device key must have 2048 to 4096 bits and
// an odd exponent from 65537. Without a device, nil, the seed is wrapped for the store only.
func (h *HSM) Enrol(ctx context.Context, d seed.Derivation, device *rsa.PublicKey) (seed.Enrolled, error) {
	if d.Hash.New() == nil || len(d.Context) == 0 {
		return seed.Enrolled{}, fmt.Errorf("enrol: the derivation needs a context and a hash")
	}
	if device != nil {
		if err := checkDeviceKey(device); err != nil {
			return seed.Enrolled{}, fmt.Errorf("enrol: %w", err)
		}
	}
	var e seed.Enrolled
	err := h.run(ctx, func(g *generation) (err error) {
		e, err = g.enrol(ctx, d, device)
		return err
	})
	h.stats.enrolments.Add(1)
	if err != nil {
		return seed.Enrolled{}, err
	}
	return e, nil
}

func checkDeviceKey(k *rsa.PublicKey) error {
	switch {
	case k.N == nil:
		return errors.New("no device key")
	case k.N.BitLen() < minDeviceKey || k.N.BitLen() > maxDeviceKey:
		return fmt.Errorf("the device key has %d bits; %d to %d are accepted", k.N.BitLen(), minDeviceKey, maxDeviceKey)
	case k.N.Bit(0) == 0 || k.E < 65537 || k.E%2 == 0:
		return errors.New("the device key is not a sound RSA key")
	}
	return nil
}

// enrol does all of it on one session, which is closed, and the seed with it, should anything fail in between.
func (g *generation) enrol(ctx context.Context, d seed.Derivation, device *rsa.PublicKey) (seed.Enrolled, error) {
	deriveRef, deriveKey := g.ring().current(labelDerive)
	e := seed.Enrolled{Derive: deriveRef}
	err := g.workers.withSession(ctx, func(s *session) error {
		return s.withBorn(deriveKey, d.Context, d.Hash.SeedLength(), func(born pkcs11.ObjectHandle) (err error) {
			if e.ForStore, err = g.wrapForStore(s, born); err != nil || device == nil {
				return err
			}
			e.ForDevice, err = s.wrapForDevice(born, device)
			return err
		})
	})
	return e, err
}

// withBorn derives a seed, lends it to fn and destroys it.
func (s *session) withBorn(key pkcs11.ObjectHandle, context []byte, length int, fn func(pkcs11.ObjectHandle) error) error {
	born, err := s.derive(key, context, length)
	if err != nil {
		return err
	}
	return s.lend(born, "a new seed", fn)
}

func (g *generation) wrapForStore(s *session, key pkcs11.ObjectHandle) (seed.Wrapped, error) {
	active, _ := g.ring().current(labelWrap)
	return g.wrapWith(s, active, key)
}

// wrapWith wraps a seed under one version of the wrapping master key.
func (g *generation) wrapWith(s *session, ref seed.KeyRef, key pkcs11.ObjectHandle) (seed.Wrapped, error) {
	wrapKey, err := g.ring().get(ref)
	if err != nil {
		return seed.Wrapped{}, err
	}
	mech := g.cfg.Profile.WrapMechanism
	blob, err := s.p.WrapKey(s.handle, mechanism(mech, nil), wrapKey, key)
	if err != nil {
		return seed.Wrapped{}, fmt.Errorf("wrap a seed for the store: %w", err)
	}
	return seed.Wrapped{Mech: uint32(mech), Key: ref, Blob: blob}, nil
}

func (s *session) wrapForDevice(key pkcs11.ObjectHandle, device *rsa.PublicKey) ([]byte, error) {
	public, err := s.importObject(deviceTemplate(device))
	if err != nil {
		return nil, fmt.Errorf("import the device key: %w", err)
	}
	blob, err := s.p.WrapKey(s.handle, oaep(), public, key)
	if err != nil {
		err = fmt.Errorf("wrap a seed for the device: %w", err)
	} else if len(blob) != device.Size() {
		err = fmt.Errorf("wrap a seed for the device: the module returned %d bytes instead of %d", len(blob), device.Size())
	}
	return blob, also(err, s.destroy(public, "a device key"))
}

// oaep is RSA-OAEP with SHA-1, MGF1-SHA-1 and no label (RFC 8017 section 7.1).
func oaep() []*pkcs11.Mechanism {
	return mechanism(pkcs11.CKM_RSA_PKCS_OAEP, pkcs11.NewOAEPParams(pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1, pkcs11.CKZ_DATA_SPECIFIED, nil))
}

// derive makes a seed of 32 or 64 bytes: AES-ECB of counter blocks. The key may do nothing else, so that it never
// encrypts a block that is not one of these.
func (s *session) derive(key pkcs11.ObjectHandle, context []byte, length int) (pkcs11.ObjectHandle, error) {
	blocks := counterBlocks(context, length)
	var pinned runtime.Pinner
	defer pinned.Unpin()
	pinned.Pin(&blocks[0])
	mech := mechanism(pkcs11.CKM_AES_ECB_ENCRYPT_DATA, stringData(blocks))
	h, err := s.handles.newObject(func() (pkcs11.ObjectHandle, error) {
		return s.p.DeriveKey(s.handle, mech, key, birthTemplate(length))
	})
	if err != nil {
		return 0, fmt.Errorf("derive a seed: %w", err)
	}
	return h, nil
}

// counterBlocks returns one AES block for each 16 bytes of the seed: its number, from 1, and the first 15 bytes of
// SHA-256(context).
func counterBlocks(context []byte, length int) []byte {
	digest := sha256.Sum256(context)
	var blocks []byte
	for i := 1; len(blocks) < length; i++ {
		blocks = append(append(blocks, byte(i)), digest[:15]...)
	}
	return blocks
}

// stringData encodes CK_KEY_DERIVATION_STRING_DATA: a pointer and a length. data must be pinned until the module has
// returned, since the garbage collector does not see the pointer in these bytes.
func stringData(data []byte) []byte {
	params := struct {
		data   uintptr
		length uintptr // CK_ULONG: as wide as a pointer on every Unix
	}{uintptr(unsafe.Pointer(&data[0])), uintptr(len(data))}
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&params)), unsafe.Sizeof(params))...)
}

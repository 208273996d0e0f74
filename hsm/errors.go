package hsm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"ramzban/hsm/profile"
	"ramzban/keyservice/seed"
)

// class groups the CKR codes by what is done about them.
type class int

const (
	classOK      class = iota
	classSession       // the session is dead or stuck: drop it, retry on a fresh one
	classLogin         // the login is gone: one login for all, next generation
	classHandle        // handles are dead: find the keys again, forget all seeds, next generation
	classDevice        // the device or the module is gone: finalise, initialise, next generation
	classBusy          // back off, smaller pool
	classPIN           // never retried: latched
	classRefusal       // a clean no to this call's arguments; the session is fine
	classContext       // the caller gave up waiting
	classOther         // anything else, CKR_GENERAL_ERROR among it
)

// Constants of PKCS#11 that miekg/pkcs11 does not have.
const ckrTokenResourceExceeded = 0x00000201

var classes = map[pkcs11.Error]class{
	pkcs11.CKR_SESSION_HANDLE_INVALID:        classSession,
	pkcs11.CKR_SESSION_CLOSED:                classSession,
	pkcs11.CKR_OPERATION_ACTIVE:              classSession,
	pkcs11.CKR_OPERATION_NOT_INITIALIZED:     classSession,
	pkcs11.CKR_USER_NOT_LOGGED_IN:            classLogin,
	pkcs11.CKR_OBJECT_HANDLE_INVALID:         classHandle,
	pkcs11.CKR_KEY_HANDLE_INVALID:            classHandle,
	pkcs11.CKR_WRAPPING_KEY_HANDLE_INVALID:   classHandle,
	pkcs11.CKR_UNWRAPPING_KEY_HANDLE_INVALID: classHandle,
	pkcs11.CKR_DEVICE_ERROR:                  classDevice,
	pkcs11.CKR_DEVICE_REMOVED:                classDevice,
	pkcs11.CKR_TOKEN_NOT_PRESENT:             classDevice,
	pkcs11.CKR_TOKEN_NOT_RECOGNIZED:          classDevice,
	pkcs11.CKR_SLOT_ID_INVALID:               classDevice,
	pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED:      classDevice,
	pkcs11.CKR_HOST_MEMORY:                   classBusy,
	pkcs11.CKR_DEVICE_MEMORY:                 classBusy,
	pkcs11.CKR_SESSION_COUNT:                 classBusy,
	ckrTokenResourceExceeded:                 classBusy,
	pkcs11.CKR_PIN_INCORRECT:                 classPIN,
	pkcs11.CKR_PIN_INVALID:                   classPIN,
	pkcs11.CKR_PIN_LEN_RANGE:                 classPIN,
	pkcs11.CKR_PIN_EXPIRED:                   classPIN,
	pkcs11.CKR_PIN_LOCKED:                    classPIN,
	pkcs11.CKR_USER_PIN_NOT_INITIALIZED:      classPIN,
	pkcs11.CKR_ARGUMENTS_BAD:                 classRefusal,
	pkcs11.CKR_ATTRIBUTE_READ_ONLY:           classRefusal,
	pkcs11.CKR_ATTRIBUTE_SENSITIVE:           classRefusal,
	pkcs11.CKR_ATTRIBUTE_TYPE_INVALID:        classRefusal,
	pkcs11.CKR_ATTRIBUTE_VALUE_INVALID:       classRefusal,
	pkcs11.CKR_DATA_INVALID:                  classRefusal,
	pkcs11.CKR_DATA_LEN_RANGE:                classRefusal,
	pkcs11.CKR_ENCRYPTED_DATA_INVALID:        classRefusal,
	pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE:      classRefusal,
	pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED:    classRefusal,
	pkcs11.CKR_KEY_NOT_WRAPPABLE:             classRefusal,
	pkcs11.CKR_KEY_SIZE_RANGE:                classRefusal,
	pkcs11.CKR_KEY_TYPE_INCONSISTENT:         classRefusal,
	pkcs11.CKR_KEY_UNEXTRACTABLE:             classRefusal,
	pkcs11.CKR_MECHANISM_INVALID:             classRefusal,
	pkcs11.CKR_MECHANISM_PARAM_INVALID:       classRefusal,
	pkcs11.CKR_TEMPLATE_INCOMPLETE:           classRefusal,
	pkcs11.CKR_TEMPLATE_INCONSISTENT:         classRefusal,
	pkcs11.CKR_UNWRAPPING_KEY_SIZE_RANGE:     classRefusal,
	pkcs11.CKR_WRAPPED_KEY_INVALID:           classRefusal,
	pkcs11.CKR_WRAPPED_KEY_LEN_RANGE:         classRefusal,
	pkcs11.CKR_WRAPPING_KEY_SIZE_RANGE:       classRefusal,
}

// ErrPIN is in the error of Open when the HSM refused the PIN, or its PIN is locked, expired or not set. Whoever opens
// again without repairing that uses up the tries that are left.
var ErrPIN = errors.New("refused the PIN")

// ErrConfiguration is in the error of Open when there is no such module, it cannot be loaded, or no token has the label:
// opening again does not help before Config, or what is installed, is corrected.
var ErrConfiguration = errors.New("HSM configuration")

// misconfigured is an error that is ErrConfiguration without saying so a second time.
type misconfigured struct{ error }

func (m misconfigured) Unwrap() error        { return m.error }
func (m misconfigured) Is(target error) bool { return target == ErrConfiguration }

// errLeftover: something of a seed may be left in the session. So it is not kept, whatever else the module said.
var errLeftover = errors.New("an object may be left in the HSM")

// Causes that no CKR names. Both mean that handles cannot be trusted any more.
var (
	// errOwnerLost: the module closed a session that owned seeds; they are gone, and their numbers may come again.
	errOwnerLost = errors.New("a session that owns seeds was lost")
	// errIncoherent: the module handed out a number that should still be in use.
	errIncoherent = errors.New("the module handed out a live handle a second time")
)

// ckr returns the PKCS#11 return code inside err. crypto11 wraps with github.com/pkg/errors before 0.9, which errors.As
// cannot look through, so its Cause is followed too.
func ckr(err error) (pkcs11.Error, bool) {
	for err != nil {
		var e pkcs11.Error
		if errors.As(err, &e) {
			return e, true
		}
		c, ok := err.(interface{ Cause() error })
		if !ok {
			return 0, false
		}
		err = c.Cause()
	}
	return 0, false
}

// classify says what is to be done about err, by its type and code, never by its text.
func classify(err error, p profile.Profile) class {
	switch {
	case err == nil:
		return classOK
	case errors.Is(err, errOwnerLost), errors.Is(err, errIncoherent), errors.Is(err, errWrongSignature):
		return classHandle
	case errors.Is(err, seed.ErrBadBlob), errors.Is(err, seed.ErrBadSeal), errors.Is(err, seed.ErrKeyNotFound),
		errors.Is(err, seed.ErrKeyActive):
		return classRefusal
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return classContext
	}
	code, ok := ckr(err)
	if !ok {
		return classOther
	}
	if slices.Contains(p.Busy, uint(code)) {
		return classBusy
	}
	c, ok := classes[code]
	if !ok || c == classRefusal && errors.Is(err, errLeftover) {
		return classOther
	}
	return c
}

// blobError turns the refusal of an unwrap or a decryption into seed.ErrBadBlob, and leaves an outage as it is.
func blobError(err error, p profile.Profile) error {
	if err == nil || errors.Is(err, errLeftover) {
		return err
	}
	code, _ := ckr(err)
	if classify(err, p) == classRefusal || slices.Contains(p.BadBlob, uint(code)) {
		return fmt.Errorf("%w: %w", seed.ErrBadBlob, err)
	}
	return err
}

// also adds a second failure to a first, in one line; either may be nil. What is done about both goes by the first.
func also(first, second error) error {
	switch {
	case first == nil:
		return second
	case second == nil:
		return first
	}
	return fmt.Errorf("%w; %w", first, second)
}

// outage turns whatever the HSM could not do into seed.ErrUnavailable; the sentinels pass as they are.
func outage(err error) error {
	for _, known := range []error{seed.ErrUnavailable, seed.ErrBadBlob, seed.ErrBadSeal, seed.ErrKeyNotFound, seed.ErrKeyActive} {
		if errors.Is(err, known) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", seed.ErrUnavailable, err)
}

// waitError is the error of a caller that gave up waiting.
func waitError(ctx context.Context, what string) error {
	return fmt.Errorf("%w: waiting for %s: %w", seed.ErrUnavailable, what, context.Cause(ctx))
}

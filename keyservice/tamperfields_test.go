package keyservice

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// variants are all the ways to change one value: every leaf of it to another of its kind, every part of it left out.
func variants(v any) map[string]any {
	all := map[string]any{}
	switch v := v.(type) {
	case map[any]any:
		for key, inner := range v {
			less := maps.Clone(v)
			delete(less, key)
			all[fmt.Sprintf(".%v removed", key)] = less
			for name, changed := range variants(inner) {
				other := maps.Clone(v)
				other[key] = changed
				all[fmt.Sprintf(".%v%s", key, name)] = other
			}
		}
		if len(v) == 0 {
			all[" filled"] = map[any]any{uint64(1): uint64(1)}
		}
	case []any:
		all[" lengthened"] = append(slices.Clone(v), "login")
		for i, inner := range v {
			for name, changed := range variants(inner) {
				other := slices.Clone(v)
				other[i] = changed
				all[fmt.Sprintf("[%d]%s", i, name)] = other
			}
			all[fmt.Sprintf("[%d] removed", i)] = slices.Delete(slices.Clone(v), i, i+1)
		}
	default:
		all[""] = edit(v)
	}
	return all
}

// edit changes a leaf to another value of its kind.
func edit(v any) any {
	switch v := v.(type) {
	case uint64:
		return v + 1
	case int64:
		return v + 1
	case bool:
		return !v
	case string:
		if v == string(Active) {
			return string(Suspended)
		}
		return v + "x"
	case []byte:
		flipped := append([]byte{}, v...)
		flipped[0] ^= 1
		return flipped
	}
	panic(fmt.Sprintf("a field of type %T", v))
}

// edits returns the row with each variant of its body under the old seal or MAC, by what was changed.
func (w *world) edits(key store.Key) map[string]store.Put {
	e, err := store.Decode[envelope](w.row(key).Value)
	require.NoError(w.t, err)
	fields, err := store.Decode[map[any]any](e.Body)
	require.NoError(w.t, err)
	edited := map[string]store.Put{}
	for name, changed := range variants(fields) {
		body, err := store.Encode(changed)
		require.NoError(w.t, err)
		require.NotEqual(w.t, e.Body, body, name)
		value, err := store.Encode(envelope{Body: body, Seal: e.Seal, MAC: e.MAC})
		require.NoError(w.t, err)
		edited[name] = store.Put{Key: key, Value: value}
	}
	return edited
}

// target is a token, a request that is carried out while its rows are right, and the rows it is decided by.
type target struct {
	serial string
	ask    func() error
	rows   []store.Key
}

// targets are tokens of every channel with, together, every field there is.
func (w *world) targets() map[string]target {
	all := map[string]target{}
	add := func(name, serial string, ask func() error, more ...func(token) store.Key) {
		t, err := w.load(context.Background(), serial)
		require.NoError(w.t, err)
		rows := []store.Key{recordKey(serial), stateRowKey(serial)}
		for _, key := range more {
			rows = append(rows, key(t))
		}
		all[name] = target{serial, ask, rows}
	}
	counted := func(t token) store.Key { return budgetKey(t.Subject, "second-pin") }
	live := func(t token) store.Key { return liveKey(t.Class, t.kind(), t.Subject) }
	code := func(t token) store.Key { return codeKey(t.codes()[0]) }

	phone := w.withPIN(card(1), "pin-60", pin)
	require.Equal(w.t, ReasonMismatch, w.try(phone, phone.wrong()).Reason)
	add("phone", phone.serial, func() error {
		return second(w.Verify(context.Background(), coreBanking, bySubject(card(1), phone.wrong())))
	}, counted, live)

	r, half := w.issueRequest(card(2), "sha-512"), w.newPhone(0)
	sum := sha256.Sum256(half.der)
	r.Mobile, r.DeviceKeySHA256 = seed.NewMobile(mobile), sum[:]
	issued, err := w.Issue(context.Background(), branch, r)
	require.NoError(w.t, err)
	again := half.request(card(2), issued, w.code(issued))
	activate := func() error { return second(w.Activate(context.Background(), mobileBank, again)) }
	require.NoError(w.t, activate())
	add("pending phone", issued.Serial, activate)

	sms := w.optedIn(card(3), "second-pin")
	answered := w.ask(card(3), nil)
	require.True(w.t, w.verify(bySubject(card(3), answered.typed())).Accepted)
	w.ask(card(3), &payment)
	t, err := w.load(context.Background(), sms.Serial)
	require.NoError(w.t, err)
	id := t.codes()[0]
	add("sms", sms.Serial, func() error { return second(w.CollectCode(context.Background(), smsGateway, id)) }, code)

	hardware := w.customer(ChannelHardware, card(4))
	hardware.become(Pending)
	add("hardware", hardware.serial, func() error { return second(w.Token(context.Background(), branch, hardware.serial)) })

	lost := w.enrol(card(8), "counter-6") // whose counter a restore has lost
	astray, err := w.load(context.Background(), lost.serial)
	require.NoError(w.t, err)
	astray.state.Astray = astrayPairs
	row, err := w.stateRow(&astray)
	require.NoError(w.t, err)
	w.attack([]store.Put{row})
	add("astray", lost.serial, func() error { return second(w.Token(context.Background(), branch, lost.serial)) })

	open, other := w.issued(card(7), "offline-60"), w.newPhone(1)
	own := other.nameless(card(7), w.code(open))
	require.Equal(w.t, CodeActivationWrong, CodeOf(w.activating(other.nameless(card(7), wrongCode(own.Code)))))
	add("by card", open.Serial, func() error { return w.activating(own) }, live,
		func(t token) store.Key { return budgetKey(t.Subject, activationUse) })

	gone := w.customer(ChannelHardware, card(5))
	gone.become(Deactivated)
	next := w.issuedHardware(card(6))
	request := ActivateRequest{Serial: next.Serial, Subject: seed.NewSubject(card(6)), Code: w.code(next), MakerSeed: gone.maker}
	add("its seed's next", gone.serial, func() error { return second(w.Activate(context.Background(), mobileBank, request)) },
		func(t token) store.Key { return makerSeedKey(t.Maker.Fingerprint) })
	return all
}

// Any edit of any field, and any field left out, of any row that a decision depends on is seen and alarmed, with cold and
// with warm handles; with the right rows everything works again.
func TestEveryEditedFieldIsSeen(t *testing.T) {
	t.Parallel()
	for _, temperature := range []string{"cold", "warm"} {
		t.Run(temperature, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			targets := w.targets()
			var alarms []audit.Entry
			w.store.before = func(c store.Change) error {
				e, err := audit.Decode(c.Entry)
				if e.Outcome == audit.Tampered {
					alarms = append(alarms, e)
				}
				return err
			}
			edits, seen := 0, map[string]bool{}
			for name, target := range targets {
				for _, key := range target.rows {
					original := w.row(key)
					for what, edited := range w.edits(key) {
						if temperature == "cold" {
							w.restart()
						}
						edits++
						seen[string(key[:2])+field(what)] = true
						what = fmt.Sprintf("%s, %s%s", name, key[:2], what)
						w.attack([]store.Put{edited})
						require.Equal(t, CodeTampered, CodeOf(target.ask()), what)
						require.Len(t, alarms, edits, what)
						if key == recordKey(target.serial) || key == stateRowKey(target.serial) {
							require.Equal(t, target.serial, alarms[edits-1].Serial, what)
						}
						w.attack([]store.Put{original})
					}
				}
			}
			for name, target := range targets {
				require.NoError(t, target.ask(), name)
			}
			requireEveryField(t, seen, "t/", record{})
			requireEveryField(t, seen, "s/", state{})
			requireEveryField(t, seen, "b/", budget{})
			requireEveryField(t, seen, "l/", pointer{})
			requireEveryField(t, seen, "c/", pointer{})
			requireEveryField(t, seen, "h/", holder{})
		})
	}
}

// field is the number of the outermost field that was changed.
func field(what string) string {
	number, _, _ := strings.Cut(strings.TrimPrefix(what, "."), " ")
	number, _, _ = strings.Cut(number, ".")
	number, _, _ = strings.Cut(number, "[")
	return number
}

// requireEveryField says that no field of a row, however new, was left out.
func requireEveryField(t *testing.T, seen map[string]bool, prefix string, row any) {
	for f := range reflect.TypeOf(row).NumField() {
		number, _, _ := strings.Cut(reflect.TypeOf(row).Field(f).Tag.Get("cbor"), ",")
		require.True(t, seen[prefix+number], "field %s of row %s", reflect.TypeOf(row).Field(f).Name, prefix)
	}
}

package keyservice

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// Each field of a request that may be repeated tells it from another: none is forgotten in its digest.
func TestEveryFieldOfARequestIsPartOfItsDigest(t *testing.T) {
	for _, r := range []interface{ once() once }{IssueRequest{}, ActivateRequest{}, VerifyRequest{}, ChallengeRequest{}} {
		empty, err := store.Encode(r.once().says)
		require.NoError(t, err)
		for i := range reflect.TypeOf(r).NumField() {
			changed := reflect.New(reflect.TypeOf(r)).Elem()
			field := changed.Type().Field(i)
			changed.Field(i).Set(someValue(t, field))
			o := changed.Interface().(interface{ once() once }).once()
			says, err := store.Encode(o.says)
			require.NoError(t, err)
			switch field.Name {
			case "IdempotencyKey":
				require.NotEmpty(t, o.key)
				continue
			case "Receipt":
				require.Equal(t, empty, says, "a repeat may want one that the first request did not")
				continue
			}
			require.NotEqual(t, empty, says, "%s.%s", changed.Type(), field.Name)
		}
	}
}

func someValue(t *testing.T, f reflect.StructField) reflect.Value {
	for _, v := range []any{
		true, "x", []string{"x"}, []byte("x"), seed.NewSubject("x"), seed.NewMobile("x"), seed.NewCode("x"), seed.NewPassword("x"),
		&otp.Transaction{Amount: "1", Currency: "IRR", Payee: seed.NewSubject("x")},
	} {
		if reflect.TypeOf(v) == f.Type {
			return reflect.ValueOf(v)
		}
	}
	require.FailNow(t, "no value", "field %s of type %s: add one", f.Name, f.Type)
	return reflect.Value{}
}

// The key may be anything, a card number too, and the request holds a password: neither can be found in the database.
func TestNeitherKeyNorRequestIsStored(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "sha-256")
	typed := p.password()
	_, err := w.keyed(card(77), p, typed)
	require.NoError(t, err)
	_, err = w.keyed(card(77), p, typed)
	require.NoError(t, err)
	kept := 0
	w.rows(func(it store.Item) {
		all := append([]byte(it.Key), it.Value...)
		for _, secret := range []string{card(77), card(1), typed.Reveal()} {
			require.False(t, bytes.Contains(all, []byte(secret)), "row %q", it.Key)
		}
		if strings.HasPrefix(string(it.Key), "i/") {
			kept++
		}
	})
	require.Equal(t, 1, kept)
}

// A row that was edited, or put in another's place, is an alarm: the request is not decided again, nor answered.
func TestAnEditedIdempotencyRowIsSeen(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	typed, other := p.password(), p.password()
	_, err := w.keyed("k", p, typed)
	require.NoError(t, err)
	mine := w.idempotencyKeys()
	require.Len(t, mine, 1)
	_, err = w.keyed("other", p, other)
	require.NoError(t, err)
	edits := w.edits(mine[0])
	require.GreaterOrEqual(t, len(edits), 4)
	for _, key := range w.idempotencyKeys() {
		if key != mine[0] {
			edits["another's row"] = store.Put{Key: mine[0], Value: w.row(key).Value}
		}
	}
	for what, edited := range edits {
		w.attack([]store.Put{edited})
		w.unchanged(func() {
			_, err := w.keyed("k", p, typed)
			require.Equal(t, CodeTampered, CodeOf(err), what)
		})
		log := w.entries()
		require.Equal(t, audit.Tampered, log[len(log)-2].Outcome, what)
		require.Equal(t, idempotencyRow, log[len(log)-2].Reason)
	}
}

func (w *world) idempotencyKeys() []store.Key {
	var keys []store.Key
	for key := range w.stored() {
		if strings.HasPrefix(string(key), "i/") {
			keys = append(keys, key)
		}
	}
	return keys
}

// The entry that the first answer named is looked for, not guessed: if it is gone, the answer cannot be given.
func TestARemovedEntryOfTheFirstDecisionIsNotGuessed(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	typed := p.password()
	first, err := w.keyed("k", p, typed)
	require.NoError(t, err)
	_, err = w.keyed("k", p, typed)
	require.NoError(t, err, "its entry is no substitute")
	w.attack(nil, entryKey(first.Audit.Index))
	w.unchanged(func() {
		_, err = w.keyed("k", p, typed)
		require.Equal(t, CodeInternal, CodeOf(err))
	})
}

func TestTheEndOfTheLogIsFoundAtStart(t *testing.T) {
	w := newWorld(t)
	require.Less(t, w.head.Load(), uint64(5), "a new log")
	for range 5 {
		n := uint64(len(w.entries()))
		require.Equal(t, n, w.head.Load())
		w.restart()
		require.Equal(t, n, w.head.Load())
	}
	n := w.head.Load()
	w.attack([]store.Put{{Key: entryKey(1 << 40), Value: []byte("not an entry")}}, entryKey(1))
	w.restart()
	require.Equal(t, n+1, w.head.Load(), "the attack's own entry; neither a gap nor a row that is no entry misleads it")
}

package keyservice

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
)

// Whatever bytes stand in a row, reading it gives a row that was written or says that it was tampered with.
func FuzzRows(f *testing.F) {
	w := newWorld(f)
	p := w.enrol(card(1), "offline-60")
	record, state := w.row(recordKey(p.serial)), w.row(stateRowKey(p.serial))
	f.Add(record.Value)
	f.Add(state.Value)
	f.Add([]byte{})
	f.Add([]byte{0xa1, 0x01, 0x40})
	f.Fuzz(func(t *testing.T, value []byte) {
		_, err := w.unseal(context.Background(), store.Item{Key: record.Key, Value: value, Version: 1}, true)
		requireTamperedUnless(t, err, string(value) == string(record.Value))
		_, err = unmac[tokenState](w.Service, store.Item{Key: state.Key, Value: value, Version: 1}, "token state")
		requireTamperedUnless(t, err, string(value) == string(state.Value))
	})
}

func requireTamperedUnless(t *testing.T, err error, genuine bool) {
	var tam *tampered
	if genuine {
		require.NoError(t, err)
	} else {
		require.True(t, errors.As(err, &tam), "%v", err)
	}
}

type tokenState = state // the fuzz target has a variable of that name

package keyservice

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
)

func (w *world) connect(serial string, uses ...string) error {
	connected, err := w.SetUses(context.Background(), branch, serial, uses)
	if err == nil {
		require.Equal(w.t, len(uses), len(connected))
	}
	return err
}

// A token is good for the uses it is connected to, and for no other; each has a guess budget from then on.
func TestUsesAreConnectedAndDisconnected(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	require.NoError(t, w.connect(p.serial))
	require.Empty(t, w.shown(p.serial).Uses)
	require.Equal(t, ReasonNotConnected, w.try(p, p.at(0)).Reason)
	tok, err := w.load(context.Background(), p.serial)
	require.NoError(t, err)
	login := budgetKey(tok.Subject, "login")
	items, err := w.db.Get(context.Background(), login)
	require.NoError(t, err)
	require.Zero(t, items[0].Version)

	require.NoError(t, w.connect(p.serial, "login", "second-pin"))
	require.Equal(t, []string{"login", "second-pin"}, w.shown(p.serial).Uses)
	made := w.row(login)
	require.Equal(t, ReasonMismatch, w.try(p, p.wrong()).Reason)
	require.True(t, w.try(p, p.password()).Accepted)
	require.NoError(t, w.connect(p.serial, "second-pin"))
	require.NoError(t, w.connect(p.serial, "second-pin", "login"))
	require.Equal(t, made, w.row(login), "a budget is made once")
	for _, bad := range [][]string{{"pin"}, {"login", "login"}, {"/resync"}, {""}} {
		require.Equal(t, CodeInvalid, CodeOf(w.connect(p.serial, bad...)), "%q", bad)
	}
	require.Equal(t, []string{"second-pin", "login"}, w.shown(p.serial).Uses)
}

// Disconnecting and connecting a use again gives no guesses back, and a budget that was removed is not made again in
// passing.
func TestConnectingAgainForgivesNothing(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	tok, err := w.load(context.Background(), p.serial)
	require.NoError(t, err)
	key := budgetKey(tok.Subject, "second-pin")
	require.Equal(t, ReasonMismatch, w.try(p, p.wrong()).Reason)
	counted := w.row(key)
	require.NoError(t, w.connect(p.serial))
	require.NoError(t, w.connect(p.serial, "second-pin"))
	require.Equal(t, counted, w.row(key))
	w.attack(nil, key)
	require.NoError(t, w.connect(p.serial, "second-pin", "login"))
	items, err := w.db.Get(context.Background(), key)
	require.NoError(t, err)
	require.Equal(t, store.Item{Key: key}, items[0])
	w.refusedAndAlarmed(p, "removed budget")
}

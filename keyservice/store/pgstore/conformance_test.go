package pgstore

import (
	"testing"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/pgstore/pgtest"
	"ramzban/keyservice/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		dsn := pgtest.Database(t)
		return storetest.Harness{Open: func(t testing.TB, node string, seq store.Sequencer) storetest.Store {
			return openTest(t, Options{DSN: dsn, Node: node, Sequencer: seq})
		}}
	})
}

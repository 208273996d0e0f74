package badgerstore

import (
	"fmt"
	"strings"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/group"
)

// firstKey is the lowest key that does not belong to the engine.
const firstKey store.Key = "\x01"

// reservedPrefix begins the keys that Badger keeps for itself.
const reservedPrefix = "!badger!"

// rowBytes is what Badger counts for a row besides its key and value: two meta bytes and the timestamp, as Txn.checkSize
// counts them.
const rowBytes = 12

// newMember checks and copies a change.
func newMember(c store.Change) (*group.Member, error) {
	m, err := group.NewMember(c, rowBytes)
	if err != nil {
		return nil, err
	}
	for _, r := range m.Require {
		if err := checkReserved(r.Key); err != nil {
			return nil, err
		}
	}
	for _, w := range m.Writes {
		if err := checkReserved(w.Key); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func checkKey(k store.Key) error {
	if err := store.CheckKey(k); err != nil {
		return err
	}
	return checkReserved(k)
}

func checkReserved(k store.Key) error {
	if strings.HasPrefix(string(k), reservedPrefix) {
		return fmt.Errorf("badgerstore: keys that begin with %s belong to Badger", reservedPrefix)
	}
	return nil
}

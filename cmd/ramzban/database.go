package main

import "ramzban/keyservice/store/badgerstore"

// check refuses a folder that others may use, and one without a database unless it is to be made now: after a mistyped
// folder or a disk that is not mounted, the service would begin anew, with every customer forgotten. To ask for a new
// database where there is one is refused too, so that the permission stays in no unit file.
func (b BadgerConfig) check(create bool) error {
	const key = "store.badger.dir"
	if err := requirePrivate(key, b.Dir); err != nil {
		return err
	}
	found, err := badgerstore.Exists(b.Dir)
	switch {
	case err != nil:
		return wrong(key, "%v: let the service's user look at it", err)
	case !found && !create:
		return wrong(key, "%s holds no database: mount its disk, or start once with --new-database", b.Dir)
	case found && create:
		return wrong(key, "%s holds a database already: start without --new-database", b.Dir)
	}
	return nil
}

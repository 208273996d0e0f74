package store

import (
	"errors"
	"fmt"
	"regexp"
)

var nodeName = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// CheckNode returns why a name cannot be a node's.
func CheckNode(name string) error {
	if !nodeName.MatchString(name) {
		return fmt.Errorf("the node's name %q is not 1 to 63 of a-z, 0-9 and hyphens", name)
	}
	return nil
}

// firstKey is the lowest key that does not belong to the engine.
const firstKey Key = "\x01"

// CheckChange returns why no engine may write the change: a missing entry, a key or value beyond its limits, a key of the
// engine's, a key twice among the preconditions or among the writes. An engine may have further limits.
func CheckChange(c Change) error {
	switch {
	case len(c.Entry) == 0:
		return errors.New("a change needs an audit entry")
	case len(c.Entry) > MaxValue:
		return fmt.Errorf("the audit entry has %d bytes, at most %d are allowed", len(c.Entry), MaxValue)
	}
	required := make(map[Key]bool, len(c.Require))
	for _, r := range c.Require {
		if err := checkNew(required, r.Key); err != nil {
			return fmt.Errorf("a precondition: %w", err)
		}
	}
	written := make(map[Key]bool, len(c.Put)+len(c.Delete))
	for _, p := range c.Put {
		if err := CheckPut(p); err != nil {
			return fmt.Errorf("a row to write: %w", err)
		}
		if err := checkNew(written, p.Key); err != nil {
			return fmt.Errorf("a row to write: %w", err)
		}
	}
	for _, k := range c.Delete {
		if err := checkNew(written, k); err != nil {
			return fmt.Errorf("a row to delete: %w", err)
		}
	}
	return nil
}

// CheckPut returns why a row may not be written, also a Sequencer's.
func CheckPut(p Put) error {
	if len(p.Value) > MaxValue {
		return fmt.Errorf("a value has %d bytes, at most %d are allowed", len(p.Value), MaxValue)
	}
	return CheckKey(p.Key)
}

// CheckKey returns why a key names no row of the caller's.
func CheckKey(k Key) error {
	switch {
	case k == "":
		return errors.New("store: the key is empty")
	case k < firstKey:
		return errors.New("store: keys that begin with a zero byte belong to the engine")
	case len(k) > MaxKey:
		return fmt.Errorf("store: the key has %d bytes, at most %d are allowed", len(k), MaxKey)
	}
	return nil
}

// checkNew checks a key that may appear only once.
func checkNew(seen map[Key]bool, k Key) error {
	if err := CheckKey(k); err != nil {
		return err
	}
	if seen[k] {
		return errors.New("the same key twice in one change")
	}
	seen[k] = true
	return nil
}

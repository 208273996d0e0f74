package keyservice

import (
	"context"
	"maps"
	"slices"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/store"
)

// The seed of a hardware token is with its device, not in a backup alone. One that was handed over after the backup has no
// row there; the entry of its activation tells of it, and those of the token's passwords how far its counter was used. So the
// row is made again, and whoever gets the device next goes on from there.

// given takes note of a maker's seed that a token was given: the last holder is the one that counts.
func (r *replay) given(serial string, m audit.MakerSeed) {
	key := makerSeedKey(m.Digest)
	if r.seeds[key].Holder < m.Holder {
		r.seeds[key] = holder{Schema: schema, Serial: serial, Holder: m.Holder}
	}
}

// found says that the holder's record is there, and tells of the seed itself.
func (r *replay) found(serial string, m *makerRecord) {
	if m == nil {
		return
	}
	key := makerSeedKey(m.Fingerprint)
	if h, given := r.seeds[key]; given && h.Serial == serial {
		h.Lost = false
		r.seeds[key] = h
	}
}

// lose keeps what is known of all holders in the rows of their seeds, until a record is found that tells of it.
func (r *replay) lose(complete bool) {
	for key, h := range r.seeds {
		h.Lost, h.Next = true, r.tokens[h.Serial].next
		if !complete {
			h.Astray = astrayPairs
		}
		r.seeds[key] = h
	}
}

// seeds writes the rows of the makers' seeds that were handed over after the backup.
func (r *restoring) seeds(ctx context.Context) error {
	for _, key := range slices.Sorted(maps.Keys(r.replay.seeds)) {
		h := r.replay.seeds[key]
		if !h.Lost {
			h.Next, h.Astray = 0, 0
		}
		row, err := r.service.mac(key, h)
		if err != nil {
			return err
		}
		if err := r.out.add(ctx, row); err != nil {
			return err
		}
	}
	return nil
}

// newerSeed says whether the row of a maker's seed in the backup is not the last one.
func (r *restoring) newerSeed(key store.Key) bool {
	_, given := r.replay.seeds[key]
	return given
}

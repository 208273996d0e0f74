package keyservice

import "sync"

// seenRows knows the newest row of each proposal that this node saw or wrote. An older one carries a right MAC: put back in
// the database, it would have something carried out again. After a restart the comparison of the log finds it still.
type seenRows struct {
	mu  sync.Mutex        // guards what follows
	max map[string]uint64 // sequence numbers, by id
}

// note takes note of a row, and says whether it is not older than one that was seen. The caller holds mu.
func (r *seenRows) note(p storedProposal) bool {
	if r.max == nil {
		r.max = map[string]uint64{}
	}
	newest := p.Sequence >= r.max[p.id]
	r.max[p.id] = max(r.max[p.id], p.Sequence)
	return newest
}

func (r *seenRows) wrote(p storedProposal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note(p)
}

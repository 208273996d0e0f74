package keyservice

import (
	"context"
	"errors"
	"sync"
	"time"

	"ramzban/keyservice/authz"
)

// failingSubjects bounds for how many different subjects one caller may fail within an hour, so that nobody tries one
// password on every customer. A subject counts from the moment it is asked about until a request for it succeeds. It is
// held in memory, about 100 bytes per subject, and begins anew with each hour and start. The zero value is not ready.
type failingSubjects struct {
	limit int

	mu      sync.Mutex
	hour    int64
	callers map[string]map[string]int // how many requests a subject counts for, by caller and subject
}

// errTooManySubjects carries how long it is until the next hour.
type errTooManySubjects struct{ wait time.Duration }

func (*errTooManySubjects) Error() string { return "the caller failed for too many different subjects" }

// enter counts a subject for the caller; leave takes it back once a request for it has succeeded. A subject that counts
// already may be asked about again.
func (f *failingSubjects) enter(caller, subject string, now time.Time) (leave func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	hour := now.Truncate(time.Hour)
	if f.hour != hour.Unix() {
		f.hour, f.callers = hour.Unix(), map[string]map[string]int{}
	}
	subjects, ok := f.callers[caller]
	if !ok {
		subjects = map[string]int{}
		f.callers[caller] = subjects
	}
	if _, counts := subjects[subject]; !counts && len(subjects) >= f.limit {
		return nil, &errTooManySubjects{wait: hour.Add(time.Hour).Sub(now)}
	}
	subjects[subject]++
	return func() { f.leave(subjects, subject) }, nil
}

// leave forgets a success. Requests for the same subject that failed meanwhile still count.
func (f *failingSubjects) leave(subjects map[string]int, subject string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if subjects[subject]--; subjects[subject] <= 0 {
		delete(subjects, subject)
	}
}

// undecided are the codes of what could not be decided.
var undecided = []Code{CodeHSMUnavailable, CodeStorageUnavailable, CodeStorageFull, CodeOutcomeUnknown, CodeBusy, CodeInternal, CodeTampered}

// tooManySubjects refuses a request that would be about one subject too many; the refusal is logged.
func (s *Service) tooManySubjects(ctx context.Context, c authz.Caller, a authz.Action, serial string, err error) error {
	var full *errTooManySubjects
	if !errors.As(err, &full) {
		return err
	}
	d := refuse(CodeTooManySubjects, "this client failed for too many different subjects within the hour: wait, and look into why")
	d.entry.Serial, d.refusal.RetryAfter, d.refusal.Err = serial, full.wait, err
	if _, err := s.commit(ctx, c, a, d); err != nil {
		return err
	}
	return d.refusal
}

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
// held in memory, about 100 bytes per subject, and begins anew with each hour and start.
type failingSubjects struct {
	limit int

	mu      sync.Mutex
	hour    int64
	callers map[string]map[string]bool // the subjects that count, by caller
}

// errTooManySubjects carries how long it is until the next hour.
type errTooManySubjects struct{ wait time.Duration }

func (*errTooManySubjects) Error() string { return "the caller failed for too many different subjects" }

// enter counts a subject for the caller; leave takes that back if the request did not fail for it. A subject that counts
// already may be asked about again, and counts on.
func (f *failingSubjects) enter(caller, subject string, now time.Time) (leave func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	hour := now.Truncate(time.Hour)
	if f.hour != hour.Unix() {
		f.hour, f.callers = hour.Unix(), map[string]map[string]bool{}
	}
	subjects, ok := f.callers[caller]
	if !ok {
		subjects = map[string]bool{}
		f.callers[caller] = subjects
	}
	if subjects[subject] {
		return func() {}, nil
	}
	if len(subjects) >= f.limit {
		return nil, &errTooManySubjects{wait: hour.Add(time.Hour).Sub(now)}
	}
	subjects[subject] = true
	return func() { f.forget(caller, subject) }, nil
}

// forget no longer counts the subject: whose password was right for a customer was not trying one on everybody.
func (f *failingSubjects) forget(caller, subject string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.callers[caller], subject)
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

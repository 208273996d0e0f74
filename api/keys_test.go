package api_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
)

func someRotation(id string) keyservice.RotationView {
	return keyservice.RotationView{
		ID: id, From: seed.KeyRef{Label: "wrap", Version: 1}, To: seed.KeyRef{Label: "wrap", Version: 2}, State: keyservice.RotationWaiting,
		Stage: "count", Tokens: 3, Seen: 3, Renewed: 2, Failures: 1, Failed: []string{"402519938461"}, Left: keyservice.Dependents{"token record": 1},
		BegunAt: someTime, SavedAt: someTime,
	}
}

func (r *recorder) Keys(ctx context.Context, c authz.Caller) ([]keyservice.KeyView, error) {
	return []keyservice.KeyView{
		{Key: seed.KeyRef{Label: "wrap", Version: 1}, Status: keyservice.KeyReadable, KCV: []byte{1, 2, 3}, Since: someTime, Present: true, Dependents: keyservice.Dependents{"token record": 2}},
		{Key: seed.KeyRef{Label: "wrap", Version: 2}, KCV: []byte{4, 5, 6}, Present: true},
	}, r.note(ctx, "keys", c, nil)
}

func (r *recorder) Rotations(ctx context.Context, c authz.Caller) (keyservice.RotationList, error) {
	return keyservice.RotationList{Rotations: []keyservice.RotationView{someRotation("5d0f")}, Damaged: []string{"0f5d"}}, r.note(ctx, "rotations", c, nil)
}

func (r *recorder) Rotation(ctx context.Context, c authz.Caller, id string) (keyservice.RotationView, error) {
	return someRotation(id), r.note(ctx, "rotation", c, id)
}

func (r *recorder) PauseRotation(ctx context.Context, c authz.Caller, id string) (keyservice.RotationView, error) {
	return someRotation(id), r.note(ctx, "pause-rotation", c, id)
}

func (r *recorder) ResumeRotation(ctx context.Context, c authz.Caller, id string) (keyservice.RotationView, error) {
	return someRotation(id), r.note(ctx, "resume-rotation", c, id)
}

func (r *recorder) FeedSubjects(ctx context.Context, c authz.Caller, id string, subjects []keyservice.FedSubject) (keyservice.FedResult, error) {
	return keyservice.FedResult{Fed: len(subjects)}, r.note(ctx, "feed", c, id)
}

func TestKeysAndRotationsTravel(t *testing.T) {
	rec := &recorder{}
	w := start(t, rec, nil)
	keys := decode[wire.KeysAnswer](t, w.send("officer", "GET", "/v1/keys", "")).Keys
	require.Equal(t, []wire.Key{
		{Label: "wrap", Version: 1, Status: "readable", KCV: "010203", Since: new(someTime), InHSM: true, Dependents: 2, Kinds: []wire.KindOfRow{{Kind: "token record", Rows: 2}}},
		{Label: "wrap", Version: 2, Status: "unused", KCV: "040506", InHSM: true, Kinds: []wire.KindOfRow{}},
	}, keys)
	want := wire.Rotation{
		ID: "5d0f", Label: "wrap", From: 1, To: 2, Status: "waiting", Stage: "count", Tokens: 3, Seen: 3, Renewed: 2, Failures: 1,
		Failed: []string{"402519938461"}, Left: 1, Kinds: []wire.KindOfRow{{Kind: "token record", Rows: 1}}, BegunAt: someTime, ProgressAt: someTime,
	}
	require.Equal(t, wire.RotationsAnswer{Rotations: []wire.Rotation{want}, Damaged: []string{"0f5d"}}, decode[wire.RotationsAnswer](t, w.send("officer", "GET", "/v1/rotations", "")))
	require.Equal(t, want, decode[wire.Rotation](t, w.send("officer", "GET", "/v1/rotations/5d0f", "")))
	for path, name := range map[string]string{"/v1/rotations/5d0f/pause": "pause-rotation", "/v1/rotations/5d0f/resume": "resume-rotation"} {
		require.Equal(t, want, decode[wire.Rotation](t, w.send("officer", "POST", path, "")))
		require.Equal(t, name, rec.seen()[len(rec.seen())-1].name)
	}
	fed := decode[wire.FeedAnswer](t, w.send("officer", "POST", "/v1/feeds/5d0f", `{"subjects":[{"class":"card","subject":"6037991234567893"}]}`))
	require.Equal(t, wire.FeedAnswer{Fed: 1, Malformed: []int{}}, fed)
}

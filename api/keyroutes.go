package api

import (
	"context"
	"encoding/hex"
	"maps"
	"net/http"
	"slices"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
)

// The inputs of the routes.
type (
	rotationInput struct {
		ID string `path:"id" doc:"The rotation: the id of its proposal" example:"5d0f6f3c1b7e49a2b8a1c2d3e4f50617"`
	}
	feedInput struct {
		ID   string `path:"id" doc:"The proposal subjects.feed that opened the feed" example:"5d0f6f3c1b7e49a2b8a1c2d3e4f50617"`
		Body wire.FeedRequest
	}
)

// keyRoutes show the master keys and their rotations. What changes a key is proposed, and approved by another officer.
func (s *Server) keyRoutes() {
	handle(s, route{
		method: get, path: "/v1/keys", id: "keys", role: authz.Officer, status: http.StatusOK, long: true,
		summary:     "List the master keys",
		description: "Every version with its status, check value and what depends on it. Reads everything, so it may take minutes.",
		codes:       []keyservice.Code{keyservice.CodeNotOfficer, keyservice.CodeTampered},
	}, s.keys)
	handle(s, route{
		method: get, path: "/v1/rotations", id: "rotations", role: authz.Officer, status: http.StatusOK,
		summary: "List rotations of master keys", description: "Those that are done too, the newest first.",
		codes: []keyservice.Code{keyservice.CodeNotOfficer, keyservice.CodeTampered},
	}, s.rotations)
	handle(s, rotationRoute(get, "", "rotation", "Show a rotation", "Ask again to follow it."), s.rotation)
	handle(s, rotationRoute(post, "/pause", "pause-rotation", "Pause a rotation",
		"What was stored is not renewed any further until an officer resumes it, 24 hours at most. Who paused it last cannot pause it again: "+
			"another officer can. New things are made under the new version all the same.",
		keyservice.CodeTransition), s.pauseRotation)
	handle(s, rotationRoute(post, "/resume", "resume-rotation", "Resume a rotation",
		"One that waits tries at once what it could not do before.", keyservice.CodeTransition), s.resumeRotation)
	handle(s, route{
		method: post, path: "/v1/feeds/{id}", id: "feed", role: authz.Officer, status: http.StatusOK,
		summary: "Feed customers to a new lookup key",
		description: "Only who has the card number can move a customer to another version of the lookup key. Two officers open a feed with a " +
			"proposal `subjects.feed`; then one hands the list over, in parts of 500 at most. It is kept nowhere, and the answer does not say " +
			"who of it is a customer. To feed somebody twice does no harm.",
		codes: []keyservice.Code{keyservice.CodeNotOfficer, keyservice.CodeProposalClosed, keyservice.CodeTampered},
	}, s.feed)
}

func rotationRoute(method, path, id, summary, description string, codes ...keyservice.Code) route {
	return route{
		method: method, path: "/v1/rotations/{id}" + path, id: id, role: authz.Officer, status: http.StatusOK, summary: summary, description: description,
		codes: append([]keyservice.Code{keyservice.CodeNotOfficer, keyservice.CodeRotationNotFound, keyservice.CodeTampered}, codes...),
	}
}

func (s *Server) keys(ctx context.Context, c authz.Caller, _ *noInput) (wire.KeysAnswer, error) {
	all, err := s.Service.Keys(ctx, c)
	a := wire.KeysAnswer{Keys: make([]wire.Key, len(all))}
	for i, v := range all {
		a.Keys[i] = wire.Key{
			Label: v.Key.Label, Version: v.Key.Version, Status: string(v.Status), KCV: hex.EncodeToString(v.KCV), Since: given(v.Since),
			InHSM: v.Present, Dependents: v.Dependents.Total(), Kinds: kinds(v.Dependents),
			NotErased: v.NotErased,
		}
		if v.Status == "" {
			a.Keys[i].Status, a.Keys[i].Since = "unused", nil
		}
	}
	return a, err
}

func kinds(d keyservice.Dependents) []wire.KindOfRow {
	all := []wire.KindOfRow{}
	for _, kind := range slices.Sorted(maps.Keys(d)) {
		all = append(all, wire.KindOfRow{Kind: kind, Rows: d[kind]})
	}
	return all
}

func (s *Server) rotations(ctx context.Context, c authz.Caller, _ *noInput) (wire.RotationsAnswer, error) {
	all, err := s.Service.Rotations(ctx, c)
	a := wire.RotationsAnswer{Rotations: make([]wire.Rotation, len(all.Rotations)), Damaged: append([]string{}, all.Damaged...)}
	for i, v := range all.Rotations {
		a.Rotations[i] = rotationAnswer(v)
	}
	return a, err
}

func (s *Server) rotation(ctx context.Context, c authz.Caller, in *rotationInput) (wire.Rotation, error) {
	v, err := s.Service.Rotation(ctx, c, in.ID)
	return rotationAnswer(v), err
}

func (s *Server) pauseRotation(ctx context.Context, c authz.Caller, in *rotationInput) (wire.Rotation, error) {
	v, err := s.Service.PauseRotation(ctx, c, in.ID)
	return rotationAnswer(v), err
}

func (s *Server) resumeRotation(ctx context.Context, c authz.Caller, in *rotationInput) (wire.Rotation, error) {
	v, err := s.Service.ResumeRotation(ctx, c, in.ID)
	return rotationAnswer(v), err
}

func rotationAnswer(v keyservice.RotationView) wire.Rotation {
	return wire.Rotation{
		ID: v.ID, Label: v.To.Label, From: v.From.Version, To: v.To.Version, Status: string(v.State), Stage: v.Stage, Tokens: v.Tokens,
		Seen: v.Seen, Renewed: v.Renewed, Failures: v.Failures, Failed: append([]string{}, v.Failed...), Left: v.Left.Total(),
		Kinds: kinds(v.Left), BegunAt: v.BegunAt, ProgressAt: v.SavedAt, EndedAt: given(v.EndedAt),
		PausedBy: v.PausedBy, PauseEndsAt: given(v.PauseEnd),
	}
}

func (s *Server) feed(ctx context.Context, c authz.Caller, in *feedInput) (wire.FeedAnswer, error) {
	subjects := make([]keyservice.FedSubject, len(in.Body.Subjects))
	for i, f := range in.Body.Subjects {
		subjects[i] = keyservice.FedSubject{Class: f.Class, Subject: seed.NewSubject(f.Subject)}
	}
	r, err := s.Service.FeedSubjects(ctx, c, in.ID, subjects)
	return wire.FeedAnswer{Fed: r.Fed, Malformed: append([]int{}, r.Malformed...)}, err
}

package api

import (
	"context"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humafiber"

	"ramzban/keyservice"
	"ramzban/keyservice/authz"
)

// route is one use case as it is reached and documented.
type route struct {
	method, path string
	id           string // OpenAPI operation id
	role         authz.Role
	summary      string
	description  string
	status       int               // of success
	body         bool              // takes one
	long         bool              // may take ComparisonTimeout
	codes        []keyservice.Code // refusals besides those every route shares
}

const (
	tokenPath = "/v1/tokens/{serial}"
	get, post = http.MethodGet, http.MethodPost
)

// useCases registers every route of /v1 with its handler.
func (s *Server) useCases() {
	s.tokenRoutes()
	handle(s, route{
		method: post, path: "/v1/verifications", id: "verify", role: authz.Verifier, status: http.StatusOK,
		summary: "Is this password genuine and unused?",
		description: "A refused password is an answer (200, result refused), not an error. A password is accepted at most once, " +
			"and only after that fact is on disk. After `outcome_unknown` or a lost connection it may have been used up. " +
			"A use that no configuration names is `request_invalid` (422); one that is configured, but not among the token's, is " +
			"refused as `not_connected`.",
		codes: []keyservice.Code{keyservice.CodeSerialInvalid, keyservice.CodeOTPMalformed, keyservice.CodeTokenNotFound, keyservice.CodeTampered},
	}, s.verify)
	handle(s, route{
		method: post, path: "/v1/codes/{id}/collection", id: "collect-code", role: authz.Courier, status: http.StatusOK,
		summary:     "Collect a code to send to its customer",
		description: "May be repeated while the code lives; the same code comes again.",
		codes: []keyservice.Code{keyservice.CodeCodeNotFound, keyservice.CodeActivationExpired, keyservice.CodeActivationExhausted,
			keyservice.CodeTampered},
	}, s.collectCode)
	handle(s, route{
		method: get, path: "/v1/audit/entries", id: "audit-entries", role: authz.Auditor, status: http.StatusOK,
		summary: "Read the audit log", description: "Pages through all decisions in the order they were taken. Reading is itself logged.",
	}, s.auditEntries)
	handle(s, route{
		method: get, path: "/v1/audit/comparison", id: "compare-audit", role: authz.Auditor, status: http.StatusOK, long: true,
		summary:     "Compare the stored state with the audit log",
		description: "Finds rows that are older than the log says: an old copy was put back. Reads everything, so it may take minutes.",
	}, s.compareAudit)
	huma.Register(s.huma, s.timeOperation(), s.time)
}

func (s *Server) tokenRoutes() {
	handle(s, route{
		method: post, path: "/v1/tokens", id: "issue", role: authz.Issuer, status: http.StatusCreated,
		summary:     "Issue a token for a card or account",
		description: "The token has no seed yet. Its activation code waits for the courier under the id in the answer.",
		codes: []keyservice.Code{keyservice.CodeSubjectInvalid, keyservice.CodeProfileUnknown, keyservice.CodeLiveTokenExists,
			keyservice.CodeTampered},
	}, s.issue)
	handle(s, tokenRoute(get, "", "token", authz.Issuer, "Show a token", "No secret is in the answer."), s.token)
	handle(s, tokenRoute(post, "/activation-code", "renew-activation-code", authz.Issuer, "Make a fresh activation code",
		"For a token that is not activated yet. The old code dies.", keyservice.CodeTransition), s.renewCode)
	handle(s, tokenRoute(post, "/activation", "activate", authz.Activator, "Activate a token on one device",
		"The seed is born in the HSM and comes wrapped to the device's key. The same device may repeat the call until the "+
			"token is confirmed. Five wrong activation codes exhaust the code.",
		keyservice.CodeDeviceKeyInvalid, keyservice.CodeTransition, keyservice.CodeChannelOther, keyservice.CodeDeviceKeyNotPinned,
		keyservice.CodeDeviceOther, keyservice.CodeActivationExpired, keyservice.CodeActivationExhausted,
		keyservice.CodeActivationWrong), s.activate)
	handle(s, tokenRoute(post, "/confirmation", "confirm", authz.Activator, "Prove that the device has the seed",
		"Makes a pending token active. It uses up no password.", keyservice.CodeTransition, keyservice.CodeProofWrong), s.confirm)
	handle(s, tokenRoute(post, "/suspend", "suspend", authz.Issuer, "Suspend an active token",
		"Its passwords are refused until it is resumed.", keyservice.CodeTransition), s.suspend)
	handle(s, tokenRoute(post, "/resume", "resume", authz.Issuer, "Resume a suspended token",
		"Its passwords are accepted again.", keyservice.CodeTransition), s.resume)
	handle(s, tokenRoute(post, "/deactivate", "deactivate", authz.Issuer, "Deactivate a token for ever",
		"Its seed is forgotten, and the subject may be issued another token.", keyservice.CodeTransition), s.deactivate)
}

// tokenRoute is a route below one token, with the refusals all of them share.
func tokenRoute(method, path, id string, role authz.Role, summary, description string, codes ...keyservice.Code) route {
	return route{
		method: method, path: tokenPath + path, id: id, role: role, status: http.StatusOK, summary: summary, description: description,
		codes: append(codes, keyservice.CodeSerialInvalid, keyservice.CodeTokenNotFound, keyservice.CodeTampered),
	}
}

// answer is a wire type as huma wants it.
type answer[O any] struct{ Body O }

// handle registers a use case: its handler is given the caller, and its error goes through the error map.
func handle[I, O any](s *Server, r route, h func(context.Context, authz.Caller, *I) (O, error)) {
	_, r.body = reflect.TypeFor[I]().FieldByName("Body")
	if r.long {
		s.routes.long[r.method+" "+r.path] = true
	}
	huma.Register(s.huma, r.operation(s.huma), func(ctx context.Context, in *I) (*answer[O], error) {
		body, err := h(ctx, exchangeOf(ctx).caller, in)
		if err != nil {
			return nil, refuse(ctx, err)
		}
		return &answer[O]{body}, nil
	})
}

// register builds the API on the Fiber app: the routes, their document, and what the edge must know of them.
func (s *Server) register() error {
	s.routes = routeTable{long: map[string]bool{}, names: map[string]bool{"body": true, "query": true, "path": true}}
	s.huma = humafiber.New(s.app, humaConfig(s.Version))
	s.useCases()
	describePaths(s.huma.OpenAPI())
	s.routes.learn(s.huma.OpenAPI())
	return s.documents()
}

// describePaths documents the form of path parameters. It is written down after the routes were registered so that huma
// does not enforce it: the use cases say what is wrong with a serial or an id, after they have asked who wants to know.
func describePaths(doc *huma.OpenAPI) {
	forms := map[string]string{"serial": "^[0-9]{12}$", "id": "^[0-9a-f]{32}$"}
	for _, item := range doc.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post} {
			if op == nil {
				continue
			}
			for _, p := range op.Parameters {
				if p.In == "path" {
					p.Schema.Pattern = forms[p.Name]
				}
			}
		}
	}
}

// routeTable is what the edge knows of the routes before Fiber has found one.
type routeTable struct {
	patterns []string
	infos    map[string]routeInfo // by method, space and pattern
	names    map[string]bool      // every field and parameter name of the API
	long     map[string]bool      // routes that may take long, keyed as infos
}

type routeInfo struct {
	body   bool // takes a body
	long   bool
	fields map[string][]string // of each object in the body, by its place
}

// learn takes the routes and names from the OpenAPI document, so that it cannot differ from what is documented.
func (t *routeTable) learn(doc *huma.OpenAPI) {
	t.infos = map[string]routeInfo{}
	t.patterns = append(t.patterns, openapiPath, docsPath)
	for path, item := range doc.Paths {
		t.patterns = append(t.patterns, path)
		for method, op := range map[string]*huma.Operation{get: item.Get, post: item.Post} {
			if op == nil {
				continue
			}
			key := method + " " + path
			t.infos[key] = routeInfo{body: op.RequestBody != nil, long: t.long[key], fields: bodyFields(doc, op)}
			for _, p := range op.Parameters {
				t.names[p.Name] = true
			}
		}
	}
	for _, schema := range doc.Components.Schemas.Map() {
		for name := range schema.Properties {
			t.names[name] = true
		}
	}
}

// bodyFields lists the field names of every object in the route's body, by its place: "body", "body.device".
func bodyFields(doc *huma.OpenAPI, op *huma.Operation) map[string][]string {
	fields := map[string][]string{}
	if op.RequestBody == nil {
		return fields
	}
	for _, media := range op.RequestBody.Content {
		addFields(fields, doc.Components.Schemas, "body", media.Schema)
	}
	return fields
}

func addFields(fields map[string][]string, all huma.Registry, place string, s *huma.Schema) {
	if s.Ref != "" {
		s = all.SchemaFromRef(s.Ref)
	}
	if s.Type != huma.TypeObject {
		return
	}
	fields[place] = slices.Sorted(maps.Keys(s.Properties))
	for name, property := range s.Properties {
		addFields(fields, all, place+"."+name, property)
	}
}

func (t *routeTable) of(x *exchange) (routeInfo, bool) {
	r, known := t.infos[x.method+" "+x.route]
	return r, known
}

// match returns the pattern of a path, "" if there is none. A parameter matches one element that is not empty.
func (t *routeTable) match(path string) string {
	parts := strings.Split(path, "/")
	for _, p := range t.patterns {
		if matches(strings.Split(p, "/"), parts) {
			return p
		}
	}
	return ""
}

func matches(pattern, parts []string) bool {
	if len(pattern) != len(parts) {
		return false
	}
	for i, p := range pattern {
		if p != parts[i] && (!strings.HasPrefix(p, "{") || parts[i] == "") {
			return false
		}
	}
	return true
}

package api

import (
	"cmp"
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
	keyed        bool              // may be repeated under an Idempotency-Key
	long         bool              // may take ComparisonTimeout
	codes        []keyservice.Code // refusals besides those every route shares
}

const get, post, put = http.MethodGet, http.MethodPost, http.MethodPut

// useCases registers every route of /v1 with its handler.
func (s *Server) useCases() {
	s.tokenRoutes()
	s.passwordRoutes()
	s.auditRoutes()
	s.proposalRoutes()
	s.keyRoutes()
	s.bulkRoute()
	s.seedRoute()
	s.backupRoute()
	huma.Register(s.huma, s.timeOperation(), s.time)
}

// answer is a wire type as huma wants it.
type answer[O any] struct{ Body O }

// handle registers a use case: its handler is given the caller, and its error goes through the error map.
func handle[I, O any](s *Server, r route, h func(context.Context, authz.Caller, *I) (O, error)) {
	_, r.body = reflect.TypeFor[I]().FieldByName("Body")
	_, r.keyed = reflect.TypeFor[I]().FieldByName("IdempotencyKey")
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
	describeParameters(s.huma.OpenAPI())
	illustrate(s.huma.OpenAPI())
	s.routes.learn(s.huma.OpenAPI())
	return s.documents()
}

// describeParameters documents the form of path parameters and of the idempotency key. It is written down after the
// routes were registered so that huma does not enforce it: the use cases say what is wrong with a serial or an id, after
// they have asked who wants to know, and admit looks at the key.
func describeParameters(doc *huma.OpenAPI) {
	forms := map[string]string{"serial": "^[0-9]{12}$", "id": "^[0-9a-f]{32}$", idempotencyHeader: keyForm}
	for _, item := range doc.Paths {
		for _, op := range operations(item) {
			for _, p := range op.Parameters {
				if form, known := forms[p.Name]; known {
					p.Schema.Pattern = form
				}
				if p.Name == idempotencyHeader {
					p.Description = keyDescription
				}
			}
		}
	}
}

// operations are what can be done at one path, by method.
func operations(item *huma.PathItem) map[string]*huma.Operation {
	all := map[string]*huma.Operation{get: item.Get, post: item.Post, put: item.Put}
	maps.DeleteFunc(all, func(_ string, op *huma.Operation) bool { return op == nil })
	return all
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
	stream bool // reads it line by line
	keyed  bool // takes an Idempotency-Key
	long   bool
	fields map[string][]string // of each object in the body, by its place
}

// learn takes the routes and names from the OpenAPI document, so that it cannot differ from what is documented.
func (t *routeTable) learn(doc *huma.OpenAPI) {
	t.infos = map[string]routeInfo{}
	t.patterns = append(t.patterns, openapiPath, docsPath)
	for path, item := range doc.Paths {
		t.patterns = append(t.patterns, path)
		for method, op := range operations(item) {
			key := method + " " + path
			keyed := slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool { return p.Name == idempotencyHeader })
			t.infos[key] = routeInfo{
				body: op.RequestBody != nil, stream: takesLines(op), keyed: keyed, long: t.long[key], fields: bodyFields(doc, op),
			}
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
	slices.SortFunc(t.patterns, func(a, b string) int { // what has fewer parameters matches first: tokens/bulk is no serial
		return cmp.Or(strings.Count(a, "{")-strings.Count(b, "{"), strings.Compare(a, b))
	})
}

func takesLines(op *huma.Operation) bool {
	return op.RequestBody != nil && op.RequestBody.Content[ndjsonType] != nil
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

package api

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"

	"ramzban/api/wire"
	"ramzban/keyservice"
)

const (
	openapiPath = "/openapi.json"
	docsPath    = "/docs"
	certificate = "client-certificate" // the name of the security scheme
)

// huma keeps these for the whole process: every API in it gets problem documents, exact field names, and arrays that
// may not be null.
func init() {
	huma.NewError = func(int, string, ...error) huma.StatusError { return &Problem{} }
	huma.NewErrorWithContext = humaProblem
	huma.ValidateStrictCasing = true
	huma.DefaultArrayNullable = false
}

// humaConfig leaves huma's own documentation routes, schema links and content negotiation out.
func humaConfig(version string) huma.Config {
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "Ramzban", Version: version,
				Description: "Is this one-time password genuine, unused, and meant for this use? The secret behind every password " +
					"stays inside an HSM.\n\nCallers are known by their client certificate (TLS 1.3); each route names the role it " +
					"needs. Errors are RFC 9457 problem documents with a stable `code`; their texts may change.",
			},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{certificate: {
					Type: "mutualTLS", Description: "A certificate whose name (URI SAN, else CN) is a configured client's. The scopes listed are roles.",
				}},
			},
			Extensions: map[string]any{"x-problem-codes": codeList()},
		},
		// "json" is what huma looks up for application/problem+json.
		Formats: map[string]huma.Format{"application/json": jsonFormat, "json": jsonFormat}, DefaultFormat: "application/json",
		RejectUnknownQueryParameters: true,
	}
}

// describedCode is one row of the error map as documented.
type describedCode struct {
	Code       string `json:"code"`
	Status     int    `json:"status"`
	Title      string `json:"title"`
	Detail     string `json:"detail"`
	RetryAfter string `json:"retry_after_seconds,omitempty"`
}

func codeList() []describedCode {
	var list []describedCode
	for _, c := range codesOf(meanings) {
		m := meanings[c]
		list = append(list, describedCode{c, m.status, m.title, m.detail, retryAfter(c)})
	}
	return list
}

// shared is what every route may answer; certified, besides, every route that needs a certificate.
var (
	shared = []string{
		wire.CodeRequestMalformed, wire.CodeRequestTimeout, wire.CodeHeaderTooLarge, wire.CodeBodyTooLarge,
		wire.CodeEncodingUnsupported, wire.CodeTooManyRequests, string(keyservice.CodeInvalid), string(keyservice.CodeInternal),
	}
	certified = []string{
		wire.CodeCertificateRequired, wire.CodeCertificateExpired, wire.CodeCertificateRevoked, wire.CodeCertificateUnknown,
		string(keyservice.CodeDenied), string(keyservice.CodeHSMUnavailable), string(keyservice.CodeStorageUnavailable), string(keyservice.CodeStorageFull),
		string(keyservice.CodeOutcomeUnknown), string(keyservice.CodeBusy),
	}
	bodied = []string{wire.CodeBodyRequired, wire.CodeBodyMalformed, wire.CodeMediaUnsupported}
)

// operation documents a route: its role, and every code it can answer, by status.
func (r route) operation(api huma.API) huma.Operation {
	codes := append(append([]string{}, shared...), certified...)
	for _, c := range r.codes {
		codes = append(codes, string(c))
	}
	if r.body {
		codes = append(codes, bodied...)
	} else {
		codes = append(codes, wire.CodeBodyUnexpected)
	}
	if r.keyed {
		codes = append(codes, string(keyservice.CodeKeyReused))
	}
	responses := problemResponses(api, codes)
	if r.keyed {
		replayable(responses, r.status)
	}
	return huma.Operation{
		OperationID: r.id, Method: r.method, Path: r.path, Summary: r.summary,
		Description:   r.description,
		DefaultStatus: r.status, Tags: []string{string(r.role)}, MaxBodyBytes: -1,
		Security:   []map[string][]string{{certificate: {string(r.role)}}},
		Responses:  responses,
		Extensions: map[string]any{"x-role": string(r.role)},
	}
}

// replayable documents the mark of a repeated answer: on success, and on the refusals that a use case decides.
func replayable(responses map[string]*huma.Response, success int) {
	responses[strconv.Itoa(success)] = &huma.Response{}
	for _, status := range []int{success, http.StatusForbidden, http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity, http.StatusTooManyRequests} {
		if r := responses[strconv.Itoa(status)]; r != nil {
			r.Headers = map[string]*huma.Param{replayedHeader: {
				Description: replayedDescription, Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{"true"}},
			}}
		}
	}
}

func (s *Server) timeOperation() huma.Operation {
	return huma.Operation{
		OperationID: "time", Method: get, Path: "/v1/time", Summary: "Tell the server's clock",
		Description:   "For phones whose clock is wrong. Anyone may ask; no certificate is needed.",
		DefaultStatus: http.StatusOK, Tags: []string{"anyone"}, Responses: problemResponses(s.huma, append([]string{wire.CodeBodyUnexpected}, shared...)),
	}
}

// exampleID has the form requestID makes.
const exampleID = "K7QXN3W5ZB2MHT4YLCRD6VJPAE"

// problemResponses documents the codes of a route with an example of each, under their statuses.
func problemResponses(api huma.API, codes []string) map[string]*huma.Response {
	schema := api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Problem](), true, "Problem")
	rs := map[string]*huma.Response{}
	some := map[string]meaning{}
	for _, c := range codes {
		some[c] = meanings[c]
	}
	for _, c := range codesOf(some) {
		m := some[c]
		status := strconv.Itoa(m.status)
		if rs[status] == nil {
			rs[status] = &huma.Response{
				Description: http.StatusText(m.status) + ":",
				Content:     map[string]*huma.MediaType{problemType: {Schema: schema, Examples: map[string]*huma.Example{}}},
			}
		}
		rs[status].Description += " `" + c + "`"
		x := exchange{id: exampleID}
		rs[status].Content[problemType].Examples[c] = &huma.Example{Summary: m.title, Value: x.problem(c, "")}
	}
	return rs
}

// The documentation page: one file each, put together at start, with nothing from anywhere else.
var (
	//go:embed docs.html
	docsHTML string
	//go:embed docs.css
	docsCSS string
	//go:embed docs.js
	docsJS string
)

// documents serves the OpenAPI document and the page that shows it.
func (s *Server) documents() error {
	doc, err := json.Marshal(s.huma.OpenAPI())
	if err != nil {
		return fmt.Errorf("api: encoding the OpenAPI document: %w", err)
	}
	page := strings.NewReplacer("/*CSS*/", docsCSS, "/*JS*/", docsJS).Replace(docsHTML)
	policy := "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
		"script-src '" + digest(docsJS) + "'; style-src '" + digest(docsCSS) + "'"
	s.app.Add(get, openapiPath, func(c *fiber.Ctx) error {
		c.Set(fiber.HeaderContentType, "application/json")
		return c.Send(doc)
	})
	s.app.Add(get, docsPath, func(c *fiber.Ctx) error {
		c.Set(fiber.HeaderContentType, "text/html; charset=utf-8")
		c.Set(fiber.HeaderContentSecurityPolicy, policy)
		c.Set(fiber.HeaderReferrerPolicy, "no-referrer")
		return c.SendString(page)
	})
	return nil
}

// digest names a text in a Content-Security-Policy.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

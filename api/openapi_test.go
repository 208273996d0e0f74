package api_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// document is the part of the OpenAPI document that the tests read.
type document struct {
	OpenAPI    string                          `json:"openapi"`
	Paths      map[string]map[string]operation `json:"paths"`
	Components struct {
		Schemas map[string]schema `json:"schemas"`
	} `json:"components"`
	Codes []struct {
		Code   string `json:"code"`
		Status int    `json:"status"`
		Title  string `json:"title"`
		Detail string `json:"detail"`
	} `json:"x-problem-codes"`
}

type operation struct {
	ID          string                `json:"operationId"`
	Summary     string                `json:"summary"`
	Description string                `json:"description"`
	Role        string                `json:"x-role"`
	Security    []map[string][]string `json:"security"`
	Body        *struct {
		Content map[string]media `json:"content"`
	} `json:"requestBody"`
	Parameters []parameter `json:"parameters"`
	Responses  map[string]struct {
		Description string `json:"description"`
		Headers     map[string]struct {
			Description string `json:"description"`
		} `json:"headers"`
		Content map[string]media `json:"content"`
	} `json:"responses"`
}

type parameter struct {
	Name        string `json:"name"`
	In          string `json:"in"`
	Description string `json:"description"`
	Required    bool   `json:"required"`
	Schema      struct {
		Pattern string `json:"pattern"`
	} `json:"schema"`
}

type media struct {
	Schema   schema                     `json:"schema"`
	Example  json.RawMessage            `json:"example"`
	Examples map[string]json.RawMessage `json:"examples"`
}

type schema struct {
	Ref         string            `json:"$ref"`
	OneOf       []schema          `json:"oneOf"`
	Description string            `json:"description"`
	Properties  map[string]schema `json:"properties"`
	Additional  *bool             `json:"additionalProperties"`
}

func (w *world) document(t testing.TB) document {
	t.Helper()
	r := w.send("", "GET", "/openapi.json", "")
	require.Equal(t, 200, r.status)
	var d document
	require.NoError(t, json.Unmarshal([]byte(r.body), &d))
	return d
}

// TestOpenAPIIsComplete: every route says what it does, who may call it, what it takes and answers, and every problem
// with its codes; every field says what it means.
func TestOpenAPIIsComplete(t *testing.T) {
	d := start(t, &recorder{}, nil).document(t)
	require.Equal(t, "3.1.0", d.OpenAPI)
	listed := map[string]int{}
	for _, c := range d.Codes {
		require.NotEmpty(t, c.Title)
		require.GreaterOrEqual(t, len(strings.Fields(c.Detail)), 4, "what to do: "+c.Code)
		listed[c.Code] = c.Status
	}
	for path, item := range d.Paths {
		for method, op := range item {
			where := method + " " + path
			require.NotEmpty(t, op.ID, where)
			require.NotEmpty(t, op.Summary, where)
			require.NotEmpty(t, op.Description, where)
			if path != "/v1/time" {
				require.Equal(t, []map[string][]string{{"client-certificate": {op.Role}}}, op.Security, where)
			}
			for _, p := range op.Parameters {
				require.NotEmpty(t, p.Description, where+" "+p.Name)
				if p.In == "path" {
					form := regexp.MustCompile(p.Schema.Pattern)
					require.True(t, form.MatchString("402519938461") || form.MatchString("5d0f6f3c1b7e49a2b8a1c2d3e4f50617"), where)
					require.False(t, form.MatchString(""), where)
				}
			}
			require.Contains(t, op.Responses["429"].Content["application/problem+json"].Examples, "too_many_requests", where)
			for status, r := range op.Responses {
				checkResponse(t, where+" "+status, status, r.Content, listed)
			}
		}
	}
	for name, s := range d.Components.Schemas {
		require.NotNil(t, s.Additional, name)
		require.False(t, *s.Additional, name)
		for field, p := range s.Properties {
			require.NotEmpty(t, p.Description, name+"."+field)
		}
	}
}

// TestDocumentedExamplesAreReal: the examples of problems carry a request id as an answer does; no description repeats
// the role; and the route says what becomes of a use that is not configured.
func TestDocumentedExamplesAreReal(t *testing.T) {
	w := start(t, &recorder{}, nil)
	form := regexp.MustCompile("^[A-Z2-7]{26}$")
	require.Regexp(t, form, w.send("", "GET", "/v1/nothing", "").problem(t).RequestID)
	d := w.document(t)
	for path, item := range d.Paths {
		for method, op := range item {
			require.NotContains(t, op.Description, "Role:", method+" "+path)
			for status, r := range op.Responses {
				for code, e := range r.Content["application/problem+json"].Examples {
					var example struct {
						Value struct {
							RequestID string `json:"request_id"`
						} `json:"value"`
					}
					require.NoError(t, json.Unmarshal(e, &example))
					require.Regexp(t, form, example.Value.RequestID, method+" "+path+" "+status+" "+code)
				}
			}
		}
	}
	verify := d.Paths["/v1/verifications"]["post"].Description
	require.Contains(t, verify, "`request_invalid`")
	require.Contains(t, verify, "`not_connected`")
}

func checkResponse(t *testing.T, where, status string, content map[string]media, listed map[string]int) {
	t.Helper()
	if status < "400" {
		if lines, are := content["application/x-ndjson"]; are {
			require.Len(t, lines.Schema.OneOf, 2, where)
			return
		}
		if _, file := content["application/octet-stream"]; file {
			return
		}
		require.NotEmpty(t, content["application/json"].Schema.Ref, where)
		return
	}
	m, is := content["application/problem+json"]
	require.True(t, is, where)
	require.Equal(t, "#/components/schemas/Problem", m.Schema.Ref, where)
	require.NotEmpty(t, m.Examples, where)
	for code := range m.Examples {
		require.Equal(t, status, strconv.Itoa(listed[code]), where+" "+code)
	}
}

// TestEveryCodeHasARow reads the codes from the sources of the use cases and the wire types: none may be missing in the
// error map, and the map holds no other.
func TestEveryCodeHasARow(t *testing.T) {
	var listed []string
	for _, c := range start(t, &recorder{}, nil).document(t).Codes {
		listed = append(listed, c.Code)
		require.NotEqual(t, 500, map[bool]int{true: c.Status}[c.Code != "internal"], "only internal is a 500")
	}
	declared := append(codesIn(t, "../keyservice"), codesIn(t, "wire")...)
	require.Greater(t, len(declared), 35)
	slices.Sort(declared)
	slices.Sort(listed)
	require.Equal(t, declared, listed)
}

// codesIn returns the values of the constants named Code… in one package.
func codesIn(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	var codes []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		ast.Inspect(f, func(n ast.Node) bool {
			v, is := n.(*ast.ValueSpec)
			if !is || !strings.HasPrefix(v.Names[0].Name, "Code") || len(v.Values) != 1 {
				return true
			}
			if lit, is := v.Values[0].(*ast.BasicLit); is && lit.Kind == token.STRING {
				code, err := strconv.Unquote(lit.Value)
				require.NoError(t, err)
				codes = append(codes, code)
			}
			return true
		})
	}
	return codes
}

// TestDocsPageNeedsNothing: the page is one document that runs only its own script and style, and asks for nothing but
// the OpenAPI document.
func TestDocsPageNeedsNothing(t *testing.T) {
	r := start(t, &recorder{}, nil).send("", "GET", "/docs", "")
	require.Equal(t, 200, r.status)
	require.Equal(t, "text/html; charset=utf-8", r.header.Get("Content-Type"))
	policy := r.header.Get("Content-Security-Policy")
	require.True(t, strings.HasPrefix(policy, "default-src 'none'; connect-src 'self';"), policy)
	require.NotContains(t, policy, "unsafe")
	for tag, directive := range map[string]string{"script": "script-src", "style": "style-src"} {
		inner := regexp.MustCompile(`(?s)<`+tag+`>(.*?)</`+tag+`>`).FindAllStringSubmatch(r.body, -1)
		require.Len(t, inner, 1)
		require.Greater(t, len(inner[0][1]), 500)
		sum := sha256.Sum256([]byte(inner[0][1]))
		require.Contains(t, policy, directive+" 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	}
	require.NotRegexp(t, regexp.MustCompile(`(?i)https?://|src=|@import|url\(|innerHTML|\beval\b| on[a-z]+=`), r.body)
	require.Regexp(t, regexp.MustCompile(`<noscript>.*<a href="/openapi\.json">.*</noscript>`), r.body)
	require.Equal(t, []string{`fetch("/openapi.json")`}, regexp.MustCompile(`fetch\([^)]*\)`).FindAllString(r.body, -1))
}

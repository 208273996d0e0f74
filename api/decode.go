package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"
)

// maxDepth bounds the nesting of a body; the deepest route needs two levels.
const maxDepth = 16

// What can be wrong with a body before its form is looked at. The texts repeat nothing of the body.
var (
	errNotUTF8   = errors.New("the body is not UTF-8")
	errNotJSON   = errors.New("the body is not JSON")
	errTrailing  = errors.New("something follows the JSON document")
	errDuplicate = errors.New("a field is given twice")
	errTooDeep   = errors.New("the body is nested too deeply")
	errForm      = errors.New("a value does not have the documented form")
)

var bodyFaults = []error{errNotUTF8, errNotJSON, errTrailing, errDuplicate, errTooDeep}

// jsonFormat reads strictly and writes as huma does.
var jsonFormat = huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: unmarshalBody}

// unmarshalBody decodes a body. huma calls it twice: into any, to hold it against the schema, and then into the wire
// type. encoding/json takes the last of two equal fields and mends broken text; here both are refused.
func unmarshalBody(body []byte, into any) error {
	if _, first := into.(*any); first {
		if err := checkDocument(body); err != nil {
			return err
		}
	}
	if json.Unmarshal(body, into) != nil { // its error quotes the body
		return errForm
	}
	return nil
}

// checkDocument returns nil if body is one JSON document in UTF-8 without duplicate names.
func checkDocument(body []byte) error {
	if !utf8.Valid(body) {
		return errNotUTF8
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := checkValue(dec, 0); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errTrailing
	}
	return nil
}

func checkValue(dec *json.Decoder, depth int) error {
	t, err := dec.Token()
	if err != nil {
		return errNotJSON
	}
	open, nested := t.(json.Delim)
	if !nested {
		return nil
	}
	if depth == maxDepth {
		return errTooDeep
	}
	names := map[string]bool{}
	for dec.More() {
		if open == '{' {
			if err := checkName(dec, names); err != nil {
				return err
			}
		}
		if err := checkValue(dec, depth+1); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return errNotJSON
	}
	return nil
}

func checkName(dec *json.Decoder, seen map[string]bool) error {
	t, err := dec.Token()
	name, isName := t.(string)
	switch {
	case err != nil || !isName:
		return errNotJSON
	case seen[name]:
		return errDuplicate
	}
	seen[name] = true
	return nil
}

// bodyFault is the text of the fault, if it is one of ours; huma hands on nothing else of an error.
func bodyFault(errs []error) string {
	for _, err := range errs {
		var d *huma.ErrorDetail
		if errors.As(err, &d) && slices.ContainsFunc(bodyFaults, func(f error) bool { return f.Error() == d.Message }) {
			return d.Message
		}
	}
	return ""
}

// places says where a request is wrong and what is expected there. huma's messages come from the schema; the place may
// repeat the names of the request's own fields, so it is cut off at the first name the API does not know.
func (x *exchange) places(errs []error) []string {
	var places []string
	for _, err := range errs {
		var d *huma.ErrorDetail
		if errors.As(err, &d) {
			places = append(places, x.fault(x.known(d.Location), d.Message))
		}
	}
	slices.Sort(places)
	return slices.Compact(places)
}

// fault puts a place and huma's message together. An unknown field's own name may be anything, a card number too, so the
// names that would have been right stand in its stead.
func (x *exchange) fault(place, message string) string {
	if message != validation.MsgUnexpectedProperty {
		return place + ": " + message
	}
	object := place
	for x.fields[object] == nil && strings.Contains(object, ".") { // the field's name is one that another object has
		object = object[:strings.LastIndex(object, ".")]
	}
	return object + ": an unknown field stands in " + object + "; known are " + strings.Join(x.fields[object], ", ")
}

func (x *exchange) known(place string) string {
	var kept []string
	for name := range strings.SplitSeq(place, ".") {
		bare, _, _ := strings.Cut(name, "[")
		if !x.names[bare] {
			break
		}
		kept = append(kept, bare)
	}
	if len(kept) == 0 {
		return "request"
	}
	return strings.Join(kept, ".")
}

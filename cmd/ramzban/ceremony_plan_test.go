package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
)

func TestExamplePlanIsAPlan(t *testing.T) {
	p, err := loadPlan(writeFile(t, "plan.yaml", examplePlan))
	require.NoError(t, err)
	require.Len(t, p.keys(), 9)
}

func TestExamplePlanExplainsEveryKey(t *testing.T) {
	lines := strings.Split(examplePlan, "\n")
	inside := regexp.MustCompile(`[{-] custodian:|, kcv:`) // a component is one line with one comment
	for _, key := range yamlKeys(reflect.TypeFor[Plan]()) {
		if key == "" { // what is not in the file
			continue
		}
		line := regexp.MustCompile(`^\s*(# )?(- )?(# - \{|\{)?` + key + `:`)
		at := -1
		for i, l := range lines {
			if line.MatchString(l) {
				at = i
				break
			}
		}
		if at < 0 {
			require.Regexp(t, inside, examplePlan, "%s is not in the example", key)
			continue
		}
		require.Contains(t, lines[at-1], "#", "%s has no comment above it", key)
	}
}

func TestEveryPlanFieldIsDocumented(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "ceremony_plan.go", nil, parser.ParseComments)
	require.NoError(t, err)
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.StructType); ok {
			for _, f := range s.Fields.List {
				if f.Tag != nil {
					require.NotEmpty(t, f.Doc.Text(), "%s has no comment", f.Names[0].Name)
				}
			}
		}
		return true
	})
}

func TestPlansAreReadStrictly(t *testing.T) {
	typed := strings.Replace(examplePlan, "label: wrap\n", "label: wrap\n    kcv: 1F9C04\n    components: [{custodian: leila, kcv: 112233}, {custodian: reza, kcv: 445566}]\n", 1)
	typed = strings.Replace(typed, "    origin: generate", "    origin: components", 1)
	_, err := loadPlan(writeFile(t, "plan.yaml", typed))
	require.NoError(t, err)
	for says, c := range map[string]struct{ in, old, new string }{
		"line 1: unknown field":                           {examplePlan, "# A plan of a", "x: 1 #"},
		"line 14: unknown field":                          {examplePlan, "  pin_file: /etc/ramzban/hsm.pin", "  pin: 98765"},
		"hsm.pin_file: give either":                       {examplePlan, "  pin_file: /etc/ramzban/hsm.pin", ""},
		`hsm.profile: no HSM profile is named "other"`:    {examplePlan, "profile: softhsm", "profile: other"},
		"officers: name at least two persons":             {examplePlan, "[sara, omid]", "[sara]"},
		"officers: the same person is named twice":        {examplePlan, "[sara, omid]", "[sara, omid, sara]"},
		`officers: " " is no name`:                        {examplePlan, "[sara, omid]", `[sara, " "]`},
		"output: name both files":                         {examplePlan, "  transcript: /etc/ramzban/ceremony-1.json", ""},
		"output: known_answers and transcript":            {examplePlan, "ceremony-1.json", "./known-answer"},
		"the value must be a key check value":             {typed, "1F9C04", "1F9C0"},
		"keys[0].components: name at least two persons":   {typed, ", {custodian: reza, kcv: 445566}", ""},
		"keys[0].components: the same person":             {typed, "custodian: reza", "custodian: leila"},
		"keys[0].components[1].kcv: each component needs": {typed, ", kcv: 445566", ""},
		"keys[0].components: only a key of origin":        {typed, "    origin: components", "    origin: vendor-clone"},
		"more than one YAML document":                     {examplePlan, "# The names of those", "---\nx: 1 #"},
		"ramzban ceremony example":                        {"", "", ""},
	} {
		require.Contains(t, c.in, c.old, says)
		path := writeFile(t, "plan.yaml", strings.Replace(c.in, c.old, c.new, 1))
		_, err := loadPlan(path)
		require.ErrorIs(t, err, errConfiguration, says)
		require.ErrorContains(t, err, says)
		require.ErrorContains(t, err, path)
		require.NotContains(t, err.Error(), "\n")
		require.NotContains(t, err.Error(), "98765", "a value that may be a secret is shown")
	}
}

// YAML takes many key check values for numbers.
func TestKeyCheckValuesThatLookLikeNumbers(t *testing.T) {
	for _, kcv := range []string{"112233", "001122", "000000", "1E2345", "0E0000", "0b1010", "0o1122", "ABCDEF", "abcdef", "'12 '", "0123456789012345"} {
		var c PlanComponent
		err := yaml.UnmarshalWithOptions([]byte("{custodian: a, kcv: "+kcv+"}"), &c, yaml.Strict())
		if strings.ContainsAny(kcv, "o' ") {
			require.Error(t, err, kcv)
			continue
		}
		require.NoError(t, err, kcv)
		require.Equal(t, strings.ToUpper(kcv), c.KCV.String())
		out, err := yaml.Marshal(c)
		require.NoError(t, err)
		var again PlanComponent
		require.NoError(t, yaml.Unmarshal(out, &again))
		require.Equal(t, c, again)
	}
}

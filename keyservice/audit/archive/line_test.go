package archive

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
)

// Everything that an entry says stands readable in its line.
func TestEveryFieldOfAnEntryIsReadable(t *testing.T) {
	e := audit.Entry{}
	fill(reflect.ValueOf(&e).Elem())
	leaf, err := audit.Encode(e)
	require.NoError(t, err)
	b, _, err := render(7, leaf)
	require.NoError(t, err)
	var said map[string]any
	require.NoError(t, json.Unmarshal(b, &said))
	require.Len(t, said, reflect.TypeFor[audit.Entry]().NumField()-1+2, "all but the schema, and index and leaf: %s", b)
	for name, v := range said {
		require.NotEmpty(t, v, name)
	}
	l, err := readLine(b)
	require.NoError(t, err)
	require.True(t, l.exact)
	require.Equal(t, uint64(7), l.index)
	require.Equal(t, leaf, l.leaf)
}

// fill makes every field something else than its zero value.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.String:
		v.SetString("x<&>\u2028")
	case reflect.Int64:
		v.SetInt(1)
	case reflect.Uint64, reflect.Uint8, reflect.Uint32:
		v.SetUint(1)
	}
}

func TestWhatIsNoLineIsRefused(t *testing.T) {
	for _, b := range []string{"", "\n", "{}", "[]", `{"index":1}`, `{"index":1,"leaf":"AA=="}`, `{"index":-1,"leaf":""}`, `{"leaf":""}`} {
		_, err := readLine([]byte(b))
		require.Error(t, err, b)
	}
}

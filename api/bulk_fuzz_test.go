package api_test

import (
	"crypto/rand"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzBulk sends any lines through the whole real service: the stream always ends with a summary that counts its answers,
// no line meets a fault of the server, and neither answers nor log repeat what stands in a line but for its key.
func FuzzBulk(f *testing.F) {
	b := openBank(f)
	b.as("issuer")
	end := func(n string) string { return `{"end":true,"lines":` + n + `}` }
	for _, text := range []string{
		bulkText(f, bulkLine(1)) + end("1"), strings.Repeat(bulkText(f, bulkLine(2)), 3) + end("3"), "MARKER\n" + end("1"), "{\"MARKER\":1}\n" + end("1"), end("0"), end("-1"),
		end("1e9"), end("0.5"), end("0") + "\n" + end("0"), `{"end":"MARKER","lines":0}`, `{"end":true,"lines":0,"MARKER":0}`, "\n\n\n", "", "\xff\n", "null\n", "[]\n", "\r\n", "{}\r\n" + end("1") + "\r\n",
		`{"key":"k","token":{"class":"card","subject":"MARKER","channel":"app","profile":"MARKER","uses":["MARKER"]}}` + "\n" + end("1"),
		`{"key":"","token":null}` + "\n" + end("1"), `{"key":7,"token":{"MARKER":"MARKER"}}` + "\n", strings.Repeat("a", 9000) + "\n" + end("1"), strings.Repeat("[", 8000) + "\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		unique := rand.Text()
		text = strings.ReplaceAll(text, marker, unique)
		b.log.take()
		r, err := b.try(b.as("issuer"), "POST", bulkPath, text, "Content-Type: application/x-ndjson")
		require.NoError(t, err)
		if r.status != 200 {
			require.Equal(t, "body_required", r.problem(t).Code)
			return
		}
		got := readBulk(t, strings.NewReader(r.body))
		require.NotNil(t, got.summary)
		require.Equal(t, len(got.answers), got.summary.Lines)
		require.Equal(t, got.summary.Lines, got.summary.Issued+got.summary.Repeated+got.summary.Refused)
		require.Equal(t, got.summary.Complete, got.summary.Problem == nil)
		for _, a := range got.answers {
			require.Equal(t, a.Problem == nil, a.Serial != "")
			if a.Problem != nil {
				require.Less(t, a.Problem.Status, 500, a.Problem)
				require.NotContains(t, a.Problem.Detail+strings.Join(a.Problem.Errors, ""), unique)
			}
		}
		require.NotContains(t, b.log.take(), unique)
	})
}

package audit_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
)

func TestOffersReadBackAsWritten(t *testing.T) {
	h := tlog.RecordHash([]byte("entry"))
	for _, o := range []audit.Offer{
		{Note: []byte("note\n")}, {Old: 12, Note: []byte("text\n\n— name AAAA\n"), Proof: tlog.TreeProof{h, h}},
	} {
		got, err := audit.ParseOffer(o.Encode())
		require.NoError(t, err)
		require.Equal(t, o, got)
	}
	require.Equal(t, "old 12\n"+h.String()+"\n\nnote\n", string(audit.Offer{Old: 12, Proof: tlog.TreeProof{h}, Note: []byte("note\n")}.Encode()))
}

func TestWhatIsNoOffer(t *testing.T) {
	hash := tlog.RecordHash(nil).String() + "\n"
	for _, body := range []string{
		"", "old 0", "old 0\n", "old 0\nnote", "new 0\n\nnote", "old -1\n\nnote", "old 01\n\nnote", "old 1\nx\n\nnote", "old +1\n\nnote",
		"old 1\n" + strings.Repeat(hash, 64) + "\nnote", "old 0\n\n" + strings.Repeat("x", audit.MaxOffer), "\n\nnote",
	} {
		_, err := audit.ParseOffer([]byte(body))
		require.ErrorIs(t, err, audit.ErrOffer, "%.40q", body)
	}
}

// Whatever bytes are taken for an offer, reading them ends in one that is written the same, or in an error.
func FuzzParseOffer(f *testing.F) {
	f.Add([]byte("old 12\n" + tlog.RecordHash(nil).String() + "\n\nnote\n"))
	f.Add([]byte("old 0\n\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		o, err := audit.ParseOffer(body)
		if err == nil {
			require.Equal(t, string(body), string(o.Encode()))
		}
	})
}

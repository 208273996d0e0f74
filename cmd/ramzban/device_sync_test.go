package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/client"
	"ramzban/keyservice/otp"
)

// A phone whose clock is wrong makes the right passwords once it has asked the time.
func TestSyncCorrectsTheClock(t *testing.T) {
	p := pinPhone(t)
	server := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "/v1/time", r.URL.Path)
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"time":%q}`, server.Format(time.RFC3339Nano))
	}))
	defer srv.Close()
	api, err := client.New(client.Options{BaseURL: srv.URL,
		CAFile: writeFile(t, "ca.crt", string(encodePEM("CERTIFICATE", srv.Certificate().Raw)))})
	require.NoError(t, err)
	defer api.Close()

	for _, off := range []time.Duration{7 * time.Minute, -26 * time.Hour, 1500 * time.Millisecond, 0} {
		reads := []time.Time{server.Add(off), server.Add(off + 4*time.Second)} // before the question, after the answer
		offset, err := p.sync(t.Context(), api, func() time.Time {
			now := reads[0]
			reads = reads[1:]
			return now
		})
		require.NoError(t, err)
		require.Equal(t, -off-2*time.Second, offset)

		token, err := p.token()
		require.NoError(t, err)
		corrected, _, err := token.next(server.Add(off+2*time.Second), withPIN(rightPIN))
		require.NoError(t, err)
		token.Offset = 0
		right, _, err := token.next(server, withPIN(rightPIN))
		require.NoError(t, err)
		require.Equal(t, right.Reveal(), corrected.Reveal())
	}
}

// The clock button as a person presses it, against the real service; no certificate is needed.
func TestSyncFromTheCommandLine(t *testing.T) {
	s := startService(t)
	p := pinPhone(t)
	sync := []string{"device", "sync", "--dir", p.dir, "--url", "https://" + s.api, "--ca", s.pki("ca.crt")}
	out, err := exec.Command(ramzban, sync...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Regexp(t, `^the phone's clock is [0-9]\.[0-9]{3} s (behind|ahead of) the service's\n$`, string(out))

	_, stderr := runFailing(t, exitFailure, nil, append(sync, "--url", "https://"+freeAddress(t))...)
	requireOneLine(t, stderr, "asking the time", "is the service running")
	empty := filepath.Join(t.TempDir(), "phone")
	_, err = newPhone(empty)
	require.NoError(t, err)
	_, stderr = runFailing(t, exitFailure, nil, append(sync, "--dir", empty)...)
	requireOneLine(t, stderr, "no token", "ramzban device activate")
	require.NoError(t, p.save(phoneToken{Type: otp.HOTP, Hash: "SHA1", Digits: 6, Confirmed: true, Seed: []byte("x")}))
	_, stderr = runFailing(t, exitFailure, nil, sync...)
	requireOneLine(t, stderr, "needs no clock")
}

func TestAClockThatIsFarOffIsSaid(t *testing.T) {
	for offset, c := range map[time.Duration]struct {
		says   string
		warned bool
	}{
		0:                 {"0.000 s behind", false},
		time.Millisecond:  {"0.001 s behind", false},
		time.Hour:         {"3600.000 s behind", false},
		-time.Hour:        {"3600.000 s ahead of", false},
		61 * time.Minute:  {"3660.000 s behind", true},
		-61 * time.Minute: {"3660.000 s ahead of", true},
	} {
		var out, errs strings.Builder
		require.NoError(t, showOffset(&out, &errs, offset))
		require.Equal(t, "the phone's clock is "+c.says+" the service's\n", out.String())
		require.Equal(t, c.warned, strings.Contains(errs.String(), "more than an hour off"))
	}
}

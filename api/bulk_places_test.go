package api_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/api"
	"ramzban/api/wire"
	"ramzban/keyservice/authz"
)

// TestOnlySoManyStreams: a client may run 4 bulk issues and all together 16; who comes then is told to come again, and
// finds a place when one has ended.
func TestOnlySoManyStreams(t *testing.T) {
	entered, release := make(chan struct{}, 16), make(chan struct{})
	rec := &recorder{hook: func(_ context.Context, name string) error {
		if name == "issue" {
			entered <- struct{}{}
			<-release
		}
		return nil
	}}
	w := start(t, rec, func(o *api.Options) {
		clients := roleNames()
		for n := range 5 {
			name := fmt.Sprint("issuer-", n)
			clients = append(clients, authz.Client{Name: name, Certificates: []string{name}, Roles: []authz.Role{authz.Issuer}})
		}
		var err error
		o.Directory, err = authz.NewDirectory(clients)
		require.NoError(t, err)
	})
	empty := `{"end":true,"lines":0}`
	var wg sync.WaitGroup
	for n := range 4 {
		name := fmt.Sprint("issuer-", n)
		for range 4 {
			c := w.goClient(name)
			wg.Go(func() {
				_, err := c.BulkIssue(t.Context(), (&batch{n: 1}).next, (&batch{}).got)
				if err != nil {
					t.Error(err)
				}
			})
			<-entered
		}
		own := w.send(name, http.MethodPost, bulkPath, empty)
		require.Equal(t, 429, own.status)
		require.Equal(t, wire.CodeTooManyRequests, own.problem(t).Code)
		require.Equal(t, "1", own.header.Get("Retry-After"))
		if n < 3 {
			require.Equal(t, 200, w.send("issuer-4", http.MethodPost, bulkPath, empty).status, "nobody is kept out by others")
		}
	}
	r := w.send("issuer-4", http.MethodPost, bulkPath, empty)
	require.Equal(t, "busy", r.problem(t).Code)
	require.Equal(t, "1", r.header.Get("Retry-After"))
	close(release)
	wg.Wait()
	for range 2 * 16 { // one after another: each gives its place back
		require.Equal(t, 200, w.send("issuer-0", http.MethodPost, bulkPath, empty).status)
	}
}

package main

import (
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
)

func scrape(t *testing.T, s *service) string {
	t.Helper()
	resp, err := http.Get("http://" + s.ops + "/metrics")
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	return string(b)
}

func TestMetricsCountAndAlertsNameThem(t *testing.T) {
	s := startService(t)
	require.Contains(t, scrape(t, s), "ramzban_tampered_rows_total 0\n", "an alarm must see the first one")
	c, err := s.enrol(t.Context(), "counter-6", testCard(1))
	require.NoError(t, err)
	_, err = s.verify(t.Context(), c.serial, c.password(t))
	require.NoError(t, err)
	_, err = s.as("core-banking").Token(t.Context(), c.serial)
	require.Error(t, err)

	metrics := scrape(t, s)
	require.Contains(t, metrics, `ramzban_decisions_total{action="otp.verify",outcome="accepted",reason=""} 1`)
	require.Contains(t, metrics, `ramzban_decisions_total{action="token.read",outcome="denied",reason=""} 1`)
	require.Contains(t, metrics, "ramzban_hsm_enrolments_total 1\n")
	require.Contains(t, metrics, "ramzban_hsm_ready 1\n")
	require.Regexp(t, `ramzban_store_commit_seconds_count{outcome="committed"} [1-9]`, metrics)
	require.NotContains(t, metrics, c.serial)
	require.NotContains(t, metrics, c.card)

	for _, name := range alertMetrics(t) {
		if !strings.HasPrefix(name, "ramzban_postgres_") { // see TestServeOnPostgres
			require.Contains(t, metrics, "\n"+name, "an alert names a metric that does not exist")
		}
	}
}

// alertMetrics lists the metrics that the alerting rules name, and checks the rules' form.
func alertMetrics(t *testing.T) []string {
	b, err := os.ReadFile("deploy/alerts.yaml")
	require.NoError(t, err)
	var rules struct {
		Groups []struct {
			Name  string `yaml:"name"`
			Rules []struct {
				Alert       string            `yaml:"alert"`
				Expr        string            `yaml:"expr"`
				For         string            `yaml:"for"`
				Labels      map[string]string `yaml:"labels"`
				Annotations map[string]string `yaml:"annotations"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	require.NoError(t, yaml.UnmarshalWithOptions(b, &rules, yaml.Strict()))
	var names []string
	for _, r := range rules.Groups[0].Rules {
		require.NotEmpty(t, r.Annotations["summary"], r.Alert)
		require.NotEmpty(t, r.Annotations["action"], r.Alert)
		names = append(names, regexp.MustCompile(`ramzban_[a-z_]+`).FindAllString(r.Expr, -1)...)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	require.Greater(t, len(names), 8)
	return names
}

// The files for systems that do not run here name what exists.
func TestDeploymentFilesNameWhatExists(t *testing.T) {
	for _, file := range []string{"deploy/ramzban.service", "deploy/Containerfile"} {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, used := range regexp.MustCompile(`--[a-z]+(=\S+)? (/etc/ramzban/ramzban.yaml)|COPY ([a-z.]+)`).FindAllStringSubmatch(string(b), -1) {
			if used[3] != "" {
				_, err := os.Stat("../../" + used[3])
				require.NoError(t, err, "%s: %s", file, used[0])
				continue
			}
			require.True(t, strings.HasPrefix(used[0], "--config "), "%s: %s", file, used[0])
		}
	}
}

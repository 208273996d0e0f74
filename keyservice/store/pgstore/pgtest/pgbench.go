package pgtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

// What a verification writes, in bytes: a state row on the condition that it is unchanged, and an entry.
const (
	BenchValue = 300
	BenchEntry = 200
)

const benchRows = 256 * 64

// transactionEach is the same as single transactions: a row is read, updated if it is unchanged, and an entry inserted.
var transactionEach = fmt.Sprintf(`
\set key random(1, %d)
SELECT version AS seen FROM bench_rows WHERE key = int8send(:key) \gset
BEGIN;
UPDATE bench_rows SET value = decode(repeat('00', %d), 'hex'), version = version + 1 WHERE key = int8send(:key) AND version = :seen;
INSERT INTO bench_entries (entry) VALUES (decode(repeat('00', %d), 'hex'));
COMMIT;
`, benchRows, BenchValue, BenchEntry)

var tps = regexp.MustCompile(`tps = ([0-9.]+)`)

// Pgbench returns the transactions per second that 32 clients of pgbench reach, each transaction for itself. It makes its
// tables in the database postgres.
func (s *Server) Pgbench(b testing.TB) float64 {
	b.Helper()
	s.Exec(b, `DROP TABLE IF EXISTS bench_rows, bench_entries`,
		`CREATE TABLE bench_rows (key bytea PRIMARY KEY, value bytea NOT NULL, version bigint NOT NULL)`,
		`CREATE TABLE bench_entries (index bigserial PRIMARY KEY, entry bytea NOT NULL)`,
		fmt.Sprintf(`INSERT INTO bench_rows SELECT int8send(i), decode(repeat('00', %d), 'hex'), 1 FROM generate_series(1, %d) AS i`, BenchValue, benchRows))
	script := filepath.Join(b.TempDir(), "verify.sql")
	if err := os.WriteFile(script, []byte(transactionEach), 0o600); err != nil {
		b.Fatal(err)
	}
	out, err := exec.Command(s.Program("pgbench"), "--host="+s.Dir(), "--username=postgres", "--no-vacuum", "--protocol=prepared",
		"--client=32", "--jobs=2", "--time=3", "--file="+script, "postgres").CombinedOutput()
	found := tps.FindSubmatch(out)
	if err != nil || found == nil {
		b.Fatalf("pgbench: %v: %s", err, out)
	}
	reached, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		b.Fatal(err)
	}
	return reached
}

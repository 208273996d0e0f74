package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/client"
	"ramzban/api/wire"
	"ramzban/keyservice/store/pgstore/pgtest"
	fault "ramzban/softhsm/faultmodule"
)

// BenchmarkVerificationOnPostgres measures passwords accepted per second by the whole service on PostgreSQL (HTTP, mutual
// TLS, SoftHSM, fsync), with load, service and database on the same machine. Beside it, from the same run: what 32
// clients of pgbench reach with one transaction for each password, which updates one row on condition and inserts an
// entry.
func BenchmarkVerificationOnPostgres(b *testing.B) {
	c := startBench(b, 0, "a", "b")
	for _, nodes := range []int{1, 2} {
		for _, callers := range []int{32, 256} {
			b.Run(fmt.Sprintf("nodes=%d/callers=%d", nodes, callers), func(b *testing.B) {
				raw := c.server.Pgbench(b)
				reached := c.verify(b, nodes, callers)
				b.ReportMetric(reached, "verifications/s")
				b.ReportMetric(raw, "pgbench/s")
				b.ReportMetric(reached/raw, "x-pgbench")
			})
		}
	}
}

// slowSessions are few enough that both nodes, the database and the load find room on two cores while the HSMs are waited
// for. With 8, which is what a node has if nothing else is said, two nodes want more than two cores, and what is measured
// is the machine.
const slowSessions = 2

// BenchmarkSlowHSM measures the same with 2 ms more for every call of the PKCS#11 module, as over a network: then each
// node waits for its own HSM, and two do twice as much as one.
func BenchmarkSlowHSM(b *testing.B) {
	c := startBench(b, 2*time.Millisecond, "a", "b")
	var one float64
	for _, nodes := range []int{1, 2} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			reached := c.verify(b, nodes, 256)
			b.ReportMetric(reached, "verifications/s")
			if nodes == 1 {
				one = reached
			} else {
				b.ReportMetric(reached/one, "x-one-node")
			}
		})
	}
}

// benchCluster is nodes on one database, and customers.
type benchCluster struct {
	server    *pgtest.Server
	clients   [][]*client.Client // of each node
	customers []customer
}

func startBench(b *testing.B, delay time.Duration, nodes ...string) *benchCluster {
	c := &benchCluster{server: pgtest.StartOnDisk(b), customers: make([]customer, 256)}
	first := onPostgres(b, c.server.Database(b))
	var faults []*fault.Control
	for i, name := range nodes {
		n := first.another(b, name)
		f, err := fault.New(b.TempDir(), n.config.HSM.Module)
		require.NoError(b, err)
		b.Cleanup(func() { require.NoError(b, f.Close()) })
		faults = append(faults, f)
		n.config.HSM.Module = f.Module()
		if delay > 0 {
			n.config.HSM.Sessions = slowSessions
		}
		if i == 0 {
			n.startServing(b, "--new-database")
			for i := range c.customers {
				c.customers[i], err = n.enrol(b.Context(), "counter-6", testCard(i))
				require.NoError(b, err)
			}
		} else {
			n.startServing(b)
		}
		c.clients = append(c.clients, verifiers(b, n.service, len(c.customers)/64))
	}
	for nodes := range c.clients { // every customer's seed is unwrapped everywhere before anything is measured
		c.spread(b, nodes+1, len(c.customers), 4*len(c.customers))
	}
	for _, f := range faults {
		f.Delay(delay)
	}
	return c
}

// verify has b.N passwords verified by the first nodes, and returns how many in a second. Each node gets as many callers.
func (c *benchCluster) verify(b *testing.B, nodes, callers int) float64 {
	b.ResetTimer()
	c.spread(b, nodes, callers, b.N)
	b.StopTimer()
	return float64(b.N) / b.Elapsed().Seconds()
}

func (c *benchCluster) spread(b *testing.B, nodes, callers, n int) {
	spread(callers, int64(n), func(caller int) {
		h := &c.customers[caller]
		answer, err := c.clients[caller%nodes][caller/64].Verify(context.Background(), wire.VerificationRequest{
			Serial: h.serial, Use: testUse, OTP: h.password(b)})
		if err != nil || answer.Result != "accepted" {
			b.Errorf("not accepted: %v %v", answer.Reason, err)
		}
	})
}

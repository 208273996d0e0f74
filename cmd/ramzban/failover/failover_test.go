package failover

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store/pgstore/hatest"
)

// patience is for what takes a failover, on a busy machine.
const patience = 2 * time.Minute

// roles waits until the set is whole and returns who is what.
func roles(t *testing.T) hatest.Roles {
	t.Helper()
	r, err := theSet.Roles(patience)
	require.NoError(t, err)
	return r
}

// survive waits until the service goes on after a fault that has ended the primary, and when repair has brought it back.
func (l *load) survive(fault time.Time, was hatest.Roles, repair func() error) {
	l.t.Helper()
	took := l.recovered(fault)
	require.NoError(l.t, repair())
	now := roles(l.t)
	require.Greater(l.t, now.Timeline, was.Timeline, "no standby was promoted")
	l.waitForMore()
	l.t.Logf("primary %s, now %s; passwords were accepted again after %.1f s", was.Primary.Name, now.Primary.Name, took.Seconds())
}

// TestPrimaryKilled: every process of the primary is killed; later it is started again.
func TestPrimaryKilled(t *testing.T) {
	l := startLoad(t)
	was := roles(t)
	require.NoError(t, was.Primary.Kill())
	l.survive(time.Now(), was, was.Primary.Boot)
	l.check()
}

// TestPrimaryCutOff: the primary loses both networks. To everyone else it is silent.
func TestPrimaryCutOff(t *testing.T) {
	l := startLoad(t)
	was := roles(t)
	require.NoError(t, was.Primary.Cut(hatest.Servers, hatest.Clients))
	l.survive(time.Now(), was, was.Primary.Heal)
	l.check()
}

// TestPrimaryCutOffFromItsPeers: clients go on reaching a primary that is none any more, and does not know it yet.
func TestPrimaryCutOffFromItsPeers(t *testing.T) {
	l := startLoad(t)
	was := roles(t)
	require.NoError(t, was.Primary.Cut(hatest.Servers))
	l.survive(time.Now(), was, was.Primary.Heal)
	l.check()
}

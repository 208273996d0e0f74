package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A bank's HSM is lost, and replaced by another into which the custodians type the same components. The service goes on with
// the database as it is: a customer's next password is accepted, and what was used before stays used.
func TestALostHSMIsReplaced(t *testing.T) {
	d := deploy(t)
	d.config.Store.Badger.Dir = filepath.Join(t.TempDir(), "badger")
	install := func() {
		h := newHall(t)
		h.hold(strings.Join(h.components(), "\n"), "--execute")
		d.config.HSM.PINFile, d.config.HSM.KnownAnswerFile = h.plan.HSM.PINFile, h.plan.Output.KnownAnswers
		d.config.HSM.Environment = h.plan.HSM.Environment
	}
	install()
	d.launch("serve", "--new-database", "--config", writeConfig(t, d.config))
	d.waitReady()
	c, err := d.enrol(t.Context(), "counter-6", testCard(1))
	require.NoError(t, err)
	used := c.password(t)
	answer, err := d.verify(t.Context(), c.serial, used)
	require.NoError(t, err)
	require.Equal(t, "accepted", answer.Result)
	require.NoError(t, d.terminate())

	install() // the same components
	d.launch("serve", "--config", writeConfig(t, d.config))
	d.waitReady()
	answer, err = d.verify(t.Context(), c.serial, used)
	require.NoError(t, err)
	require.Equal(t, "refused", answer.Result)
	answer, err = d.verify(t.Context(), c.serial, c.password(t))
	require.NoError(t, err)
	require.Equal(t, "accepted", answer.Result)
	compared, err := d.as("auditor").CompareAudit(t.Context())
	require.NoError(t, err)
	require.Empty(t, compared.Discrepancies)
	require.NoError(t, d.terminate())
}

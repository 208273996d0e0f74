package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
	"ramzban/keyservice/audit"
)

// Part of the amount passed off as the end of the salt does not make the receipt one of another transaction.
func TestAReceiptIsOfOneTransaction(t *testing.T) {
	salt := []byte("sixteen bytes...")
	r := audit.Receipt{Transaction: audit.TransactionDigest(salt, "1500000", "IRR", "payee")}
	paid := func(amount string) string {
		b, err := json.Marshal(wire.Transaction{Amount: amount, Currency: "IRR", Payee: "payee"})
		require.NoError(t, err)
		file := filepath.Join(t.TempDir(), "paid.json")
		require.NoError(t, os.WriteFile(file, b, 0o600))
		return file
	}
	require.NoError(t, sameTransaction(r, salt, paid("1500000")))
	require.ErrorIs(t, sameTransaction(r, append(salt, '1'), paid("500000")), errNotSigned)
	require.ErrorIs(t, sameTransaction(r, salt, paid("500000")), errNotSigned)
}

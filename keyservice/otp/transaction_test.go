package otp_test

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

func transaction(amount, currency, payee string) otp.Transaction {
	return otp.Transaction{Amount: amount, Currency: currency, Payee: seed.NewSubject(payee)}
}

// The digests are those of
//
//	printf 'ramzban/transaction/1\000250000000\000IRR\0006037991234567893' | openssl dgst -sha256
//
// and the numbers Python's str(int(digest, 16) % 10**n).zfill(n).
func TestTransactionQuestion(t *testing.T) {
	large, small := transaction("250000000", "IRR", "6037991234567893"), transaction("250", "IRR", "6037991234567893")
	digest := large.Digest()
	require.Equal(t, "bc0836354660aa2086042035d898ac583a558c23e2c97b9371f731e3c9ed6e7d", hex.EncodeToString(digest[:]))
	for _, test := range []struct {
		of           otp.Transaction
		format, want string
	}{
		{large, "QH64", "bc0836354660aa2086042035d898ac583a558c23e2c97b9371f731e3c9ed6e7d"},
		{large, "QH32", "bc0836354660aa2086042035d898ac58"},
		{large, "QH08", "bc083635"},
		{large, "QA64", "bc0836354660aa2086042035d898ac583a558c23e2c97b9371f731e3c9ed6e7d"},
		{large, "QA32", "bc0836354660aa2086042035d898ac58"},
		{large, "QN64", "3834048045596279335324734759029294862336885951666501848304283261"},
		{large, "QN39", "759029294862336885951666501848304283261"},
		{large, "QN08", "04283261"},
		{small, "QN39", "008171413143003844532535648649577165514"}, // zeroes in front stay
		{small, "QN08", "77165514"},
	} {
		suite := parse(t, "OCRA-1:HOTP-SHA1-6:"+test.format)
		require.Equal(t, test.want, suite.TransactionQuestion(test.of), test.format)
		require.Equal(t, strings.Repeat("0", suite.Length), suite.EmptyQuestion())
	}
}

func transactions() *rapid.Generator[otp.Transaction] {
	return rapid.Custom(func(t *rapid.T) otp.Transaction {
		return transaction(rapid.StringMatching(`[1-9][0-9]{0,17}`).Draw(t, "amount"), rapid.StringMatching(`[A-Z]{3}`).Draw(t, "currency"),
			rapid.StringMatching(`[A-Za-z0-9._-]{1,64}`).Draw(t, "payee"))
	})
}

func shown(t otp.Transaction) string {
	return fmt.Sprintf("%q %q %q", t.Amount, t.Currency, t.Payee.Reveal())
}

// A question is of the suite's full length and form, and another for any other transaction, also for one that differs in
// one part only or has the same characters divided differently.
func TestAQuestionIsOfOneTransaction(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := transactions().Draw(t, "one"), transactions().Draw(t, "another")
		require.NoError(t, a.Validate(), shown(a))
		amount, currency, payee := a, a, a
		amount.Amount, currency.Currency, payee.Payee = b.Amount, b.Currency, b.Payee
		format := rapid.SampledFrom([]string{"QA", "QN", "QH"}).Draw(t, "format")
		s, err := otp.ParseSuite(fmt.Sprintf("OCRA-1:HOTP-SHA1-6:%s%02d", format, rapid.IntRange(39, 64).Draw(t, "length")))
		require.NoError(t, err)
		for _, other := range []otp.Transaction{b, amount, currency, payee} {
			require.Equal(t, shown(a) == shown(other), s.TransactionQuestion(a) == s.TransactionQuestion(other), "%s, %s", shown(a), shown(other))
			require.Len(t, s.TransactionQuestion(other), s.Length)
			_, err = s.Message(otp.Input{Question: s.TransactionQuestion(other)})
			require.NoError(t, err)
		}
	})
}

// No character can pass from one field to its neighbour.
func TestFieldsCannotBeShifted(t *testing.T) {
	s := parse(t, "OCRA-1:HOTP-SHA1-6:QH64")
	seen := map[string]string{}
	for _, v := range []otp.Transaction{
		transaction("1", "IRR", "1"), transaction("11", "IRR", "1"), transaction("1", "IRR", "11"), transaction("10", "IRR", "1"),
		transaction("1", "IRR", "IRR1"), transaction("1", "RRI", "RR1"), transaction("1", "IRR", "01"), transaction("1", "IRR", "a"),
		transaction("1", "IRR", "A"), transaction("1", "IRR", "1-"), transaction("1", "IRR", "1."),
	} {
		require.NoError(t, v.Validate(), shown(v))
		q := s.TransactionQuestion(v)
		require.Empty(t, seen[q], shown(v))
		seen[q] = shown(v)
	}
}

func TestTransactionsOfOtherFormsAreRefused(t *testing.T) {
	good := transaction("250000000", "IRR", "6037991234567893")
	require.NoError(t, good.Validate())
	require.NoError(t, transaction("999999999999999999", "USD", strings.Repeat("z", 64)).Validate())
	policy := signing()
	for what, bad := range map[string]otp.Transaction{
		"nothing":                    {},
		"no amount":                  transaction("", "IRR", "1"),
		"amount 0":                   transaction("0", "IRR", "1"),
		"amount with a zero":         transaction("01", "IRR", "1"),
		"negative amount":            transaction("-1", "IRR", "1"),
		"amount with a sign":         transaction("+1", "IRR", "1"),
		"amount with a point":        transaction("1.00", "IRR", "1"),
		"amount with a comma":        transaction("1,000", "IRR", "1"),
		"amount of 19 digits":        transaction("1000000000000000000", "IRR", "1"),
		"amount in other digits":     transaction("١", "IRR", "1"),
		"amount and a newline":       transaction("1\n", "IRR", "1"),
		"no currency":                transaction("1", "", "1"),
		"currency in lower case":     transaction("1", "irr", "1"),
		"currency of four":           transaction("1", "IRRR", "1"),
		"currency by number":         transaction("1", "364", "1"),
		"no payee":                   transaction("1", "IRR", ""),
		"payee with a space":         transaction("1", "IRR", "1 1"),
		"payee of 65":                transaction("1", "IRR", strings.Repeat("z", 65)),
		"payee with a slash":         transaction("1", "IRR", "a/b"),
		"payee with a zero byte":     transaction("1", "IRR", "1\x00"),
		"the separator in an amount": transaction("1\x00IRR", "IRR", "1"),
	} {
		require.ErrorIs(t, bad.Validate(), otp.ErrTransaction, what)
		_, err := policy.Message(1, nil, &bad)
		require.ErrorIs(t, err, otp.ErrTransaction, what)
	}
}

// A question binds when it holds 128 bits of the digest.
func TestBinds(t *testing.T) {
	for format, binds := range map[string]bool{
		"QH31": false, "QH32": true, "QH64": true, "QA31": false, "QA32": true, "QN38": false, "QN39": true, "QN08": false,
	} {
		require.Equal(t, binds, parse(t, "OCRA-1:HOTP-SHA1-6:"+format).Binds(), format)
	}
}

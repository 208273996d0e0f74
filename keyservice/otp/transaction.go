package otp

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/big"
	"regexp"
	"strings"

	"ramzban/keyservice/seed"
)

// ErrTransaction says what form a transaction has.
var ErrTransaction = errors.New("a transaction is an amount in the currency's smallest unit (1 to 18 digits, no leading zero), " +
	"a currency of three capital letters (ISO 4217) and a payee of 1 to 64 of the characters A-Z a-z 0-9 . _ -")

// Transaction is what a password may be bound to: dynamic linking to amount and payee. There is one way to write each,
// so that both sides digest the same bytes.
type Transaction struct {
	Amount   string       // in the currency's smallest unit
	Currency string       // ISO 4217, e.g. IRR
	Payee    seed.Subject // card number or account id
}

var (
	amountForm   = regexp.MustCompile(`^[1-9][0-9]{0,17}$`)
	currencyForm = regexp.MustCompile(`^[A-Z]{3}$`)
	payeeForm    = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
)

// Validate returns ErrTransaction unless amount, currency and payee have their one form.
func (t Transaction) Validate() error {
	if !amountForm.MatchString(t.Amount) || !currencyForm.MatchString(t.Currency) || !payeeForm.MatchString(t.Payee.Reveal()) {
		return ErrTransaction
	}
	return nil
}

// Digest is SHA-256 over "ramzban/transaction/1", amount, currency and payee, a zero byte between each two.
func (t Transaction) Digest() [sha256.Size]byte {
	return sha256.Sum256([]byte(strings.Join([]string{"ramzban/transaction/1", t.Amount, t.Currency, t.Payee.Reveal()}, "\x00")))
}

// bindingBits is how much of the digest a question must hold for a response to be bound to the transaction: with less, a
// thief could look for another payee that gives the same question.
const bindingBits = 128

// Binds says whether the suite's questions are long enough to bind a response to a transaction.
func (s Suite) Binds() bool {
	if s.Question == 'N' {
		return s.Length >= 39 // 10^39 > 2^128
	}
	return s.Length*4 >= bindingBits
}

// TransactionQuestion is the question that stands for a transaction, of the suite's full length: the first hexadecimal
// digits of its digest, or for a numeric question the digest as a big-endian number modulo 10 to the suite's length.
func (s Suite) TransactionQuestion(t Transaction) string {
	digest := t.Digest()
	if s.Question != 'N' {
		return hex.EncodeToString(digest[:])[:s.Length]
	}
	modulus := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(s.Length)), nil)
	digits := new(big.Int).Mod(new(big.Int).SetBytes(digest[:]), modulus).String()
	return strings.Repeat("0", s.Length-len(digits)) + digits
}

// EmptyQuestion is the question of a response that is bound to nothing: zeroes, of the suite's full length.
func (s Suite) EmptyQuestion() string { return strings.Repeat("0", s.Length) }

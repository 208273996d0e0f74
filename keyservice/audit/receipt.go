package audit

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// ErrReceipt: a text is not a receipt as this service writes them.
var ErrReceipt = errors.New("not a receipt of a verification")

// Receipt says what was decided of one password, to somebody who has only the audit log's public key. It is a signed note
// (https://c2sp.org/signed-note) of the name of the log that has the decision's entry, and its leaf is that entry's: what
// the receipt says can be held against the log.
//
// Who has a receipt cannot search card numbers with it: the subject is committed to with a salt that the service keeps, and
// the transaction with one that the caller got beside the receipt.
type Receipt struct {
	Origin      string
	Index       uint64 // of the decision's entry in that log
	Leaf        tlog.Hash
	Time        time.Time // of the decision, milliseconds
	Serial      string    // of the token; empty if a subject was named and nothing matched
	Commitment  []byte    // of the token's subject, 32 bytes; nil if there is no token
	Use         string
	Transaction []byte // TransactionDigest, 32 bytes; nil if there was none
	Bound       bool   // the password was made for the transaction
	Outcome     Outcome
	Reason      string // of a refusal
}

// receiptTitle is the first line. No origin of a checkpoint begins like it.
const receiptTitle = "ramzban-receipt/1"

const nothing = "-"

// Text is what is signed: a line for each field.
func (r Receipt) Text() string {
	transaction := nothing
	if r.Transaction != nil {
		transaction = base64.StdEncoding.EncodeToString(r.Transaction) + " " + boundWord(r.Bound)
	}
	return strings.Join([]string{
		receiptTitle, "log " + r.Origin, fmt.Sprintf("index %d", r.Index), "leaf " + r.Leaf.String(),
		timeWord + r.Time.UTC().Format(timeLayout), "serial " + orNothing(r.Serial),
		"subject " + orNothing(base64.StdEncoding.EncodeToString(r.Commitment)), "use " + orNothing(r.Use),
		"transaction " + transaction, "outcome " + string(r.Outcome), "reason " + orNothing(r.Reason), "",
	}, "\n")
}

func orNothing(s string) string {
	if s == "" {
		return nothing
	}
	return s
}

func boundWord(bound bool) string {
	if bound {
		return "bound"
	}
	return "unbound"
}

// ParseReceipt reads what Text wrote, and nothing else.
func ParseReceipt(text string) (Receipt, error) {
	lines := strings.Split(text, "\n")
	names := []string{"log", "index", "leaf", "time", "serial", "subject", "use", "transaction", "outcome", "reason"}
	if len(lines) != len(names)+2 || lines[0] != receiptTitle {
		return Receipt{}, fmt.Errorf("%w: it has not the lines of one", ErrReceipt)
	}
	values := map[string]string{}
	for i, name := range names {
		value, ok := strings.CutPrefix(lines[i+1], name+" ")
		if !ok {
			return Receipt{}, fmt.Errorf("%w: line %d is not %q", ErrReceipt, i+2, name)
		}
		if value != nothing {
			values[name] = value
		}
	}
	r, err := receiptOf(values)
	if err == nil && r.Text() != text {
		err = errors.New("it is written in another way")
	}
	if err != nil {
		return Receipt{}, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	return r, nil
}

// receiptOf reads the values of the lines.
func receiptOf(values map[string]string) (r Receipt, err error) {
	r = Receipt{Origin: values["log"], Serial: values["serial"], Use: values["use"], Outcome: Outcome(values["outcome"]), Reason: values["reason"]}
	if _, _, err := SplitOrigin(r.Origin); err != nil {
		return r, err
	}
	if r.Index, err = strconv.ParseUint(values["index"], 10, 64); err != nil {
		return r, errors.New("its index is no number")
	}
	if r.Leaf, err = tlog.ParseHash(values["leaf"]); err != nil {
		return r, errors.New("its leaf is no hash")
	}
	if r.Time, err = time.Parse(timeLayout, values["time"]); err != nil {
		return r, errors.New("its time cannot be read")
	}
	if r.Commitment, err = digest(values["subject"]); err != nil {
		return r, err
	}
	transaction, word, _ := strings.Cut(values["transaction"], " ")
	r.Bound = word == boundWord(true)
	r.Transaction, err = digest(transaction)
	return r, err
}

// digest reads 32 bytes; nil of nothing.
func digest(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b) != sha256.Size {
		return nil, errors.New("a digest in it has not 32 bytes")
	}
	return b, nil
}

// Sign returns the signed note.
func (r Receipt) Sign(ctx context.Context, sign SignFunc) ([]byte, error) {
	text := r.Text()
	if _, err := ParseReceipt(text); err != nil {
		return nil, err
	}
	if slices.Contains([]string{r.Serial, r.Use, r.Reason}, nothing) {
		return nil, fmt.Errorf("%w: %q stands for what is not there", ErrReceipt, nothing)
	}
	return signText(ctx, r.Origin, text, sign)
}

// OpenReceipt reads a signed note: ErrSignature unless one of the keys signed it as the log that it names.
func OpenReceipt(signed []byte, keys []PublicKey) (Receipt, error) {
	lines := strings.SplitN(string(signed), "\n", 3)
	if len(lines) < 3 || lines[0] != receiptTitle || !strings.HasPrefix(lines[1], "log ") {
		return Receipt{}, fmt.Errorf("%w: it does not begin like one", ErrReceipt)
	}
	text, err := openText(signed, strings.TrimPrefix(lines[1], "log "), keys)
	if err != nil {
		return Receipt{}, err
	}
	return ParseReceipt(text)
}

// SaltLength is how many bytes the salt of a TransactionDigest has. Who checks one must look: part of the amount could else be
// passed off as the end of a longer salt.
const SaltLength = 16

// TransactionDigest is the SHA-256 of "ramzban/transaction-digest/1", a zero byte, the salt (SaltLength), and the three fields with a
// zero byte between each two. Whoever has the salt can show which transaction it is of; nobody else can find out.
func TransactionDigest(salt []byte, amount, currency, payee string) []byte {
	sum := sha256.Sum256([]byte("ramzban/transaction-digest/1\x00" + string(salt) + amount + "\x00" + currency + "\x00" + payee))
	return sum[:]
}

package main

import (
	"bufio"
	"bytes"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"ramzban/api/wire"
)

const (
	// syncEvery is after how many answers OUT is put on disk. Those that a power cut takes are asked for again.
	syncEvery = 256

	// digestRounds make the digest of the input slow. It stands in OUT, and an input of one card could else be found by
	// trying all numbers.
	digestRounds = 600_000
)

// answersHeader is the first line of OUT. It is on disk before anything is sent: the keys that make a repeat safe are
// made of Batch and the number of the token.
type answersHeader struct {
	Batch  string `json:"batch"`  // random
	Input  string `json:"input"`  // digest of the tokens, salted with Batch: what OUT belongs to
	Tokens int    `json:"tokens"` // how many the input has
}

// answerLine is every other line of OUT. A token may have several; the last counts.
type answerLine struct {
	Line       int              `json:"line"` // number of the token in the input, from 1
	Serial     string           `json:"serial,omitempty"`
	Status     string           `json:"status,omitempty"`
	Activation *wire.Activation `json:"activation,omitempty"`
	Repeated   bool             `json:"repeated,omitempty"`
	Problem    *wire.Problem    `json:"problem,omitempty"`
}

// outcome is what is known of a token.
type outcome byte

const (
	unanswered outcome = iota
	undecided          // the service could not, it must be asked again
	refused
	issued
)

func (l answerLine) outcome() outcome {
	switch {
	case l.Problem == nil:
		return issued
	case l.Problem.Status >= 500 || l.Problem.Status == 429:
		return undecided
	}
	return refused
}

// answersFile is OUT, open and locked.
type answersFile struct {
	path     string
	header   answersHeader
	f        *os.File
	w        *bufio.Writer
	unsynced int
	outcomes []outcome // by number, less 1
	refusal  string    // of the first token that was refused, if one was
}

// openAnswers makes OUT, or goes on with it if it belongs to this input.
func openAnswers(path string, in input) (*answersFile, error) {
	there, err := exists(path)
	if err != nil {
		return nil, err
	}
	if !there {
		if err := newAnswers(path, in); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	a := &answersFile{path: path, f: f, w: bufio.NewWriter(f), outcomes: make([]outcome, in.tokens)}
	if err := a.load(in); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return a, nil
}

func newAnswers(path string, in input) error {
	batch := rand.Text()
	sum, err := in.digest(batch)
	if err != nil {
		return err
	}
	header, err := json.Marshal(answersHeader{Batch: batch, Input: sum, Tokens: in.tokens})
	if err != nil {
		return err
	}
	return createFile(path, append(header, '\n'), privateFile)
}

// digest names the input without giving anything of it away.
func (in input) digest(batch string) (string, error) {
	sum, err := pbkdf2.Key(sha256.New, string(in.sum[:]), []byte("ramzban/batch/1\x00"+batch), digestRounds, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("making the digest of the input: %w", err)
	}
	return base64.StdEncoding.EncodeToString(sum), nil
}

// load locks OUT, holds it against the input, and reads what was answered. A half line at its end, which a crash left, is
// cut off.
func (a *answersFile) load(in input) error {
	if err := syscall.Flock(int(a.f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("%s: another run is writing it: wait until that has ended", a.path)
	}
	info, err := a.f.Stat()
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s: others may read it: chmod 600 it", a.path)
	}
	lines := bufio.NewReader(a.f)
	first, err := lines.ReadBytes('\n')
	if err != nil || strictJSON(first, &a.header) != nil || a.header.Batch == "" {
		return fmt.Errorf("%s: this is not the file of a batch, or its first line is torn, and then nothing was issued: name another --out, or remove it", a.path)
	}
	sum, err := in.digest(a.header.Batch)
	if err != nil {
		return err
	}
	if sum != a.header.Input || in.tokens != a.header.Tokens {
		return fmt.Errorf("%s: it belongs to another input: run it with that again, or name another --out", a.path)
	}
	return a.loadLines(lines, int64(len(first)))
}

func (a *answersFile) loadLines(lines *bufio.Reader, whole int64) error {
	for n := 2; ; n++ {
		text, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		var l answerLine
		if strictJSON(text, &l) != nil || l.Line < 1 || l.Line > len(a.outcomes) {
			return fmt.Errorf("%s: line %d is damaged: remove that line, so that its token is asked for again", a.path, n)
		}
		a.note(l)
		whole += int64(len(text))
	}
	if err := a.f.Truncate(whole); err != nil {
		return err
	}
	_, err := a.f.Seek(whole, io.SeekStart)
	return err
}

func strictJSON(text []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}

func (a *answersFile) total() int { return len(a.outcomes) }

// left is how many tokens are to be asked for.
func (a *answersFile) left() int { return a.count(unanswered) + a.count(undecided) }

func (a *answersFile) count(want outcome) int {
	n := 0
	for _, o := range a.outcomes {
		if o == want {
			n++
		}
	}
	return n
}

// waiting says of each token whether it is to be asked for.
func (a *answersFile) waiting() []bool {
	w := make([]bool, len(a.outcomes))
	for i, o := range a.outcomes {
		w[i] = o == unanswered || o == undecided
	}
	return w
}

// key is the idempotency key of a token: the same in every run.
func (a *answersFile) key(number int) string { return a.header.Batch + "-" + strconv.Itoa(number) }

// add writes an answer down.
func (a *answersFile) add(answer wire.BulkAnswer) error {
	text, ours := strings.CutPrefix(answer.Key, a.header.Batch+"-")
	number, err := strconv.Atoi(text)
	if !ours || err != nil || number < 1 || number > len(a.outcomes) {
		return errors.New("it is no answer to a token of this batch")
	}
	l := answerLine{
		Line: number, Serial: answer.Serial, Status: answer.Status, Activation: answer.Activation, Repeated: answer.Repeated, Problem: answer.Problem,
	}
	if err := json.NewEncoder(a.w).Encode(l); err != nil {
		return err
	}
	a.note(l)
	if a.unsynced++; a.unsynced < syncEvery {
		return nil
	}
	return a.sync()
}

// note remembers what became of a token.
func (a *answersFile) note(l answerLine) {
	a.outcomes[l.Line-1] = l.outcome()
	if a.refusal == "" && l.outcome() == refused {
		a.refusal = fmt.Sprintf("token %d: %s", l.Line, strings.Join(append([]string{l.Problem.Error()}, l.Problem.Errors...), ": "))
	}
}

// sync puts what was written on disk.
func (a *answersFile) sync() error {
	a.unsynced = 0
	if err := errors.Join(a.w.Flush(), a.f.Sync()); err != nil {
		return fmt.Errorf("writing %s: %w", a.path, err)
	}
	return nil
}

func (a *answersFile) close() error { return a.f.Close() }

// conclude says what became of the batch; it is an error unless every token was issued.
func (a *answersFile) conclude(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "%d of %d tokens are issued; the answers are in %s\n", a.count(issued), a.total(), a.path); err != nil {
		return err
	}
	if n := a.left(); n > 0 {
		return fmt.Errorf("the service could not decide on %d of %d tokens: run the same command again", n, a.total())
	}
	if n := a.count(refused); n > 0 {
		return fmt.Errorf("%d of %d tokens were refused, and %s says why; %s", n, a.total(), a.path, a.refusal)
	}
	return nil
}

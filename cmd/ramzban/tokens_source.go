package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ramzban/api/wire"
)

// maxTokenLine is what the service takes of a line, less the key.
const maxTokenLine = 8<<10 - 256

var errInputChanged = errors.New("the input changed while it was read: leave it alone until the batch has ended")

// tokenSource is what a batch issues tokens for. It can be opened again, and then gives the same tokens.
type tokenSource interface {
	open() (tokenReader, error)
}

// tokenReader gives one token after another, and false after the last. Its errors repeat nothing of the input.
type tokenReader struct {
	next  func() (wire.IssueRequest, bool, error)
	close func()
}

// input is what was found when all of a source was read.
type input struct {
	sum    [sha256.Size]byte // of the tokens
	tokens int
}

// survey reads all of a source, so that a batch is not begun with one that is broken.
func survey(s tokenSource) (input, error) {
	r, err := s.open()
	if err != nil {
		return input{}, err
	}
	defer r.close()
	h := sha256.New()
	for n := 0; ; n++ {
		token, more, err := r.next()
		switch {
		case err != nil:
			return input{}, err
		case !more && n == 0:
			return input{}, errors.New("the input holds no tokens")
		case !more:
			return input{sum: [sha256.Size]byte(h.Sum(nil)), tokens: n}, nil
		}
		if name := missingField(token); name != "" {
			return input{}, fmt.Errorf("the input's token %d has no %s", n+1, name)
		}
		if err := json.NewEncoder(h).Encode(token); err != nil {
			return input{}, err
		}
	}
}

// missingField names a field that every token needs and this one lacks; "" if it has them all.
func missingField(t wire.IssueRequest) string {
	switch "" {
	case t.Class:
		return "class"
	case t.Subject:
		return "subject"
	case t.Channel:
		return "channel"
	case t.Profile:
		return "profile"
	}
	return ""
}

// countedAccounts are the accounts P-000001, P-000002 and so on.
type countedAccounts struct {
	prefix string
	count  int
	token  wire.IssueRequest
}

func (c countedAccounts) open() (tokenReader, error) {
	n := 0
	return tokenReader{close: func() {}, next: func() (wire.IssueRequest, bool, error) {
		if n == c.count {
			return wire.IssueRequest{}, false, nil
		}
		n++
		token := c.token
		token.Subject = fmt.Sprintf("%s-%06d", c.prefix, n)
		return token, true, nil
	}}, nil
}

// lineFile and csvFile are files with a token in each line.
type (
	lineFile string
	csvFile  string
)

func fileSource(path string) (tokenSource, error) {
	switch filepath.Ext(path) {
	case ".ndjson", ".jsonl":
		return lineFile(path), nil
	case ".csv":
		return csvFile(path), nil
	}
	return nil, fmt.Errorf("--file: %s must end in .ndjson or .csv", path)
}

func (path lineFile) open() (tokenReader, error) {
	f, err := os.Open(string(path))
	if err != nil {
		return tokenReader{}, err
	}
	text, n := bufio.NewScanner(f), 0
	text.Buffer(make([]byte, 0, 4096), maxTokenLine)
	return tokenReader{close: func() { _ = f.Close() }, next: func() (wire.IssueRequest, bool, error) {
		n++
		var token wire.IssueRequest
		if !text.Scan() {
			if err := text.Err(); err != nil {
				return token, false, fmt.Errorf("%s: line %d: %w", path, n, err)
			}
			return token, false, nil
		}
		if decodeToken(text.Bytes(), &token) != nil { // its error could repeat what stands there
			return token, false, fmt.Errorf("%s: line %d is not one JSON document with fields of %s", path, n, strings.Join(tokenFields, ", "))
		}
		return token, true, nil
	}}, nil
}

func decodeToken(text []byte, into *wire.IssueRequest) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows")
	}
	if into.Uses == nil { // left out: it is connected later
		into.Uses = []string{}
	}
	return nil
}

// tokenFields are the names of an issue request's fields, which are the columns of a CSV file.
var tokenFields = []string{"class", "subject", "channel", "mobile", "profile", "uses", "device_key_sha256"}

// setField puts the value of a column into a token.
func setField(t *wire.IssueRequest, name, value string) {
	switch name {
	case "class":
		t.Class = value
	case "subject":
		t.Subject = value
	case "channel":
		t.Channel = value
	case "mobile":
		t.Mobile = value
	case "profile":
		t.Profile = value
	case "uses":
		t.Uses = strings.Fields(value)
	case "device_key_sha256":
		t.DeviceKeySHA256 = value
	}
}

func (path csvFile) open() (tokenReader, error) {
	f, err := os.Open(string(path))
	if err != nil {
		return tokenReader{}, err
	}
	rows := csv.NewReader(f)
	rows.ReuseRecord = true
	n := 0
	columns, err := path.header(rows)
	if err != nil {
		return tokenReader{}, errors.Join(err, f.Close())
	}
	return tokenReader{close: func() { _ = f.Close() }, next: func() (wire.IssueRequest, bool, error) {
		n++
		token := wire.IssueRequest{Uses: []string{}}
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return token, false, nil
		}
		if err != nil {
			return token, false, path.rowError(n, err, len(row), len(columns))
		}
		for i, value := range row {
			setField(&token, columns[i], strings.TrimSpace(value))
		}
		return token, true, nil
	}}, nil
}

// rowError counts tokens as OUT does, and says where in the file that is.
func (path csvFile) rowError(n int, err error, found, wanted int) error {
	var p *csv.ParseError
	switch {
	case !errors.As(err, &p):
		return fmt.Errorf("%s: token %d: %w", path, n, err)
	case errors.Is(err, csv.ErrFieldCount):
		return fmt.Errorf("%s: token %d (line %d of the file) has %d fields, but the header has %d", path, n, p.StartLine, found, wanted)
	}
	return fmt.Errorf("%s: token %d (line %d of the file): %w", path, n, p.Line, p.Err)
}

// header reads the names of the columns. Spreadsheets begin a file with a byte order mark.
func (path csvFile) header(rows *csv.Reader) ([]string, error) {
	names, err := rows.Read()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s is empty: begin it with a header", path)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: reading the header: %w", path, err)
	}
	columns := slices.Clone(names)
	columns[0] = strings.TrimPrefix(columns[0], "\ufeff")
	if len(columns) == 1 && strings.Contains(columns[0], ";") {
		return nil, fmt.Errorf("%s: the header has semicolons: separate with commas", path)
	}
	for i, name := range columns {
		if !slices.Contains(tokenFields, name) || slices.Contains(columns[:i], name) {
			return nil, fmt.Errorf("%s: column %d of the header is not one of %s, or is there twice", path, i+1, strings.Join(tokenFields, ", "))
		}
	}
	return columns, nil
}

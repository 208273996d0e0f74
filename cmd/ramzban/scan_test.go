package main

import (
	"bufio"
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// pattern is one form in which a secret could be lying about.
type pattern struct {
	name  string
	bytes []byte
}

// searcher finds many patterns in one pass.
type searcher struct {
	byStart map[uint32][]pattern // by the first four bytes
	first   [1 << 16]bool        // by the first two, as a sieve
	longest int
}

// newSearcher looks for each secret in binary (whole and in halves, so that a remnant is seen too), hex, base32 and base64 in
// every alignment.
func newSearcher(secrets map[string][]byte) *searcher {
	s := &searcher{byStart: map[uint32][]pattern{}}
	for name, v := range secrets {
		s.add(name+" binary, first half", v[:len(v)/2])
		s.add(name+" binary, second half", v[len(v)/2:])
		s.add(name+" hex", []byte(hex.EncodeToString(v)))
		s.add(name+" HEX", bytes.ToUpper([]byte(hex.EncodeToString(v))))
		for shift := range 3 {
			s.add(name+" base64", aligned(base64.StdEncoding.EncodeToString, v, shift, 6))
			s.add(name+" base64url", aligned(base64.URLEncoding.EncodeToString, v, shift, 6))
		}
		for shift := range 5 {
			text := aligned(base32.StdEncoding.EncodeToString, v, shift, 5)
			s.add(name+" base32", text)
			s.add(name+" base32, lower case", bytes.ToLower(text))
		}
	}
	return s
}

// aligned is the part of the encoding that depends on v alone when v stands shift bytes into a longer text.
func aligned(encode func([]byte) string, v []byte, shift, bits int) []byte {
	text := encode(append(make([]byte, shift), v...))
	from := (shift*8 + bits - 1) / bits
	return []byte(text[from : (shift+len(v))*8/bits])
}

func (s *searcher) add(name string, b []byte) {
	start := binary.LittleEndian.Uint32(b)
	s.byStart[start] = append(s.byStart[start], pattern{name, b})
	s.first[uint16(start)] = true
	s.longest = max(s.longest, len(b))
}

// in returns the names of the patterns in data, with their offsets.
func (s *searcher) in(data []byte) []string {
	var found []string
	for i := 0; i+4 <= len(data); i++ {
		if !s.first[binary.LittleEndian.Uint16(data[i:])] {
			continue
		}
		for _, p := range s.byStart[binary.LittleEndian.Uint32(data[i:])] {
			if bytes.HasPrefix(data[i:], p.bytes) {
				found = append(found, fmt.Sprintf("%s at +%#x", p.name, i))
			}
		}
	}
	return found
}

// inFiles searches every file below dir.
func (s *searcher) inFiles(dir string) ([]string, error) {
	var found []string
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		for _, f := range s.in(b) {
			found = append(found, path+": "+f)
		}
		return err
	})
	return found, err
}

// scanned is what a scan of a process's memory found.
type scanned struct {
	Found      []string
	Bytes      int64 // searched
	Unreadable int64 // bytes of readable mappings that could not be read: pages of files beyond their end
}

const page = 4096

// inProcess searches every readable mapping of a process. It needs root, or to be its parent where it is dumpable.
func (s *searcher) inProcess(pid int) (scanned, error) {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return scanned{}, err
	}
	defer func() { _ = maps.Close() }()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return scanned{}, err
	}
	defer func() { _ = mem.Close() }()
	var r scanned
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to int64
		var rights string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &rights); err != nil {
			continue // the vsyscall page lies beyond the signed addresses; it is the kernel's
		}
		if rights[0] == 'r' && !strings.Contains(lines.Text(), "[vvar") {
			s.inMapping(mem, from, to, lines.Text(), &r)
		}
	}
	return r, nil
}

// inMapping reads pieces that overlap by the longest pattern.
func (s *searcher) inMapping(mem io.ReaderAt, from, to int64, name string, r *scanned) {
	buffer := make([]byte, 1<<20)
	for at := from; at < to; {
		want := min(int64(len(buffer)), to-at)
		n, err := mem.ReadAt(buffer[:want], at)
		for _, f := range s.in(buffer[:n]) {
			r.Found = append(r.Found, fmt.Sprintf("%s in %s from %#x", f, name, at))
		}
		r.Bytes += int64(n)
		switch next := at + int64(n); {
		case err != nil:
			r.Unreadable += page
			at = next - next%page + page
		case next >= to:
			return
		default:
			at = next - int64(s.longest)
		}
	}
}

// scanProcess runs the search in a process of its own, as root: the service is not dumpable, so its memory is closed to its
// own user.
func scanProcess(t *testing.T, pid int, secrets map[string][]byte) scanned {
	t.Helper()
	input, err := json.Marshal(scanRequest{PID: pid, Secrets: secrets})
	require.NoError(t, err)
	scan := rootCommandLine("env", helperEnv+"=scan", os.Args[0])
	scan.Stdin, scan.Stderr = bytes.NewReader(input), os.Stderr
	out, err := scan.Output()
	require.NoError(t, err, "%s: reading another process's memory", needsRoot)
	var r scanned
	require.NoError(t, json.Unmarshal(out, &r))
	return r
}

type scanRequest struct {
	PID     int
	Secrets map[string][]byte
}

// runScan is the helper process of scanProcess.
func runScan() error {
	var q scanRequest
	if err := json.NewDecoder(os.Stdin).Decode(&q); err != nil {
		return err
	}
	r, err := newSearcher(q.Secrets).inProcess(q.PID)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func TestSearcherSeesEveryForm(t *testing.T) {
	secret := []byte("0123456789abcdefghijklmnopqrstuv")
	s := newSearcher(map[string][]byte{"seed": secret})
	around := func(b []byte) []byte { return append(append([]byte("xx"), b...), "yyy"...) }
	for name, form := range map[string][]byte{
		"binary":     around(secret),
		"a half":     around(secret[16:]),
		"hex":        around([]byte(hex.EncodeToString(secret))),
		"upper hex":  around([]byte(strings.ToUpper(hex.EncodeToString(secret)))),
		"base64":     []byte(base64.StdEncoding.EncodeToString(secret)),
		"in base64":  []byte(base64.StdEncoding.EncodeToString(around(secret))),
		"base64 url": []byte(base64.RawURLEncoding.EncodeToString(append([]byte("\xfb\xff\xfe"), secret...))),
		"base32":     []byte(base32.StdEncoding.EncodeToString(secret)),
		"in base32":  []byte(strings.ToLower(base32.StdEncoding.EncodeToString(around(secret)))),
	} {
		require.NotEmpty(t, s.in(form), name)
	}
	require.Empty(t, s.in([]byte(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("other"), 20)))))
}

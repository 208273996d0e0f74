package archive

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/audit/audittest"
)

// An archive that was exported in several steps verifies, and says what it holds.
func TestAnExportedLogVerifies(t *testing.T) {
	dir, s := t.TempDir(), audittest.NewSigner(t)
	l := newLog(t, "node-1", s)
	l.fill(100).export(dir)
	l.export(dir) // nothing is new
	l.fill(SegmentEntries).export(dir)
	l.fill(SegmentEntries - 100).export(dir)
	other := newLog(t, "node-2", s)
	for i := range 30 {
		other.add(audit.Entry{Serial: serialOf(99), State: uint64(i) + 1})
	}
	other.export(dir)
	r := verified(t, os.DirFS(dir), Options{Keys: []audit.PublicKey{s.Public}})
	require.Empty(t, r.Findings)
	require.Equal(t, 4, r.Checked)
	require.Equal(t, []Log{
		{Node: "node-1", Origin: "ramzban/test-bank/node-1", Entries: 2 * SegmentEntries, Signed: 2 * SegmentEntries, Time: birth.Add(2 * SegmentEntries * time.Second)},
		{Node: "node-2", Origin: "ramzban/test-bank/node-2", Entries: 30, Signed: 30, Time: birth.Add(30 * time.Second)},
	}, r.Logs)
	require.FileExists(t, filepath.Join(dir, "node-1", "entries-000000000100-000000009900.ndjson"), "segments end at round numbers")
}

// sample is an archive of two exports, 40 and 60 entries.
func sample(t testing.TB) (fstest.MapFS, *testLog) {
	dir := t.TempDir()
	l := newLog(t, "node-1", audittest.NewSigner(t))
	l.fill(40).export(dir)
	l.fill(60).export(dir)
	return files(t, dir), l
}

const (
	firstFile    = "node-1/entries-000000000000-000000000040.ndjson"
	secondFile   = "node-1/entries-000000000040-000000000060.ndjson"
	firstHashes  = "node-1/hashes-000000000000-000000000040.bin"
	secondHashes = "node-1/hashes-000000000040-000000000060.bin"
	firstSigned  = "node-1/checkpoint-000000000040.txt"
	secondSigned = "node-1/checkpoint-000000000100.txt"
)

// edit changes the lines of a file.
func edit(archive fstest.MapFS, name string, fn func(lines [][]byte) [][]byte) fstest.MapFS {
	lines := bytes.SplitAfter(archive[name].Data, []byte("\n"))
	return changed(archive, name, bytes.Join(fn(lines[:len(lines)-1]), nil))
}

// forged is the line of another entry than the one that is there.
func forged(t testing.TB, old []byte, index uint64) []byte {
	l, err := readLine(old)
	require.NoError(t, err)
	e := l.entry
	e.Outcome, e.Reason = audit.Refused, "mismatch"
	leaf, err := audit.Encode(e)
	require.NoError(t, err)
	b, _, err := render(index, leaf)
	require.NoError(t, err)
	return b
}

func hashOf(t testing.TB, b []byte) []byte {
	l, err := readLine(b)
	require.NoError(t, err)
	h := tlog.RecordHash(l.leaf)
	return h[:]
}

// Whatever is done to an archive is found, and where it was done is said.
func TestEveryChangeIsFoundWhereItIs(t *testing.T) {
	archive, l := sample(t)
	same := func(lines [][]byte) [][]byte { return lines }
	forge := func(lines [][]byte) [][]byte {
		lines[12] = forged(t, lines[12], 52)
		return lines
	}
	for name, c := range map[string]struct {
		archive fstest.MapFS
		want    []string
	}{
		"nothing": {edit(archive, firstFile, same), nil},
		"a letter of the readable part": {edit(archive, secondFile, func(l [][]byte) [][]byte {
			l[9] = bytes.Replace(l[9], []byte("accepted"), []byte("Accepted"), 1)
			return l
		}), []string{"node-1/entries-000000000040-000000000060.ndjson, line 10, entry 49: line does not say what its leaf says"}},
		"an entry forged with all its line": {edit(archive, secondFile, forge),
			[]string{"node-1/entries-000000000040-000000000060.ndjson, line 13, entry 52: entry changed: another one was signed"}},
		"an entry forged with its hash": {func() fstest.MapFS {
			a := edit(archive, secondFile, forge)
			h := bytes.Clone(archive[secondHashes].Data)
			copy(h[12*tlog.HashSize:], hashOf(t, bytes.SplitAfter(a[secondFile].Data, []byte("\n"))[12]))
			return changed(a, secondHashes, h)
		}(), []string{"node-1/checkpoint-000000000100.txt, entries 40 to 99: entries are not those that were signed: at least one of them, or the checkpoint"}},
		"a line removed": {edit(archive, firstFile, func(l [][]byte) [][]byte { return append(l[:7], l[8:]...) }),
			[]string{"node-1/entries-000000000000-000000000040.ndjson, line 8, entry 7: entry missing"}},
		"the last lines removed": {edit(archive, secondFile, func(l [][]byte) [][]byte { return l[:50] }),
			[]string{"node-1/entries-000000000040-000000000060.ndjson, line 50, entries 90 to 99: entry missing"}},
		"a line twice": {edit(archive, firstFile, func(l [][]byte) [][]byte { return append(l[:8:8], l[7:]...) }),
			[]string{"node-1/entries-000000000000-000000000040.ndjson, line 9, entry 7: inserted or out of order"}},
		"an entry inserted at the end": {edit(archive, secondFile, func(l [][]byte) [][]byte { return append(l, forged(t, l[59], 100)) }),
			[]string{"node-1/entries-000000000040-000000000060.ndjson, line 61, entry 100: inserted or out of order"}},
		"two lines swapped": {edit(archive, firstFile, func(l [][]byte) [][]byte { l[3], l[4] = l[4], l[3]; return l }),
			[]string{"node-1/entries-000000000000-000000000040.ndjson, line 4, entry 3: entry missing", "node-1/entries-000000000000-000000000040.ndjson, line 5, entry 3: inserted or out of order"}},
		"two entries swapped under their indexes": {edit(archive, firstFile, func(l [][]byte) [][]byte {
			a, err := readLine(l[3])
			require.NoError(t, err)
			b, err := readLine(l[4])
			require.NoError(t, err)
			l[3], _, _ = render(3, b.leaf)
			l[4], _, _ = render(4, a.leaf)
			return l
		}), []string{"line 4, entry 3: entry changed", "line 5, entry 4: entry changed"}},
		"a last line without its end": {changed(archive, secondFile, bytes.TrimSuffix(archive[secondFile].Data, []byte("\n"))),
			[]string{"line 60, entry 99: line does not say what its leaf says"}},
		"a file cut within a line": {changed(archive, secondFile, archive[secondFile].Data[:2000]), []string{"entry cannot be read", "entry missing"}},
		"an empty file":            {changed(archive, firstFile, nil), []string{"entries 0 to 39: entry missing"}},
		"a newline before the end": {changed(archive, firstFile, append(bytes.Clone(archive[firstFile].Data), '\n')), []string{"line 41: inserted or out of order"}},
		"a whole segment removed":  {without(archive, secondFile), []string{"entries-000000000040-000000000060.ndjson, entries 40 to 99: file missing"}},
		"an older segment removed": {without(archive, firstFile), []string{"entries-000000000000-000000000040.ndjson, entries 0 to 39: file missing: if it was removed on purpose"}},
		"a segment and its hashes": {without(archive, firstFile, firstHashes), []string{"node-1, entries 0 to 39: file missing: nothing after them"}},
		"the end with its hashes":  {without(archive, secondFile, secondHashes), []string{"checkpoint-000000000100.txt, entries 40 to 99: truncated"}},
		"the newest checkpoint":    {without(archive, secondSigned), []string{"node-1, entries 40 to 99: covered by no checkpoint"}},
		"a checkpoint in between":  {without(archive, firstSigned), []string{"checkpoint-000000000040.txt: file missing: an export ended there"}},
		"a checkpoint under another size": {changed(archive, firstSigned, archive[secondSigned].Data),
			[]string{"checkpoint-000000000040.txt: checkpoint cannot be trusted: it tells of 100 entries"}},
		"hashes changed": {changed(archive, firstHashes, func() []byte {
			h := bytes.Clone(archive[firstHashes].Data)
			h[5*tlog.HashSize] ^= 1
			return h
		}()), []string{"hashes-000000000000-000000000040.bin, entry 5: hashes changed"}},
		"hashes removed": {without(archive, firstHashes), []string{"hashes-000000000000-000000000040.bin: file missing"}},
		"hashes cut":     {changed(archive, firstHashes, archive[firstHashes].Data[:100]), []string{"hashes-000000000000-000000000040.bin: file cut short or too long"}},
		"a strange file": {changed(archive, "node-1/entries-1-2.ndjson", nil), []string{"node-1/entries-1-2.ndjson: file that no export writes"}},
		"another key":    {changed(archive, "node-1/keys.pem", audittest.NewSigner(t).Public.PEM()), []string{"keys.pem: keys are not those given"}},
		"keys spoiled":   {changed(archive, "node-1/keys.pem", []byte("x")), []string{"keys.pem: keys are not those given"}},
		"an empty log":   {changed(archive, "node-2/x", nil), []string{"node-2: file missing: the folder holds no log"}},
		"two files of the same entries": {changed(archive, "node-1/entries-000000000000-000000000050.ndjson", archive[firstFile].Data),
			[]string{"another file has the same entries"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := verified(t, c.archive, Options{Keys: []audit.PublicKey{l.signer.Public}})
			var said []string
			for _, f := range r.Findings {
				said = append(said, f.String())
			}
			require.Equal(t, len(c.want) == 0, len(said) == 0, "%q", said)
			for _, want := range c.want {
				require.Contains(t, fmt.Sprint(said), want)
			}
			if len(c.want) == 1 {
				require.Len(t, said, 1, "%q: it is said once, and nothing that only follows from it", said)
			}
		})
	}
}

// Trust comes from the keys that are given, not from those in the archive.
func TestOnlyGivenKeysAreTrusted(t *testing.T) {
	archive, _ := sample(t)
	r := verified(t, archive, Options{Keys: []audit.PublicKey{audittest.NewSigner(t).Public}})
	require.Len(t, r.Findings, 4, "both checkpoints, the key, and so all entries: %v", r.Findings)
	require.Zero(t, r.Checked)
}

// Older segments can be removed; the rest still verifies, and what they held can still be proven with another copy.
func TestThePrunedArchiveVerifies(t *testing.T) {
	archive, l := sample(t)
	o := Options{Keys: []audit.PublicKey{l.signer.Public}, Pruned: true}
	r := verified(t, without(archive, firstFile), o)
	require.Empty(t, r.Findings)
	require.EqualValues(t, 40, r.Logs[0].First)
	require.EqualValues(t, 100, r.Logs[0].Entries)
	r = verified(t, without(archive, firstFile, secondFile), o)
	require.Len(t, r.Findings, 1, "nothing is left")
	require.Contains(t, r.Findings[0].String(), "node-1: file missing: not one of its entries is there")
	r = verified(t, without(archive, secondFile), o)
	require.Len(t, r.Findings, 1, "what is in the middle or at the end was not removed on purpose")
	h := bytes.Clone(archive[firstHashes].Data)
	h[0] ^= 1
	r = verified(t, changed(without(archive, firstFile), firstHashes, h), o)
	require.Equal(t, RootWrong, r.Findings[0].What)
}

// A log whose end was cut off together with its checkpoints, or that was rewritten with the audit key, is told from the
// true one by what a witness saw.
func TestTheWitnessTellsWhatTheArchiveCannot(t *testing.T) {
	archive, l := sample(t)
	o := Options{Keys: []audit.PublicKey{l.signer.Public}}
	cut := without(archive, secondFile, secondHashes, secondSigned)
	require.Empty(t, verified(t, cut, o).Findings, "it is a log that was signed")
	o.Anchors = []Anchor{{Name: "w/node-1", Signed: l.signed[100]}}
	require.Empty(t, verified(t, archive, o).Findings)
	r := verified(t, cut, o)
	require.Len(t, r.Findings, 1)
	require.Equal(t, "node-1, w/node-1, entries 40 to 99: truncated: the witness saw these entries, and they are not in the archive: export again, or find out who removed them", r.Findings[0].String())

	dir := t.TempDir()
	twin := newLog(t, "node-1", l.signer)
	twin.fill(99).add(audit.Entry{Serial: serialOf(9), State: 10, Next: 1000, Action: "otp.verify", Outcome: audit.Refused})
	twin.export(dir)
	r = verified(t, os.DirFS(dir), o)
	require.Len(t, r.Findings, 1)
	require.Equal(t, WitnessDisagrees, r.Findings[0].What)

	o.Anchors = []Anchor{{Name: "w", Signed: newLog(t, "node-7", l.signer).fill(3).signedNow()}}
	require.Equal(t, []string{WitnessSilent, FileMissing}, whats(verified(t, archive, o)), "the witness knows of another log, which is not there")
	o.Anchors = []Anchor{{Name: "w", Signed: bytes.Replace(l.signed[100], []byte("\n100\n"), []byte("\n101\n"), 1)}}
	require.Equal(t, []string{WitnessSilent, CheckpointWrong}, whats(verified(t, archive, o)))
}

// whats are what the findings say, in their order.
func whats(r Report) (all []string) {
	for _, f := range r.Findings {
		all = append(all, f.What)
	}
	return all
}

// Who gives a witness's checkpoints is told of every log that they do not cover, and how far they reach.
func TestEveryLogMustHaveAnAnchorIfAnyHas(t *testing.T) {
	dir, s := t.TempDir(), audittest.NewSigner(t)
	first, second := newLog(t, "node-1", s).fill(5), newLog(t, "node-2", s)
	second.add(audit.Entry{Action: "audit.read"})
	first.export(dir)
	second.export(dir)
	o := Options{Keys: []audit.PublicKey{s.Public}, Anchors: []Anchor{{Name: "w/node-1", Signed: first.signed[5]}}}
	r := verified(t, os.DirFS(dir), o)
	require.Len(t, r.Findings, 1)
	require.Contains(t, r.Findings[0].String(), "node-2: unknown to the witness: no checkpoint of this log was given")
	o.Anchors = append(o.Anchors, Anchor{Name: "w/node-2", Signed: second.signed[1]})
	r = verified(t, os.DirFS(dir), o)
	require.Empty(t, r.Findings)
	require.Equal(t, []uint64{5, 1}, []uint64{r.Logs[0].Anchored, r.Logs[1].Anchored})
}

// A log that entries of another one speak of must be there: one that pruned it, or a restore.
func TestALogThatOthersNameMustBeThere(t *testing.T) {
	for detail, e := range map[string]audit.Entry{
		"pruned":            {Action: audit.PrunedLog, Outcome: audit.Done, Detail: audit.PrunedEntries("node-2", 0, 10)},
		"pruned, the sum":   {Action: audit.PrunedLog, Outcome: audit.Done, Detail: audit.PrunedUntil("node-2", 10)},
		"restored":          {Action: audit.RestoredLog, Outcome: audit.Done, Detail: "the log of node-2 goes on at 17"},
		"closed":            {Action: audit.RestoredLog, Outcome: audit.Done, Detail: "the log of node-2 ends at 17: entries 17 to 20 are lost"},
		"its own":           {Action: audit.PrunedLog, Outcome: audit.Done, Detail: audit.PrunedUntil("node-1", 10)},
		"one that is empty": {Action: audit.RestoredLog, Outcome: audit.Done, Detail: "the log of node-2 goes on at 0"},
		"not done":          {Action: audit.PrunedLog, Outcome: audit.Failed, Detail: audit.PrunedUntil("node-2", 10)},
	} {
		dir, l := t.TempDir(), newLog(t, "node-1", audittest.NewSigner(t))
		l.add(e)
		l.export(dir)
		r := verified(t, os.DirFS(dir), Options{Keys: []audit.PublicKey{l.signer.Public}})
		if detail == "its own" || detail == "one that is empty" || detail == "not done" {
			require.Empty(t, r.Findings, detail)
			continue
		}
		require.Len(t, r.Findings, 1, detail)
		require.Equal(t, "node-2: file missing: entry 0 of node-1 speaks of this log: export it, too", r.Findings[0].String())
	}
}

func (l *testLog) signedNow() []byte {
	l.checkpoint()
	return l.signed[l.tree.size]
}

// What two nodes say of one token must not contradict each other, though each log is sound by itself.
func TestLogsThatContradictEachOtherAreFound(t *testing.T) {
	write := func(state, next uint64, after time.Duration) audit.Entry {
		return audit.Entry{Serial: serialOf(1), State: state, Next: next, Time: birth.Add(after).UnixMilli()}
	}
	late := write(9, 90, 3*time.Hour)
	late.Serial = serialOf(2)
	late.State = 1
	for name, c := range map[string]struct {
		first, second []audit.Entry
		want          string
	}{
		"they agree":                  {[]audit.Entry{write(1, 10, 0), write(3, 30, 2), late}, []audit.Entry{write(2, 20, 1)}, ""},
		"both made the same write":    {[]audit.Entry{write(1, 10, 0), write(2, 20, 2)}, []audit.Entry{write(2, 21, 3)}, "token 000000000001: logged twice"},
		"the watermark went back":     {[]audit.Entry{write(1, 10, 0), write(2, 20, 2)}, []audit.Entry{write(3, 19, 3)}, "token 000000000001: watermark went back"},
		"a write is in neither":       {[]audit.Entry{write(1, 10, 0), write(3, 30, 2)}, []audit.Entry{write(4, 40, 3)}, "writes 2 to 2 of the token are in no log"},
		"a budget counted there, too": {[]audit.Entry{{Serial: serialOf(1), Use: "login", Budget: 1}}, []audit.Entry{{Serial: serialOf(1), Use: "login", Budget: 1}}, "logged twice"},
		"budgets of two uses":         {[]audit.Entry{{Serial: serialOf(1), Use: "login", Budget: 1}}, []audit.Entry{{Serial: serialOf(1), Use: "second-pin", Budget: 1}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir, s := t.TempDir(), audittest.NewSigner(t)
			for node, entries := range map[string][]audit.Entry{"node-1": c.first, "node-2": c.second} {
				l := newLog(t, node, s)
				for _, e := range entries {
					l.add(e)
				}
				l.add(audit.Entry{Action: "audit.read", Time: birth.Add(3 * time.Hour).UnixMilli()}) // both logs go on for three hours
				l.export(dir)
			}
			r := verified(t, os.DirFS(dir), Options{Keys: []audit.PublicKey{s.Public}})
			if c.want == "" {
				require.Empty(t, r.Findings)
				return
			}
			require.Len(t, r.Findings, 1)
			require.Contains(t, r.Findings[0].String(), c.want)
		})
	}
}

// A log that was written by somebody else under the same node's name is found by its origin.
func TestLogsOfTwoInstallationsAreNotMixed(t *testing.T) {
	dir, s := t.TempDir(), audittest.NewSigner(t)
	l := newLog(t, "node-1", s).fill(5)
	l.export(dir)
	other := newLog(t, "node-2", s)
	other.add(audit.Entry{Action: "audit.read"})
	c := audit.Checkpoint{Origin: audit.Origin("other-bank", "node-2"), Tree: tlog.Tree{N: 1, Hash: other.tree.root()}, Time: birth}
	signed, err := c.Sign(context.Background(), s.Sign)
	require.NoError(t, err)
	w, err := NewWriter(dir, "node-2")
	require.NoError(t, err)
	require.NoError(t, w.Add(other.leaves[0]))
	require.NoError(t, w.Checkpoint(signed, c))
	r := verified(t, os.DirFS(dir), Options{Keys: []audit.PublicKey{s.Public}})
	require.Len(t, r.Findings, 1)
	require.Equal(t, InstallationOther, r.Findings[0].What)
	for _, pinned := range []string{installation, "other-bank", "third-bank"} {
		r := verified(t, os.DirFS(dir), Options{Keys: []audit.PublicKey{s.Public}, Installation: pinned})
		require.Contains(t, whats(r), InstallationOther, pinned)
	}
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "node-2")))
	r = verified(t, os.DirFS(dir), Options{Keys: []audit.PublicKey{s.Public}, Installation: installation})
	require.Empty(t, r.Findings)
	require.Equal(t, installation, r.Installation)
	r = verified(t, os.DirFS(dir), Options{Keys: []audit.PublicKey{s.Public}, Installation: "other-bank"})
	require.Equal(t, []string{InstallationOther}, whats(r))
	require.Empty(t, r.Installation)
	r = verified(t, os.DirFS(dir), Options{Keys: []audit.PublicKey{s.Public}, Anchors: []Anchor{{Name: "w", Signed: signed}, {Name: "v", Signed: l.signed[5]}}})
	require.Equal(t, []string{FileMissing}, whats(r), "the witness knows another node's log")
}

// Of an archive that is wrong throughout the beginning is reported, and how much more there is.
func TestFindingsAreBounded(t *testing.T) {
	dir := t.TempDir()
	l := newLog(t, "node-1", audittest.NewSigner(t))
	l.fill(3000).export(dir)
	a := files(t, dir)
	name := "node-1/entries-000000000000-000000003000.ndjson"
	a = changed(a, name, bytes.ReplaceAll(a[name].Data, []byte("accepted"), []byte("acceptee")))
	r := verified(t, a, Options{Keys: []audit.PublicKey{l.signer.Public}})
	require.Len(t, r.Findings, maxFindings)
	require.True(t, r.Stopped, "there are 2,000 more")
}

func TestWhatIsNoArchiveIsRefused(t *testing.T) {
	_, err := Verify(context.Background(), os.DirFS(t.TempDir()), Options{})
	require.ErrorIs(t, err, ErrArchive)
	_, err = Verify(context.Background(), os.DirFS("/nonexistent"), Options{})
	require.Error(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	archive, _ := sample(t)
	_, err = Verify(ctx, archive, Options{})
	require.ErrorIs(t, err, context.Canceled)
}

// No bytes make the verifier panic, and none but the true ones pass.
func FuzzSegment(f *testing.F) {
	archive, l := sample(f)
	f.Add(archive[firstFile].Data)
	f.Add([]byte("{\"index\":0,\"leaf\":\"" + base64.StdEncoding.EncodeToString(l.leaves[0]) + "\"}\n"))
	f.Add([]byte("{}\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := verified(t, changed(archive, firstFile, b), Options{Keys: []audit.PublicKey{l.signer.Public}})
		require.Equal(t, bytes.Equal(b, archive[firstFile].Data), len(r.Findings) == 0)
	})
}

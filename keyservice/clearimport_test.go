package keyservice

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// seedFile is a maker's file of seeds in clear.
type seedFile string

// clearFile has a line for each seed, of the devices GX-1, GX-2 and so on.
func clearFile(seeds ...string) seedFile {
	var b strings.Builder
	for i, s := range seeds {
		_, _ = fmt.Fprintf(&b, "{\"device\":\"GX-%d\",\"hash\":\"SHA1\",\"seed\":\"%x\"}\n", i+1, s)
	}
	return seedFile(b.String())
}

func (f seedFile) agreement() ClearImport {
	sum := sha256.Sum256([]byte(f))
	return ClearImport{SHA256: hex.EncodeToString(sum[:]), Lines: strings.Count(string(f), "\n"), Source: "GX Tokens, box 7"}
}

func (w *world) sendClear(c authz.Caller, id string, f seedFile) ([]WrappedSeed, error) {
	file := []byte(f)
	made, err := w.ImportClear(context.Background(), c, id, file)
	require.Equal(w.t, make([]byte, len(f)), file, "it is wiped, whatever came of it")
	return made, err
}

// told is what the log of the node says of imports, in short.
func (w *world) told() (told []string) {
	log, err := w.AuditEntries(context.Background(), auditor, AuditQuery{Node: w.node, Limit: MaxAuditPage})
	require.NoError(w.t, err)
	for _, e := range log.Entries {
		if e.Action == string(authz.ImportClearSeeds) {
			detail, _, _ := strings.Cut(e.Detail, ", digest")
			told = append(told, strings.TrimSpace(fmt.Sprintf("%s %s %s", e.Outcome, e.Reason, detail)))
		}
	}
	return told
}

const otherMakerSeed = "09876543210987654321"

// A box of devices with its file, from the officers to the customers: RFC 4226's device makes RFC 4226's passwords. A file
// that is sent again gives seeds as good, and no second entry; a seed that a token has is refused.
func TestSeedsInClearBecomeHardwareTokens(t *testing.T) {
	eachEngine(t, func(t *testing.T, nodes []*world) {
		w, file := nodes[0], clearFile(makerSeed, otherMakerSeed)
		id := w.agreed(ActionImportClear, file.agreement()).ID
		first, err := w.sendClear(alice, id, file)
		require.NoError(t, err)
		made, err := nodes[len(nodes)-1].sendClear(bob, id, file)
		require.NoError(t, err)
		require.Equal(t, []string{"GX-1", "GX-2"}, []string{made[0].Device, made[1].Device})
		require.NotEqual(t, first[0].MakerSeed, made[0].MakerSeed)

		issued := w.issuedHardware(card(1))
		_, err = w.handOver(card(1), issued, made[0].MakerSeed)
		require.NoError(t, err)
		require.NoError(t, w.confirmOTP(issued.Serial, appendixD[0]))
		for _, typed := range appendixD[1:] {
			require.True(t, w.typed(issued.Serial, typed).Accepted, typed)
		}
		second := w.issuedHardware(card(2))
		_, err = w.handOver(card(2), second, first[0].MakerSeed)
		require.Equal(t, CodeSeedInUse, CodeOf(err), "however often it was wrapped, it lives once")

		log, err := w.AuditEntries(context.Background(), auditor, AuditQuery{Node: w.node, Limit: MaxAuditPage})
		require.NoError(t, err)
		named := map[string]string{}
		for _, e := range log.Entries {
			if _, digest, is := strings.Cut(e.Detail, "digest "); is {
				named[digest] = e.Detail[:len("device GX-1")]
			}
			if e.Serial == issued.Serial && e.Maker != nil {
				require.Equal(t, "device GX-1", named[base64.StdEncoding.EncodeToString(e.Maker.Digest)], "which device it is, the log tells")
				named["token"] = e.Serial
			}
		}
		require.Equal(t, issued.Serial, named["token"])

		again := w.agreed(ActionImportClear, clearFile(makerSeed).agreement()).ID
		refused, err := w.sendClear(alice, again, clearFile(makerSeed))
		require.NoError(t, err)
		require.Equal(t, []WrappedSeed{{Device: "GX-1", Hash: seed.SHA1, Refused: CodeSeedInUse}}, refused)
		want := []string{
			"begun  2 seeds, 0 of them logged before", "done  device GX-1, SHA1", "done  device GX-2, SHA1", "done  2 wrapped, 0 refused",
			"begun  1 seeds, 0 of them logged before", "refused seed_in_use device GX-1, SHA1", "done  0 wrapped, 1 refused",
		}
		if len(nodes) == 1 {
			want = append(want[:4], append([]string{"begun  2 seeds, 2 of them logged before", "done  2 wrapped, 0 refused"}, want[4:]...)...)
		}
		require.Equal(t, want, w.told())
		w.requireNothingFound()
	})
}

// Without two officers, or with another file than they agreed on, no seed in clear is taken.
func TestOnlyAnAgreedFileIsTaken(t *testing.T) {
	w, file := newWorld(t), clearFile(makerSeed)
	waits := w.propose(alice, ActionImportClear, file.agreement())
	gone := w.propose(alice, ActionImportClear, file.agreement())
	_, err := w.Withdraw(context.Background(), alice, gone.ID)
	require.NoError(t, err)
	open := w.agreed(ActionImportClear, file.agreement()).ID
	feed := w.agreed(ActionFeed, SubjectFeed{Days: 1}).ID
	more := file.agreement()
	more.Lines++
	two := w.agreed(ActionImportClear, more).ID
	for name, c := range map[string]struct {
		by   authz.Caller
		id   string
		file seedFile
		code Code
	}{
		"it waits":             {alice, waits.ID, file, CodeProposalClosed},
		"it was withdrawn":     {alice, gone.ID, file, CodeProposalClosed},
		"of another action":    {alice, feed, file, CodeProposalClosed},
		"nothing was proposed": {alice, strings.Repeat("0", 32), file, CodeProposalClosed},
		"an id that is none":   {alice, "../" + open, file, CodeProposalClosed},
		"another file":         {alice, open, clearFile(otherMakerSeed), CodeDocumentInvalid},
		"one byte more":        {alice, open, file + "\n", CodeDocumentInvalid},
		"nothing":              {alice, open, "", CodeDocumentInvalid},
		"fewer than approved":  {alice, two, file, CodeSeedInvalid},
		"who is no officer":    {zoe, open, file, CodeNotOfficer},
		"who has not the role": {ex, open, file, CodeDenied},
		"an issuer":            {branch, open, file, CodeDenied},
		"an activator":         {mobileBank, open, file, CodeDenied},
	} {
		w.unchangedBut(func() {
			_, err := w.sendClear(c.by, c.id, c.file)
			require.Equal(t, c.code, CodeOf(err), name)
		})
		told := w.told()
		outcome := "refused " + string(c.code)
		if c.code == CodeDenied {
			outcome = "denied"
		}
		require.Contains(t, told[len(told)-1], outcome, name)
	}
	_, err = w.sendClear(alice, open, file)
	require.NoError(t, err)
	w.clock.add(clearImportOpen)
	_, err = w.sendClear(alice, open, file)
	require.Equal(t, CodeProposalClosed, CodeOf(err), "it is over")
	w.requireNothingFound()
}

// A node that dies within a file, or two that are sent it at once, leave one entry for each device.
func TestAnInterruptedImportGoesOnWhereItEnded(t *testing.T) {
	eachEngine(t, func(t *testing.T, nodes []*world) {
		seeds := []string{makerSeed, otherMakerSeed, "abcdefghijabcdefghij", "jihgfedcbajihgfedcba"}
		w, file, commits := nodes[0], clearFile(seeds...), 0
		id := w.agreed(ActionImportClear, file.agreement()).ID
		w.store.before = func(store.Change) error {
			if commits++; commits > 3 { // the intent and two devices
				return store.ErrFailed
			}
			return nil
		}
		_, err := w.sendClear(alice, id, file)
		require.Equal(t, CodeStorageUnavailable, CodeOf(err))
		w.store.before = nil
		if len(nodes) == 1 {
			w.restart()
		}
		for _, err := range atOnce(nodes, func(w *world) error {
			made, err := w.sendClear(bob, id, file)
			if err == nil && len(made) != len(seeds) {
				err = fmt.Errorf("%d seeds", len(made))
			}
			return err
		}) {
			require.NoError(t, err)
		}
		devices, all := map[string]int{}, ""
		for _, node := range nodes {
			for _, line := range node.told() {
				all += line + "\n"
				if _, device, is := strings.Cut(line, "device "); is {
					devices[device[:4]]++
				}
			}
		}
		require.Equal(t, map[string]int{"GX-1": 1, "GX-2": 1, "GX-3": 1, "GX-4": 1}, devices, all)
		require.Contains(t, all, "begun  4 seeds, 2 of them logged before")
		w.requireNothingFound()
	})
}

// A node that is importing a file takes no second one, however often an officer sends it.
func TestANodeImportsOneFileAtATime(t *testing.T) {
	w, file := newWorld(t), clearFile(makerSeed)
	id := w.agreed(ActionImportClear, file.agreement()).ID
	w.store.before = func(store.Change) error {
		w.store.before = nil
		_, err := w.sendClear(bob, id, file)
		require.Equal(t, CodeBusy, CodeOf(err))
		return nil
	}
	for range 2 { // the first gives its place back
		_, err := w.sendClear(alice, id, file)
		require.NoError(t, err)
	}
}

// When the HSM is away in the middle, the log says that the import failed, and the rest follows when it is back.
func TestAnImportThatFailsSaysSo(t *testing.T) {
	w, file := newWorld(t), clearFile(makerSeed)
	id := w.agreed(ActionImportClear, file.agreement()).ID
	ctx, cancel := context.WithCancel(context.Background())
	w.store.after = func(store.Change) error { cancel(); return nil }
	_, err := w.ImportClear(ctx, alice, id, []byte(file))
	require.Equal(t, CodeBusy, CodeOf(err))
	w.store.after = nil
	require.Equal(t, []string{"begun  1 seeds, 0 of them logged before", "failed busy after 0 of 1 seeds: send the same file again"}, w.told())
	_, err = w.sendClear(alice, id, file)
	require.NoError(t, err)
}

// No seed stands in any row, entry or answer, in any of its spellings.
func TestSeedsInClearAreKeptNowhere(t *testing.T) {
	w, plain := newWorld(t), "a seed of 20 bytes. "
	file := clearFile(plain)
	id := w.agreed(ActionImportClear, file.agreement()).ID
	answers := ""
	for _, try := range []struct {
		by   authz.Caller
		file seedFile
	}{{ex, file}, {alice, file + "\n"}, {alice, file[:50] + "}" + file[50:]}, {alice, file}} {
		made, err := w.sendClear(try.by, id, try.file)
		answers += fmt.Sprintf("%v %+v %s", err, err, fmt.Sprint(made))
	}
	for _, bad := range []seedFile{file + file, file[:60], seedFile(strings.Replace(string(file), "SHA1", "SHA512", 1)), seedFile(strings.Replace(string(file), `"}`, `x"}`, 1))} {
		_, err := CheckClearSeeds([]byte(bad))
		require.Error(t, err)
		answers += err.Error()
	}
	spellings := []string{
		plain, hex.EncodeToString([]byte(plain)), strings.ToUpper(hex.EncodeToString([]byte(plain))),
		base32.StdEncoding.EncodeToString([]byte(plain)), base64.StdEncoding.EncodeToString([]byte(plain)), fmt.Sprint([]byte(plain)),
	}
	looked := 0
	w.rows(func(it store.Item) {
		looked++
		for _, s := range spellings {
			require.NotContains(t, string(it.Value), s, "%q", it.Key)
		}
	})
	require.Greater(t, looked, 10)
	for _, s := range spellings {
		require.NotContains(t, answers, s)
	}
	for _, e := range w.entries() {
		require.NotContains(t, fmt.Sprintf("%+v", e), spellings[1])
	}
}

// What is wrong with a file is said by its line; what would stand in the log is bounded.
func TestFilesOfSeedsThatAreNotTaken(t *testing.T) {
	line := func(device, hash, seed string) string {
		return fmt.Sprintf(`{"device":%q,"hash":%q,"seed":%q}`+"\n", device, hash, seed)
	}
	good := strings.Repeat("a5", 20)
	for want, file := range map[string]string{
		"empty":                                    "",
		"line 1: it is not":                        "GX-1,SHA1," + good,
		"line 2: it is not":                        line("GX-1", "SHA1", good) + "\n",
		"line 1: hash must be":                     line("GX-1", "sha1", good),
		"line 1: seed must be hex":                 line("GX-1", "SHA1", "MFRGGZDFMZTWQ2LKNNWG23TPOBYXE43U"),
		"line 1: a seed for SHA1 has 20":           line("GX-1", "SHA1", good[2:]),
		"line 1: a seed for SHA256 has 32":         line("GX-1", "SHA256", good),
		"line 1: a seed for SHA512 has 64":         line("GX-1", "SHA512", strings.Repeat("a5", 63)),
		"line 1: a seed for SHA1 has 20 to 64":     line("GX-1", "SHA1", strings.Repeat("a5", 65)),
		"line 1: the seed is all":                  line("GX-1", "SHA1", strings.Repeat("0", 40)),
		"line 1: device must":                      line(good, "SHA1", good),
		"line 2 has the device or the seed of":     line("GX-1", "SHA1", good) + line("GX-1", "SHA1", "00"+good),
		"line 2 has the device or the seed of l":   line("GX-1", "SHA1", good) + line("GX-2", "SHA1", good+"0000"),
		"line 2: it is not {":                      line("GX-1", "SHA1", good) + `{"device":"GX-2","hash":"SHA1","seed":"` + good + `","counter":1}`,
		"line 1: it is not {\"device\":…,\"hash\"": `{"device":"GX-1","hash":"SHA1","seed":` + strings.Repeat("1", 40) + `}`,
		"more than 1000 lines": func() (all string) {
			for i := range MaxClearSeeds + 1 {
				all += line(fmt.Sprint("GX-", i), "SHA1", fmt.Sprintf("%040x", i+1))
			}
			return all
		}(),
	} {
		_, err := CheckClearSeeds([]byte(file))
		require.ErrorContains(t, err, want)
		require.Equal(t, CodeSeedInvalid, CodeOf(err))
		require.NotContains(t, err.Error(), good[:20])
	}
	n, err := CheckClearSeeds([]byte(line("GX-1", "SHA1", good) + strings.TrimSpace(line("GX-2", "SHA512", strings.Repeat("B6", 64)))))
	require.NoError(t, err, "the last line may lack its end, and digits may be large")
	require.Equal(t, 2, n)
}

func TestParametersOfAnImportThatCannotBe(t *testing.T) {
	w, good := newWorld(t), clearFile(makerSeed).agreement()
	for name, spoil := range map[string]func(*ClearImport){
		"no digest":      func(p *ClearImport) { p.SHA256 = "" },
		"a short digest": func(p *ClearImport) { p.SHA256 = p.SHA256[2:] },
		"no hex":         func(p *ClearImport) { p.SHA256 = strings.Repeat("x", 64) },
		"no lines":       func(p *ClearImport) { p.Lines = 0 },
		"too many lines": func(p *ClearImport) { p.Lines = MaxClearSeeds + 1 },
		"nobody":         func(p *ClearImport) { p.Source = "" },
		"a long story":   func(p *ClearImport) { p.Source = strings.Repeat("ر", 101) },
	} {
		bad := good
		spoil(&bad)
		require.Equal(t, CodeDocumentInvalid, w.refusedToPropose(ActionImportClear, bad).Code, name)
	}
	require.Equal(t, CodeDocumentInvalid, w.refusedToPropose(ActionImportClear, map[string]any{"sha256": good.SHA256, "lines": 1}).Code)
	good.Source = "کارخانه 7"
	require.Equal(t, ProposalDone, w.agreed(ActionImportClear, good).State)
}

// The row is bound to its id and under the state MAC: nobody without the host opens an import, or moves one.
func TestAnImportsRowIsChecked(t *testing.T) {
	w, file := newWorld(t), clearFile(makerSeed)
	open, waits := w.agreed(ActionImportClear, file.agreement()).ID, w.propose(alice, ActionImportClear, file.agreement()).ID
	row := w.row(clearImportKey(open))
	moved := row
	moved.Key = clearImportKey(waits)
	edited := store.Put{Key: row.Key, Value: append([]byte{}, row.Value...)}
	edited.Value[len(edited.Value)-1] ^= 1
	w.attack([]store.Put{moved, edited})
	for _, id := range []string{open, waits} {
		_, err := w.sendClear(alice, id, file)
		require.Equal(t, CodeTampered, CodeOf(err))
	}
	log := w.entries() // reading is the last
	require.Equal(t, []any{audit.Tampered, clearImportRow}, []any{log[len(log)-2].Outcome, log[len(log)-2].Reason})
}

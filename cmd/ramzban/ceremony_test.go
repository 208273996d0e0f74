package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/softhsm"
)

// hall is where ceremonies are held: a token, and a folder for what they write.
type hall struct {
	t    *testing.T
	tok  *softhsm.Token
	dir  string
	plan Plan
}

// newHall makes an empty token and the plan of a first ceremony.
func newHall(t *testing.T) *hall {
	t.Helper()
	tok, err := softhsm.Bare(t.TempDir())
	require.NoError(t, err)
	h := &hall{t: t, tok: tok, dir: t.TempDir()}
	h.plan = Plan{
		HSM: PlanHSM{Module: tok.Module, Profile: "softhsm", TokenLabel: tok.Label, PINFile: filepath.Join(tok.Dir, "pin"),
			Environment: map[string]string{"SOFTHSM2_CONF": tok.Conf}},
		Officers: []string{"sara", "omid"},
		Output:   PlanOutput{KnownAnswers: h.path("known-answer"), Transcript: h.path("one.json")},
	}
	for _, k := range hsm.FirstKeys() {
		h.plan.Keys = append(h.plan.Keys, PlanKey{Label: k.Key.Label, Version: 1, Origin: k.Origin})
	}
	return h
}

func (h *hall) path(name string) string { return filepath.Join(h.dir, name) }

// later plans another ceremony.
func (h *hall) later(transcript string, keys ...PlanKey) {
	h.plan.Keys, h.plan.Output.Transcript = keys, h.path(transcript)
}

// args writes the plan and returns the command line.
func (h *hall) args(more ...string) []string {
	h.t.Helper()
	b, err := yaml.Marshal(h.plan)
	require.NoError(h.t, err)
	require.NoError(h.t, os.WriteFile(h.path("plan.yaml"), b, 0o600))
	return append([]string{"ceremony", "--plan", h.path("plan.yaml")}, more...)
}

// hold runs the real binary, which must succeed.
func (h *hall) hold(in string, more ...string) string {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), ramzban, h.args(more...)...)
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.CombinedOutput()
	require.NoError(h.t, err, "%s", out)
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, h.dir) && !strings.Contains(line, h.tok.Dir) { // names of this test's folders are long
			require.LessOrEqual(h.t, len([]rune(strings.TrimRight(line, "\n"))), 80, "%s", line)
		}
	}
	return string(out)
}

// refused runs the real binary, dry and in earnest, which must refuse in one line and change nothing.
func (h *hall) refused(says ...string) {
	h.t.Helper()
	for _, more := range [][]string{nil, {"--execute"}} {
		args := h.args(more...)
		before := h.everything()
		_, stderr := runFailing(h.t, exitConfig, nil, args...)
		requireOneLine(h.t, stderr, says...)
		require.Equal(h.t, before, h.everything())
	}
}

// files are all files of the token and the folder, but what SoftHSM locks and counts logins with.
func (h *hall) files() map[string][]byte {
	h.t.Helper()
	all := map[string][]byte{}
	for _, dir := range []string{h.dir, h.tok.Dir} {
		require.NoError(h.t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, ".lock") || d.Name() == "generation" || d.Name() == "token.object" {
				return err
			}
			all[path], err = os.ReadFile(path)
			return err
		}))
	}
	return all
}

// everything tells any change of those files.
func (h *hall) everything() map[string]string {
	h.t.Helper()
	all := map[string]string{}
	for path, content := range h.files() {
		all[path] = sha256Hex(content)
	}
	return all
}

func (h *hall) read(name string) []byte {
	h.t.Helper()
	b, err := os.ReadFile(h.path(name))
	require.NoError(h.t, err)
	return b
}

// opensslAgrees checks a transcript as anybody can.
func (h *hall) opensslAgrees(name string) bool {
	out, err := exec.Command("openssl", "dgst", "-sha256", "-verify", h.path(name+".pem"), "-signature", h.path(name+".sig"), h.path(name)).CombinedOutput()
	return err == nil && string(out) == "Verified OK\n"
}

func (h *hall) transcript(name string) transcript {
	h.t.Helper()
	var t transcript
	d := json.NewDecoder(bytes.NewReader(h.read(name)))
	d.DisallowUnknownFields()
	require.NoError(h.t, d.Decode(&t))
	return t
}

func (h *hall) answers() []hsm.KnownAnswer {
	h.t.Helper()
	var answers []hsm.KnownAnswer
	require.NoError(h.t, json.Unmarshal(h.read("known-answer"), &answers))
	return answers
}

// opens checks that the service's HSM opens with what the ceremonies noted.
func (h *hall) opens() {
	h.t.Helper()
	require.NoError(h.t, os.Setenv("SOFTHSM2_CONF", h.tok.Conf))
	c := h.tok.Config()
	c.KnownAnswers = h.answers()
	opened, err := hsm.Open(h.t.Context(), c)
	require.NoError(h.t, err)
	require.NoError(h.t, opened.Close())
}

// From the empty token to a rotation: the dry run changes nothing, the transcript verifies with openssl alone, and what was
// held once is refused from then on.
func TestCeremony(t *testing.T) {
	h := newHall(t)
	args := h.args()
	before := h.everything()
	out := h.hold("")
	require.Equal(t, before, h.everything())
	for _, say := range []string{"dry run", "ramzban/wrap/1    -    generate it in the HSM", "sara, omid", "Nothing stands in the way", sha256Hex(h.read("plan.yaml"))} {
		require.Contains(t, out, say)
	}
	require.Len(t, args, 3)

	out = h.hold("", "--execute")
	require.Contains(t, out, "The ceremony was held.")
	require.True(t, h.opensslAgrees("one.json"))
	h.opens()
	said := h.transcript("one.json")
	require.Equal(t, sha256Hex(h.read("plan.yaml")), said.Plan.SHA256)
	require.Equal(t, sha256Hex(h.read("known-answer")), said.Answers.SHA256)
	require.Equal(t, h.plan.Officers, said.Officers)
	require.Equal(t, h.tok.Module, said.Module.Path)
	require.Len(t, said.Token.Serial, 16)
	require.Equal(t, string(h.read("one.json.pem")), said.Public)
	require.Equal(t, "ramzban/audit/1", said.SignedBy)
	require.False(t, said.Began.After(said.Ended))
	require.Empty(t, said.Before)
	require.Len(t, said.Keys, 9)
	for _, k := range said.Keys {
		require.Contains(t, out, fmt.Sprintf("%-17s %-16s  generate", k.Object, k.KCV)[:17])
		require.Contains(t, out, k.KCV)
		require.Contains(t, k.Attributes, hsm.ReadAttribute{Name: "CKA_NEVER_EXTRACTABLE", Value: "true"})
	}
	for _, change := range []string{"sara", said.Keys[0].KCV, said.Token.Serial, said.Plan.SHA256} {
		signed := h.read("one.json")
		require.NoError(t, os.WriteFile(h.path("one.json"), bytes.Replace(signed, []byte(change), []byte("x"+change[1:]), 1), 0o600))
		require.False(t, h.opensslAgrees("one.json"), change)
		require.NoError(t, os.WriteFile(h.path("one.json"), signed, 0o600))
	}

	h.refused("output.transcript", "one.json is there already: a ceremony is held once")
	h.plan.Output.Transcript = h.path("two.json")
	h.refused("ramzban/wrap/1 has a known answer from an earlier ceremony")
	answers := h.plan.Output.KnownAnswers
	h.plan.Output.KnownAnswers = h.path("other-answers")
	h.refused("ramzban/wrap/1 is in the HSM already")
	h.plan.Output.KnownAnswers = answers

	require.NoError(t, os.Chmod(answers, 0o640))
	earlier := h.answers()
	h.later("two.json", PlanKey{Label: "wrap", Version: 2, Origin: hsm.Generated}, PlanKey{Label: "audit", Version: 2, Origin: hsm.Generated})
	out = h.hold("", "--execute")
	require.Contains(t, out, "known from an earlier ceremony")
	require.Contains(t, out, "known-answer (extended)")
	require.Equal(t, earlier, h.answers()[:len(earlier)])
	require.Len(t, h.answers(), len(earlier)+2)
	info, err := os.Stat(answers)
	require.NoError(t, err)
	require.EqualValues(t, 0o640, info.Mode().Perm(), "the service's user must still be able to read it")
	require.True(t, h.opensslAgrees("one.json"))
	require.True(t, h.opensslAgrees("two.json"))
	require.Equal(t, "ramzban/audit/2", h.transcript("two.json").SignedBy)
	require.Len(t, h.transcript("two.json").Before, len(earlier))
	h.opens()
}

// Whatever is wrong with the plan's files, PIN or token is said in one line, and nothing is made.
func TestCeremonySaysInOneLineWhyItIsNotHeld(t *testing.T) {
	h := newHall(t)
	first := h.plan
	for says, spoil := range map[string]func(){
		"output: /nonexistent is no folder":             func() { h.plan.Output.Transcript = "/nonexistent/one.json" },
		"output: /nowhere is no folder":                 func() { h.plan.Output.KnownAnswers = "/nowhere/answers" },
		"output.known_answers: " + h.dir:                func() { h.plan.Output.KnownAnswers = h.dir },
		"is not the known answers of a key ceremony":    func() { h.plan.Output.KnownAnswers = writeFile(t, "x", "x") },
		"one.json.sig is there already":                 func() { require.NoError(t, os.WriteFile(h.path("one.json.sig"), nil, 0o600)) },
		"hsm.pin_file: open /nonexistent":               func() { h.plan.HSM.PINFile = "/nonexistent" },
		"RAMZBAN_NO_PIN is not set":                     func() { h.plan.HSM.PINFile, h.plan.HSM.PINEnv = "", "RAMZBAN_NO_PIN" },
		`no PKCS#11 token is labelled "other"`:          func() { h.plan.HSM.TokenLabel = "other" },
		"/nonexistent.so":                               func() { h.plan.HSM.Module = "/nonexistent.so" },
		"ramzban/audit is neither in the plan nor":      func() { h.plan.Keys = h.plan.Keys[:8] },
		"ramzban/wrap/1: clone it into the HSM":         func() { h.plan.Keys[0] = PlanKey{"wrap", 1, hsm.VendorClone, KeyCheckValue{1, 2, 3}, nil} },
		"ramzban/wrap/1 needs a key check value":        func() { h.plan.Keys[0].Origin = hsm.VendorClone },
		`no master key is labelled "king": use one of `: func() { h.plan.Keys[0].Label = "king" },
	} {
		h.plan = first
		h.plan.Keys = append([]PlanKey(nil), first.Keys...)
		spoil()
		h.refused(says)
		_ = os.Remove(h.path("one.json.sig"))
	}
	h.plan = first
	h.plan.HSM.PINFile = writeFile(t, "pin", "271828")
	_, stderr := runFailing(t, exitPIN, nil, h.args()...)
	requireOneLine(t, stderr, "refused the PIN")
}

// components fills the plan's secret keys with components of two custodians, and returns what they type.
func (h *hall) components() (lines []string) {
	h.t.Helper()
	for i, k := range h.plan.Keys {
		length, err := hsm.ShareLength(k.Label)
		if err != nil {
			continue
		}
		k.Origin = hsm.Components
		whole := make([]byte, length)
		for _, custodian := range []string{"leila", "reza"} {
			sum := sha256.Sum256([]byte(custodian + k.Label))
			share := bytes.Repeat(sum[:], length/len(sum))
			kcv, err := hsm.ShareKCV(k.Label, share)
			require.NoError(h.t, err)
			k.Components = append(k.Components, PlanComponent{custodian, kcv})
			for j := range whole {
				whole[j] ^= share[j]
			}
			lines = append(lines, hex.EncodeToString(share))
		}
		kcv, err := hsm.ShareKCV(k.Label, whole)
		require.NoError(h.t, err)
		k.KCV = kcv
		h.plan.Keys[i] = k
	}
	return lines
}

// Custodians put keys together, on one HSM and on the one that replaces it: the same key check values. No component is
// shown, kept or put into a message.
func TestCeremonyFromComponents(t *testing.T) {
	var kcvs []string
	for _, name := range []string{"lost", "replacement"} {
		h := newHall(t)
		lines := h.components()
		lines[0] = strings.ToUpper(lines[0][:8]) + " " + lines[0][8:40] + "-" + lines[0][40:]
		out := h.hold(strings.Join(lines, "\n"), "--execute")
		require.Contains(t, out, "from components of leila, reza")
		require.Contains(t, out, "ramzban/wrap/1, component 2 of 2: key check value "+h.plan.Keys[0].Components[1].KCV.String()+", as planned for reza")
		var found string
		for _, k := range h.transcript("one.json").Keys {
			if k.Origin == hsm.Components {
				found += k.Object + k.KCV
				require.Len(t, k.Components, 2)
				require.Equal(t, "leila", k.Components[0].Custodian)
			}
		}
		kcvs = append(kcvs, found)
		h.opens()
		require.True(t, h.opensslAgrees("one.json"))
		for path, content := range h.files() {
			if !strings.HasSuffix(path, ".object") {
				out += string(content)
			}
		}
		for _, line := range lines {
			require.NotContains(t, strings.ToLower(out), strings.ToLower(line[:8]), name)
		}
	}
	require.NotEmpty(t, kcvs[0])
	require.Equal(t, kcvs[0], kcvs[1])
}

// A custodian's slip is refused before anything is made, and not shown.
func TestWrongComponentsAreRefused(t *testing.T) {
	h := newHall(t)
	lines := h.components()
	for says, typed := range map[string][]string{
		"ramzban/wrap/1, component 2 of 2: the key ceremony is refused: what reza typed has key check value": {lines[0], lines[2]},
		"a component is typed as hex digits": {lines[0], "x" + lines[1][1:]},
		"has 32 bytes, not 31":               {lines[0], lines[1][2:]},
		"no component given":                 {lines[0]},
		"too long for a component":           {strings.Repeat("00", 600)},
	} {
		args := h.args("--execute")
		before := h.everything()
		cmd := exec.CommandContext(t.Context(), ramzban, args...)
		cmd.Stdin = strings.NewReader(strings.Join(typed, "\n"))
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		require.Error(t, cmd.Run())
		require.Equal(t, exitConfig, cmd.ProcessState.ExitCode())
		requireOneLine(t, stderr.String(), says)
		require.Equal(t, before, h.everything())
		for _, line := range lines[:3] {
			require.NotContains(t, stdout.String()+stderr.String(), line[2:10])
		}
	}
}

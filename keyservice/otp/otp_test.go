package otp_test

import (
	"bufio"
	"crypto/hmac"
	"encoding/base32"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	pquerna "github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// vectors reads the fields of each line of a file in testdata that is not a comment.
func vectors(t *testing.T, name string) [][]string {
	f, err := os.Open("testdata/" + name)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	var lines [][]string
	for in := bufio.NewScanner(f); in.Scan(); {
		if line := in.Text(); !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.Fields(line))
		}
	}
	require.NotEmpty(t, lines)
	return lines
}

func mac(h seed.Hash, key, message []byte) []byte {
	m := hmac.New(h.New(), key)
	m.Write(message)
	return m.Sum(nil)
}

func TestRFC4226AppendixD(t *testing.T) {
	for _, v := range vectors(t, "rfc4226-appendix-d.txt") {
		counter, err := strconv.ParseUint(v[0], 10, 64)
		require.NoError(t, err)
		got, err := otp.Truncate(mac(seed.SHA1, []byte("12345678901234567890"), otp.Message(counter)), 6)
		require.NoError(t, err)
		require.Equal(t, v[1], got.Reveal(), "counter %d", counter)
	}
}

func TestRFC6238AppendixB(t *testing.T) {
	for _, v := range vectors(t, "rfc6238-appendix-b.txt") {
		unix, err := strconv.ParseInt(v[0], 10, 64)
		require.NoError(t, err)
		h, err := seed.ParseHash(v[1])
		require.NoError(t, err)
		key := []byte(strings.Repeat("1234567890", 7)[:map[seed.Hash]int{seed.SHA1: 20, seed.SHA256: 32, seed.SHA512: 64}[h]])
		p := otp.Policy{Type: otp.TOTP, Hash: h, Digits: 8, Period: 30 * time.Second, Validity: 30 * time.Second}
		plan := p.Plan(time.Unix(unix, 0), 0, 0)
		require.Len(t, plan, 1, "no drift, validity of one period: exactly one step")
		got, err := otp.Truncate(mac(h, key, otp.Message(plan[0])), 8)
		require.NoError(t, err)
		require.Equal(t, v[2], got.Reveal(), "%s at %d", h, unix)
	}
}

func TestTruncateAgreesWithAnIndependentLibrary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 20, 64).Draw(t, "key")
		counter := rapid.Uint64().Draw(t, "counter")
		digits := rapid.IntRange(6, 8).Draw(t, "digits")
		hash := rapid.SampledFrom([]seed.Hash{seed.SHA1, seed.SHA256, seed.SHA512}).Draw(t, "hash")
		algorithm := map[seed.Hash]pquerna.Algorithm{seed.SHA1: pquerna.AlgorithmSHA1, seed.SHA256: pquerna.AlgorithmSHA256, seed.SHA512: pquerna.AlgorithmSHA512}[hash]
		want, err := hotp.GenerateCodeCustom(base32Of(key), counter, hotp.ValidateOpts{Digits: pquerna.Digits(digits), Algorithm: algorithm})
		require.NoError(t, err)
		got, err := otp.Truncate(mac(hash, key, otp.Message(counter)), digits)
		require.NoError(t, err)
		require.Equal(t, want, got.Reveal())
	})
}

func TestTruncateRefusesWhatIsNoMAC(t *testing.T) {
	for _, n := range []int{0, 4, 19} {
		_, err := otp.Truncate(make([]byte, n), 6)
		require.Error(t, err, "%d bytes", n)
	}
	for _, digits := range []int{-1, 0, 3, 11} {
		_, err := otp.Truncate(make([]byte, 20), digits)
		require.Error(t, err, "%d digits", digits)
	}
}

func totps(t *rapid.T) otp.Policy {
	seconds := func(name string, from, to int) time.Duration {
		return time.Duration(rapid.IntRange(from, to).Draw(t, name)) * time.Second
	}
	p := otp.Policy{Type: otp.TOTP, Hash: seed.SHA1, Digits: 6, Period: seconds("period", 5, 120)}
	p.Validity = p.Period + seconds("more validity", 0, 120)
	p.DriftBound = seconds("bound", 0, 300)
	p.DriftSearch = min(seconds("search", 0, 100), p.DriftBound)
	return p
}

// The plan holds exactly the steps that the definition allows: those for which some phone clock within the search of the
// drift or of none, and within the bound, has s·P ≤ phone time < s·P + V.
func TestPlanIsTheDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := totps(t)
		now := time.UnixMilli(rapid.Int64Range(0, 4_000_000_000_000).Draw(t, "now"))
		bound := int64(p.DriftBound / time.Millisecond)
		drift := time.Duration(rapid.Int64Range(-bound, bound).Draw(t, "drift")) * time.Millisecond
		current := uint64(now.UnixMilli() / p.Period.Milliseconds())
		next := rapid.Uint64Range(max(current, 20)-20, current+20).Draw(t, "next")
		slow := now.Add(max(min(drift, 0)-p.DriftSearch, -p.DriftBound))
		fast := now.Add(min(max(drift, 0)+p.DriftSearch, p.DriftBound))
		var want []uint64
		for s := max(current, 100) - 100; s < current+100; s++ {
			begin := time.UnixMilli(int64(s) * p.Period.Milliseconds())
			if s >= next && !begin.After(fast) && slow.Before(begin.Add(p.Validity)) {
				want = append(want, s)
			}
		}
		require.ElementsMatch(t, want, p.Plan(now, drift, next))
	})
}

// A phone whose clock is as far off as was learnt makes the password that is tried first.
func TestPlanTriesTheLikeliestFirst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := totps(t)
		now := time.UnixMilli(rapid.Int64Range(1_000_000_000_000, 2_000_000_000_000).Draw(t, "now"))
		bound := int64(p.DriftBound / time.Millisecond)
		drift := time.Duration(rapid.Int64Range(-bound, bound).Draw(t, "drift")) * time.Millisecond
		made := uint64(now.Add(drift).UnixMilli() / p.Period.Milliseconds())
		require.Equal(t, made, p.Plan(now, drift, 0)[0])
	})
}

// Whatever was accepted, the drift learnt stays within the bound, explains passwords that came early, and goes down only
// towards none; and a phone with the right clock, or with the learnt one, is always found, however late others typed.
func TestLearntDriftIsBoundedAndLosesNoPhone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := totps(t)
		now := time.UnixMilli(rapid.Int64Range(1_000_000_000_000, 2_000_000_000_000).Draw(t, "now"))
		drift := time.Duration(0)
		for range 10 {
			step := rapid.SampledFrom(p.Plan(now, drift, 0)).Draw(t, "accepted")
			learnt := p.LearnDrift(now, drift, step)
			require.LessOrEqual(t, learnt.Abs(), p.DriftBound)
			begin := time.UnixMilli(int64(step) * p.Period.Milliseconds())
			require.False(t, now.Add(learnt).Before(begin), "phone time is not before the step")
			require.GreaterOrEqual(t, learnt, min(drift, 0), "lateness teaches nothing")
			for _, clock := range []time.Duration{0, learnt} {
				made := uint64(now.Add(clock).UnixMilli() / p.Period.Milliseconds())
				require.Contains(t, p.Plan(now, learnt, 0), made)
			}
			drift, now = learnt, now.Add(p.Period)
		}
	})
}

// What two consecutive passwords prove explains the second and stays within the bound.
func TestResyncDriftExplainsThePassword(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := totps(t)
		now := time.UnixMilli(rapid.Int64Range(1_000_000_000_000, 2_000_000_000_000).Draw(t, "now"))
		first := rapid.SampledFrom(p.ResyncPlan(now, 0)).Draw(t, "first")
		bound := int64(p.DriftBound / time.Millisecond)
		before := time.Duration(rapid.Int64Range(-bound, bound).Draw(t, "drift")) * time.Millisecond
		learnt := p.ResyncDrift(now, before, first+1)
		require.LessOrEqual(t, learnt.Abs(), p.DriftBound)
		begin := time.UnixMilli(int64(first+1) * p.Period.Milliseconds())
		require.False(t, now.Add(learnt).Before(begin))
		require.True(t, now.Add(learnt).Before(begin.Add(p.Validity)))
	})
}

// The failing case of a simpler rule: passwords typed 110 and 150 seconds late once taught that the phone is slow, and
// the next one, on time, was not found.
func TestLatePasswordsTeachNothing(t *testing.T) {
	p := otp.Policy{Type: otp.TOTP, Hash: seed.SHA1, Digits: 6, Period: time.Minute, Validity: time.Minute, DriftSearch: time.Minute, DriftBound: 3 * time.Minute}
	begin := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	step := uint64(begin.Unix() / 60)
	require.Zero(t, p.LearnDrift(begin.Add(110*time.Second), 0, step))
	require.Equal(t, -90*time.Second, p.LearnDrift(begin.Add(150*time.Second), -90*time.Second, step))
	require.Contains(t, p.Plan(begin.Add(5*time.Second), -90*time.Second, 0), step)
	require.Equal(t, 40*time.Second, p.LearnDrift(begin.Add(-40*time.Second), 0, step), "an early one proves a clock ahead")
	require.Equal(t, 20*time.Second-time.Millisecond, p.LearnDrift(begin.Add(40*time.Second), 90*time.Second, step), "a late one takes that back …")
	require.Zero(t, p.LearnDrift(begin.Add(100*time.Second), 90*time.Second, step), "… and no more")
}

func TestHOTPPlan(t *testing.T) {
	p := otp.Policy{Type: otp.HOTP, Hash: seed.SHA1, Digits: 6, LookAhead: 3}
	require.Equal(t, []uint64{7, 8, 9, 10}, p.Plan(time.Now(), time.Hour, 7))
	require.Zero(t, p.LearnDrift(time.Now(), time.Hour, 9))
	require.Equal(t, []uint64{math.MaxUint64 - 3, math.MaxUint64 - 2, math.MaxUint64 - 1, math.MaxUint64}, p.Plan(time.Now(), 0, math.MaxUint64-3))
	require.Empty(t, p.Plan(time.Now(), 0, math.MaxUint64), "the counter does not wrap round")
}

func TestEqual(t *testing.T) {
	require.True(t, otp.Equal(seed.NewPassword("123456"), seed.NewPassword("123456")))
	for _, other := range []string{"123457", "12345", "1234567", "", " 123456", "123456\x00"} {
		require.False(t, otp.Equal(seed.NewPassword("123456"), seed.NewPassword(other)), "%q", other)
	}
}

func TestPolicyValidate(t *testing.T) {
	good := otp.Policy{Type: otp.TOTP, Hash: seed.SHA1, Digits: 6, Period: time.Minute, Validity: time.Minute, DriftSearch: time.Minute, DriftBound: time.Minute}
	require.NoError(t, good.Validate())
	bad := map[string]func(*otp.Policy){
		"no hash":                func(p *otp.Policy) { p.Hash = 0 },
		"five digits":            func(p *otp.Policy) { p.Digits = 5 },
		"nine digits":            func(p *otp.Policy) { p.Digits = 9 },
		"no type":                func(p *otp.Policy) { p.Type = "" },
		"no period":              func(p *otp.Policy) { p.Period = 0 },
		"half a second":          func(p *otp.Policy) { p.Period = 1500 * time.Millisecond },
		"validity below period":  func(p *otp.Policy) { p.Validity = time.Second },
		"search above bound":     func(p *otp.Policy) { p.DriftSearch = 2 * time.Minute },
		"negative drift":         func(p *otp.Policy) { p.DriftBound = -time.Second },
		"a window of 61 steps":   func(p *otp.Policy) { p.Period, p.Validity, p.DriftSearch = 2*time.Second, 2*time.Second, time.Minute },
		"look-ahead with a step": func(p *otp.Policy) { p.LookAhead = 1 },
		"hotp with a period":     func(p *otp.Policy) { p.Type = otp.HOTP },
		"hotp, look-ahead of 51": func(p *otp.Policy) { *p = otp.Policy{Type: otp.HOTP, Hash: seed.SHA1, Digits: 6, LookAhead: 51} },
	}
	for name, spoil := range bad {
		p := good
		spoil(&p)
		require.Error(t, p.Validate(), name)
	}
}

// What is typed is digits only: nothing else passes, whatever it looks like.
func FuzzCheckDigits(f *testing.F) {
	for _, s := range []string{"", "123456", " 123456", "123456 ", "12 456", "12345٦", "１２３４５６", "123456\n", "-12345", "12345\x00", "0x1234"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		onlyDigits := strings.Trim(s, "0123456789") == ""
		require.Equal(t, onlyDigits, otp.CheckDigits(seed.NewPassword(s)) == nil, "%q", s)
	})
}

func base32Of(key []byte) string { return base32.StdEncoding.EncodeToString(key) }

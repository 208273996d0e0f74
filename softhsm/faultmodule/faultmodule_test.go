package faultmodule_test

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/softhsm/faultmodule"
)

// CKR codes.
const (
	generalError    = 0x05
	deviceError     = 0x30
	deviceRemoved   = 0x32
	objectInvalid   = 0x82
	operationActive = 0x90
	sessionCount    = 0xb1
	sessionInvalid  = 0xb3
	alreadyLoggedIn = 0x100
	notLoggedIn     = 0x101
	notInitialized  = 0x190
)

func TestForwardsUnchangedWhenNoFaultIsSet(t *testing.T) {
	d, c := setup(t)
	s := d.begin()
	key := d.must("create", "a", s, 0xaa, 0)
	d.signsWith(0xaa, s, key)
	require.Equal(t, map[string]uint64{
		"C_Initialize": 1, "C_GetSlotList": 1, "C_GetTokenInfo": 2, "C_OpenSession": 1, "C_Login": 1, "C_CreateObject": 1,
		"C_SignInit": 1, "C_Sign": 1,
	}, c.Counts())
	require.Equal(t, faultmodule.Stats{Generation: 1, Sessions: 1, SessionObjects: 1}, c.Stats())
	d.must("finalize", "-")
	require.Equal(t, faultmodule.Stats{Generation: 1}, c.Stats())
}

func TestFaultHitsTheCallsItWasSetFor(t *testing.T) {
	d, c := setup(t)
	s := d.begin()
	t.Run("the next two", func(t *testing.T) {
		c.Inject(faultmodule.Fault{Function: faultmodule.GenerateRandom, Code: deviceError, Times: 2})
		d.refused(deviceError, "random", "-", s)
		d.refused(deviceError, "random", "-", s)
		d.must("random", "-", s)
		require.EqualValues(t, 2, c.Injected(faultmodule.GenerateRandom))
	})
	t.Run("one after two", func(t *testing.T) {
		c.Inject(faultmodule.Fault{Function: faultmodule.GenerateRandom, Code: deviceError, Skip: 2, Times: 1})
		d.must("random", "-", s)
		d.must("random", "-", s)
		d.refused(deviceError, "random", "-", s)
		d.must("random", "-", s)
	})
	t.Run("every one until cleared", func(t *testing.T) {
		c.Inject(faultmodule.Fault{Function: faultmodule.GenerateRandom, Code: deviceRemoved})
		for range 20 {
			d.refused(deviceRemoved, "random", "-", s)
		}
		c.Clear()
		d.must("random", "-", s)
	})
	t.Run("about one in four", func(t *testing.T) {
		c.Inject(faultmodule.Fault{Function: faultmodule.GenerateRandom, Code: deviceError, Probability: 0.25})
		before := c.Injected(faultmodule.GenerateRandom)
		for range 400 {
			d.do("random", "-", s)
		}
		require.InDelta(t, 100, c.Injected(faultmodule.GenerateRandom)-before, 60) // seven standard deviations
	})
}

func TestFailedButDone(t *testing.T) {
	d, c := setup(t)
	s := d.begin()
	key := d.must("create", "a", s, 0xaa, 0)
	c.Inject(faultmodule.Fault{Function: faultmodule.DestroyObject, Code: deviceError, Times: 1})
	d.refused(deviceError, "destroy", "-", s, key)
	d.signsWith(0xaa, s, key)
	c.Inject(faultmodule.Fault{Function: faultmodule.DestroyObject, Code: deviceError, Times: 1, Done: true})
	d.refused(deviceError, "destroy", "-", s, key)
	require.Zero(t, c.Stats().SessionObjects)
	d.refused(objectInvalid, "sign", "-", s, key)
}

// A fault in C_Sign leaves the operation that C_SignInit began, as a real failure may.
func TestFaultLeavesOperationActive(t *testing.T) {
	d, c := setup(t)
	s := d.begin()
	key := d.must("create", "a", s, 0xaa, 0)
	c.Inject(faultmodule.Fault{Function: faultmodule.Sign, Code: deviceError, Times: 1})
	d.refused(deviceError, "sign", "-", s, key)
	d.refused(operationActive, "sign", "-", s, key)
}

func TestStaleObjectHandleMeansAnotherObject(t *testing.T) {
	d, _ := setup(t)
	s := d.begin()
	a := d.must("create", "a", s, 0xaa, 0)
	b := d.must("create", "b", s, 0xbb, 0)
	require.NotEqual(t, a, b)
	d.must("destroy", "-", s, a)
	d.refused(objectInvalid, "sign", "-", s, a)
	require.Equal(t, a, d.must("create", "c", s, 0xcc, 0), "a free number is given out at once")
	d.signsWith(0xcc, s, a)
	d.signsWith(0xbb, s, b)
}

func TestStaleHandlesOfAnEarlierGenerationMeanOthers(t *testing.T) {
	d, _ := setup(t)
	s := d.begin()
	slot := d.must("slot", label)
	a := d.must("create", "a", s, 0xaa, 0)
	d.must("finalize", "-")
	d.refused(notInitialized, "sign", "-", s, a)
	require.Equal(t, s, d.begin())
	require.NotEqual(t, slot, d.must("slot", label), "slot numbers change")
	d.refused(objectInvalid, "sign", "-", s, a)
	require.Equal(t, a, d.must("create", "b", s, 0xbb, 0))
	d.signsWith(0xbb, s, a)
}

func TestClosedSessionTakesItsObjectsAndFreesItsNumbers(t *testing.T) {
	d, c := setup(t)
	keeper := d.begin()
	slot := d.must("slot", label)
	s := d.must("open", "-", slot)
	a := d.must("create", "a", s, 0xaa, 0)
	d.signsWith(0xaa, keeper, a)
	d.must("close", "-", s)
	d.refused(sessionInvalid, "sign", "-", s, a)
	d.refused(objectInvalid, "sign", "-", keeper, a)
	require.Equal(t, faultmodule.Stats{Generation: 1, Sessions: 1}, c.Stats())
	require.Equal(t, s, d.must("open", "-", slot))
	require.Equal(t, a, d.must("create", "b", s, 0xbb, 0))
	d.must("closeall", "-", slot)
	require.Equal(t, faultmodule.Stats{Generation: 1}, c.Stats())
}

func TestTokenObjectsOutliveTheirSession(t *testing.T) {
	d, c := setup(t)
	keeper := d.begin()
	s := d.must("open", "-", d.must("slot", label))
	a := d.must("create", "kept", s, 0xaa, 1)
	d.must("close", "-", s)
	d.signsWith(0xaa, keeper, a)
	require.Equal(t, a, d.must("find", "kept", keeper), "a search finds the number that the object has")
	require.Zero(t, c.Stats().SessionObjects)
}

func TestLoseSessions(t *testing.T) {
	d, c := setup(t)
	s := d.begin()
	a := d.must("create", "a", s, 0xaa, 0)
	c.LoseSessions()
	d.refused(sessionInvalid, "sign", "-", s, a)
	require.Equal(t, faultmodule.Stats{Generation: 1}, c.Stats())
	require.Equal(t, s, d.must("open", "-", d.must("slot", label)))
	d.refused(alreadyLoggedIn, "login", pin(), s)
	require.Equal(t, a, d.must("create", "b", s, 0xbb, 0))
}

func TestLoseObjects(t *testing.T) {
	d, c := setup(t)
	s := d.begin()
	a := d.must("create", "lost-a", s, 0xaa, 1)
	b := d.must("create", "lost-b", s, 0xbb, 1)
	c.LoseObjects()
	d.refused(objectInvalid, "sign", "-", s, b)
	require.Equal(t, a, d.must("find", "lost-b", s), "the numbers are exchanged")
	require.Equal(t, b, d.must("find", "lost-a", s))
	d.signsWith(0xbb, s, a)
}

func TestLoseLogin(t *testing.T) {
	d, c := setup(t)
	s := d.begin()
	a := d.must("create", "hidden", s, 0xaa, 1)
	c.LoseLogin()
	d.refused(notLoggedIn, "sign", "-", s, a)
	require.Zero(t, d.must("find", "hidden", s))
	d.must("random", "-", s)
	d.must("login", pin(), s)
	d.refused(alreadyLoggedIn, "login", pin(), s)
	d.signsWith(0xaa, s, a)
}

func TestBrokenDeviceUntilInitialisedAgain(t *testing.T) {
	d, c := setup(t)
	s := d.begin()
	c.Break(deviceRemoved)
	d.refused(deviceRemoved, "random", "-", s)
	d.refused(deviceRemoved, "slot", label)
	d.must("finalize", "-")
	c.Inject(faultmodule.Fault{Function: faultmodule.Initialize, Code: deviceError, Times: 1})
	d.refused(deviceError, "init", "-")
	d.must("random", "-", d.begin())
	require.EqualValues(t, 2, c.Stats().Generation)
}

func TestSessionLimit(t *testing.T) {
	d, c := setup(t)
	s := d.begin()
	slot := d.must("slot", label)
	c.LimitSessions(1)
	d.refused(sessionCount, "open", "-", slot)
	d.must("close", "-", s)
	d.must("open", "-", slot)
}

func TestDelayHoldsCallsUntilItIsTakenBack(t *testing.T) {
	d, c := setup(t)
	s := d.begin()
	c.Delay(30*time.Millisecond, faultmodule.GenerateRandom)
	start := time.Now()
	d.must("random", "-", s)
	require.GreaterOrEqual(t, time.Since(start), 30*time.Millisecond)

	hold(t, d, c, s)
	c.Delay(0)
	d.must("join", "-")
}

// hold starts a call in another thread of the driver and returns when it hangs in the module.
func hold(t *testing.T, d *driver, c *faultmodule.Control, session uint64) {
	t.Helper()
	c.Delay(time.Hour, faultmodule.GenerateRandom)
	before := c.Calls(faultmodule.GenerateRandom)
	d.must("start", "-", session)
	eventually(t, func() bool { return c.Calls(faultmodule.GenerateRandom) == before+1 })
}

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 10*time.Second, time.Millisecond)
}

func TestTwoCallsInOneSessionAreCountedAndSerialised(t *testing.T) {
	d, c := setup(t)
	s := d.begin()
	key := d.must("create", "a", s, 0xaa, 0)
	hold(t, d, c, s)
	require.Zero(t, c.Stats().SharedSessions)
	d.send("destroy", "-", s, key)
	eventually(t, func() bool { return c.Stats().SharedSessions == 1 })
	require.EqualValues(t, 1, c.Stats().SessionObjects)
	c.Delay(0)
	require.Zero(t, d.receive().rv)
	d.must("join", "-")
	require.Zero(t, c.Stats().SessionObjects)
}

func TestFinaliseUnderARunningCallIsCountedAndRefused(t *testing.T) {
	d, c := setup(t)
	s := d.begin()
	hold(t, d, c, s)
	d.refused(generalError, "finalize", "-")
	require.EqualValues(t, 1, c.Stats().EarlyFinalizes)
	c.Delay(0)
	d.must("join", "-")
	d.must("finalize", "-")
	require.EqualValues(t, 1, c.Stats().EarlyFinalizes)
}

// pkcs11-tool knows nothing of this project: it finds the token, logs in and reads random bytes through the module.
func TestServesAnotherPKCS11Application(t *testing.T) {
	c := newControl(t)
	tool := func(args ...string) (string, error) {
		args = append([]string{"--module", c.Module(), "--token-label", label}, args...)
		out, err := exec.Command("pkcs11-tool", args...).CombinedOutput()
		return string(out), err
	}
	out, err := tool("--login", "--pin", pin(), "--keygen", "--key-type", "AES:32", "--label", "k")
	require.NoError(t, err, out)
	out, err = tool("--login", "--pin", pin(), "--list-objects")
	require.NoError(t, err, out)
	require.Contains(t, out, "label:      k")
	require.EqualValues(t, 2, c.Calls(faultmodule.Login))

	c.Inject(faultmodule.Fault{Function: faultmodule.Login, Code: 0xa4}) // CKR_PIN_LOCKED
	out, err = tool("--login", "--pin", pin(), "--list-objects")
	require.Error(t, err)
	require.Contains(t, out, "CKR_PIN_LOCKED")
}

func TestEveryFunctionHasItsName(t *testing.T) {
	for want, f := range map[string]faultmodule.Function{
		"C_Initialize": faultmodule.Initialize, "C_Login": faultmodule.Login, "C_Sign": faultmodule.Sign,
		"C_UnwrapKey": faultmodule.UnwrapKey, "C_WaitForSlotEvent": faultmodule.WaitForSlotEvent,
	} {
		require.Equal(t, want, f.String())
	}
}

func TestBuildReusesWhatItBuilt(t *testing.T) {
	dir := t.TempDir()
	first, err := faultmodule.Build(dir)
	require.NoError(t, err)
	t.Setenv("PATH", "")
	t.Setenv("CC", "")
	second, err := faultmodule.Build(dir)
	require.NoError(t, err)
	require.Equal(t, first, second)
}

func TestBuildSaysWhatIsMissing(t *testing.T) {
	t.Setenv("PATH", "")
	t.Setenv("CC", "")
	_, err := faultmodule.Build(t.TempDir())
	require.ErrorIs(t, err, faultmodule.ErrNoCompiler)
	require.ErrorContains(t, err, "apt-get install gcc")

	_, err = faultmodule.New(t.TempDir(), filepath.Join(t.TempDir(), "none.so"))
	require.ErrorContains(t, err, "the module to wrap")
}

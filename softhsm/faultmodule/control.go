package faultmodule

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// Control steers one module, in this process or in any other that loaded Module(). What is set holds from the next call
// on. All methods are safe for concurrent use until Close.
type Control struct {
	path string
	mem  []byte
	file *layout
}

// Fault makes a function answer a CKR code instead of its own.
type Fault struct {
	Function    Function
	Code        uint64  // the CKR code to answer; 0 = no fault
	Skip        uint64  // let so many calls pass first
	Times       uint64  // then answer so many calls with Code; 0 = every one until Clear
	Probability float64 // answer each of these only with this probability, 0 to 1; 0 = always
	Done        bool    // do the work first, then answer Code: "failed but done"; else the real function is not called
}

// Stats tells how the module is used.
type Stats struct {
	Generation     uint64 // successful C_Initialize
	Sessions       uint64 // sessions open now
	SessionObjects uint64 // session objects that exist now
	SharedSessions uint64 // a fault of the application: calls on a session in which another call was running
	EarlyFinalizes uint64 // a fault of the application: C_Finalize while another call was running; refused
}

// New puts a fault module and its control file into dir (which must exist and be private to one test). It forwards to
// the PKCS#11 module at real. The compiled module is kept in the user's cache folder.
func New(dir, real string) (*Control, error) {
	if _, err := os.Stat(real); err != nil {
		return nil, fmt.Errorf("fault module: the module to wrap: %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = dir
	}
	built, err := Build(filepath.Join(cache, "ramzban-faultmodule"))
	if err != nil {
		return nil, err
	}
	code, err := os.ReadFile(built)
	if err != nil {
		return nil, fmt.Errorf("fault module: %w", err)
	}
	// A copy per control file: the module finds the file by its own path.
	c := &Control{path: filepath.Join(dir, "faultmodule.so")}
	if err := os.WriteFile(c.path, code, 0o700); err != nil {
		return nil, fmt.Errorf("fault module: %w", err)
	}
	if err := c.create(real); err != nil {
		return nil, fmt.Errorf("fault module: control file: %w", err)
	}
	return c, nil
}

// create writes and maps the control file.
func (c *Control) create(real string) error {
	f, err := os.OpenFile(c.path+".control", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	size := int(unsafe.Sizeof(layout{}))
	if err := f.Truncate(int64(size)); err != nil {
		return err
	}
	if c.mem, err = syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED); err != nil {
		return err
	}
	c.file = (*layout)(unsafe.Pointer(&c.mem[0]))
	if copy(c.file.Real[:len(c.file.Real)-1], real) != len(real) {
		return errors.New("the path of the module to wrap is too long")
	}
	for i := range functionCount {
		copy(c.file.Functions[i].Name[:], i.String())
	}
	copy(c.file.Magic[:], magic)
	return nil
}

// Module returns the path of the PKCS#11 module to load.
func (c *Control) Module() string { return c.path }

// Close unmaps the control file; the module, if still loaded, goes on with what was last set.
func (c *Control) Close() error {
	c.file = nil
	return syscall.Munmap(c.mem)
}

// Inject sets the fault of one function; it replaces the one set before.
func (c *Control) Inject(fault Fault) {
	f := &c.file.Functions[fault.Function]
	f.locked(func() {
		f.Skip.Store(fault.Skip)
		f.Times.Store(orAll(fault.Times))
		f.Threshold.Store(threshold(fault.Probability))
		f.Random.Store(rand.Uint64() | 1)
		f.Done.Store(0)
		if fault.Done {
			f.Done.Store(1)
		}
		f.Code.Store(fault.Code)
	})
}

func orAll(n uint64) uint64 {
	if n == 0 {
		return math.MaxUint64
	}
	return n
}

func threshold(probability float64) uint64 {
	if probability <= 0 || probability >= 1 {
		return math.MaxUint64
	}
	return uint64(probability * (1 << 63) * 2)
}

// locked keeps the module from reading a half-written fault.
func (f *function) locked(fn func()) {
	for !f.Lock.CompareAndSwap(0, 1) {
		runtime.Gosched()
	}
	fn()
	f.Lock.Store(0)
}

// Delay makes every call of the functions named (none named: of all) wait d first. Calls that wait already are held
// to the new time: Delay(0) releases them.
func (c *Control) Delay(d time.Duration, functions ...Function) {
	if len(functions) == 0 {
		for f := range functionCount {
			functions = append(functions, f)
		}
	}
	for _, f := range functions {
		c.file.Functions[f].DelayUs.Store(uint64(d.Microseconds()))
	}
}

// Clear ends all faults, delays and limits, and repairs a broken device. What was lost stays lost.
func (c *Control) Clear() {
	for i := range c.file.Functions {
		f := &c.file.Functions[i]
		f.locked(func() { f.Code.Store(0) })
		f.DelayUs.Store(0)
	}
	c.file.Broken.Store(0)
	c.file.SessionLimit.Store(0)
}

// LoseSessions makes the module forget every open session and all session objects: their numbers are invalid until they
// are given to new ones, which is at once. The login is not lost with them.
func (c *Control) LoseSessions() {
	c.file.LoseSessions.Add(1)
	c.file.Commands.Add(1)
}

// LoseObjects makes the module forget every object handle, of keys and of session objects. A search finds the token's
// keys again, perhaps under each other's numbers.
func (c *Control) LoseObjects() {
	c.file.LoseObjects.Add(1)
	c.file.Commands.Add(1)
}

// LoseLogin logs the user out: what needs a login answers CKR_USER_NOT_LOGGED_IN and a search finds nothing until the
// next C_Login. Handles stay valid; a token that logs out by the book loses them as well: call LoseObjects too.
func (c *Control) LoseLogin() {
	c.file.LoseLogin.Add(1)
	c.file.Commands.Add(1)
}

// Break makes every function of the token answer code (device error or removed, token not present) until C_Finalize and
// a C_Initialize that succeeds. To keep it away longer, inject a fault into C_Initialize or C_GetTokenInfo.
func (c *Control) Break(code uint64) { c.file.Broken.Store(code) }

// LimitSessions makes C_OpenSession answer CKR_SESSION_COUNT while n or more sessions are open; 0 = no limit.
func (c *Control) LimitSessions(n uint64) { c.file.SessionLimit.Store(n) }

// Calls returns how often the function was called so far, failed calls included.
func (c *Control) Calls(f Function) uint64 { return c.file.Functions[f].Calls.Load() }

// Injected returns how many calls of the function were answered with an injected code so far.
func (c *Control) Injected(f Function) uint64 { return c.file.Functions[f].Injected.Load() }

// Counts returns how often each function was called so far, by name ("C_Sign"); those never called are left out.
func (c *Control) Counts() map[string]uint64 {
	counts := map[string]uint64{}
	for f := range functionCount {
		if n := c.Calls(f); n > 0 {
			counts[f.String()] = n
		}
	}
	return counts
}

// Stats returns how the module is used now.
func (c *Control) Stats() Stats {
	return Stats{
		Generation:     c.file.Generation.Load(),
		Sessions:       c.file.Sessions.Load(),
		SessionObjects: c.file.SessionObjects.Load(),
		SharedSessions: c.file.SharedSessions.Load(),
		EarlyFinalizes: c.file.EarlyFinalizes.Load(),
	}
}

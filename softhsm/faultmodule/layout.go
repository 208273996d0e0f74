package faultmodule

import "sync/atomic"

// layout is the control file as module/control.h describes it, word for word.
type layout struct {
	Magic          [16]byte
	Real           [1024]byte
	Commands       atomic.Uint64
	LoseSessions   atomic.Uint64
	LoseObjects    atomic.Uint64
	LoseLogin      atomic.Uint64
	Broken         atomic.Uint64
	SessionLimit   atomic.Uint64
	Generation     atomic.Uint64
	Sessions       atomic.Uint64
	SessionObjects atomic.Uint64
	SharedSessions atomic.Uint64
	EarlyFinalizes atomic.Uint64
	Functions      [functionCount]function
}

type function struct {
	Name      [32]byte
	Calls     atomic.Uint64
	Injected  atomic.Uint64
	DelayUs   atomic.Uint64
	Lock      atomic.Uint64
	Code      atomic.Uint64
	Done      atomic.Uint64
	Skip      atomic.Uint64
	Times     atomic.Uint64
	Threshold atomic.Uint64
	Random    atomic.Uint64
}

const magic = "ramzban-fault/1"

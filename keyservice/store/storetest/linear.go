package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
)

// A register is a row that is read and compared-and-set. Every value is written once, so a version stands for a value;
// an absent row has the value "".

type registerInput struct {
	key      store.Key
	set      bool
	expected string // of set
	value    string // of set; "" deletes
}

type registerOutput struct {
	value   string // of a read
	ok      bool   // of set: the precondition held
	unknown bool   // of set: nobody knows
}

var registerModel = porcupine.Model{
	Partition: partitionByKey,
	Init:      func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		current, in, out := state.(string), input.(registerInput), output.(registerOutput)
		holds := current == in.expected
		switch {
		case !in.set:
			return out.value == current, current
		case !out.unknown && out.ok != holds:
			return false, current
		case holds:
			return true, in.value
		default:
			return true, current
		}
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

func partitionByKey(history []porcupine.Operation) [][]porcupine.Operation {
	byKey := map[store.Key][]porcupine.Operation{}
	for _, op := range history {
		key := op.Input.(registerInput).key
		byKey[key] = append(byKey[key], op)
	}
	parts := make([][]porcupine.Operation, 0, len(byKey))
	for _, part := range byKey {
		parts = append(parts, part)
	}
	return parts
}

// recorder collects the history of concurrent clients.
type recorder struct {
	began  time.Time
	faulty bool // see Contest

	mu      sync.Mutex
	history []porcupine.Operation
	values  map[registerVersion]string // one version, one value
	answers map[string]error           // by entry
	err     error
}

type registerVersion struct {
	key     store.Key
	version store.Version
}

func (r *recorder) add(client int, in registerInput, call int64, out registerOutput) {
	end := time.Since(r.began).Nanoseconds()
	if out.unknown {
		end = math.MaxInt64 // it may still happen
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: end})
}

// saw checks that a version never stands for two values.
func (r *recorder) saw(item store.Item) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := registerVersion{item.Key, item.Version}
	if value, seen := r.values[v]; seen && value != string(item.Value) {
		r.err = fmt.Errorf("version %d of %s is %q and %q", v.version, v.key, value, item.Value)
	}
	r.values[v] = string(item.Value)
}

func (r *recorder) answered(entry []byte, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers[string(entry)] = err
}

func testLinearisable(t *testing.T, h Harness) {
	s := h.open(t, logEntries)
	for _, err := range Race(t, Contest{Rounds: Scaled(40, 400), Registers: Scaled(4, 40)}, s) {
		if errors.Is(err, store.ErrFailed) {
			require.ErrorIs(t, err, context.Canceled, "cancelled before it was queued: nothing else may fail")
		}
	}
}

// Contest says how clients race.
type Contest struct {
	Rounds, Registers int
	Faulty            bool // reads and commits may fail: the database is disturbed meanwhile
}

// Race lets clients read registers, and set or delete them on the condition that they are as read, each step through one
// of the stores of a database. It fails the test unless the history is linearisable, and returns what Commit said to each
// change, by its entry.
func Race(t *testing.T, c Contest, stores ...store.Store) map[string]error {
	t.Helper()
	const clients = 12
	r := &recorder{began: time.Now(), faulty: c.Faulty, values: map[registerVersion]string{}, answers: map[string]error{}}
	var group sync.WaitGroup
	for client := range clients {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(client), 1))
			for round := range c.Rounds {
				key := store.Key(fmt.Sprintf("register/%d", random.IntN(c.Registers)))
				s := stores[random.IntN(len(stores))]
				if err := r.step(s, client, key, fmt.Sprintf("%d.%d", client, round), random); err != nil {
					t.Errorf("client %d: %v", client, err)
					return
				}
			}
		})
	}
	group.Wait()
	require.NoError(t, r.err)
	result, _ := porcupine.CheckOperationsVerbose(registerModel, r.history, time.Minute)
	require.Equal(t, porcupine.Ok, result)
	return r.answers
}

// step reads a register and sets or deletes it on the condition that it is as read.
func (r *recorder) step(s store.Store, client int, key store.Key, value string, random *rand.Rand) error {
	call := time.Since(r.began).Nanoseconds()
	items, err := s.Get(context.Background(), key)
	switch {
	case err != nil && r.faulty:
		return nil
	case err != nil:
		return err
	}
	seen := items[0]
	r.saw(seen)
	r.add(client, registerInput{key: key}, call, registerOutput{value: string(seen.Value)})

	in := registerInput{key: key, set: true, expected: string(seen.Value), value: value}
	change := put(key, value, store.Require{Key: key, Version: seen.Version})
	if random.IntN(5) == 0 {
		in.value, change = "", remove(key, store.Require{Key: key, Version: seen.Version})
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if random.IntN(5) == 0 {
		time.AfterFunc(time.Duration(random.IntN(2000))*time.Microsecond, cancel)
	}
	change.Entry = fmt.Appendf(nil, "%s by %s", key, value)
	call = time.Since(r.began).Nanoseconds()
	_, err = s.Commit(ctx, change)
	r.answered(change.Entry, err)
	switch {
	case err == nil:
		r.add(client, in, call, registerOutput{ok: true})
	case errors.Is(err, store.ErrConflict):
		r.add(client, in, call, registerOutput{})
	case errors.Is(err, store.ErrUnknown):
		r.add(client, in, call, registerOutput{unknown: true})
	case errors.Is(err, store.ErrFailed) && (ctx.Err() != nil || r.faulty): // it never happened
	default:
		return err
	}
	return nil
}

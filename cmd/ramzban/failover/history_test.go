package failover

import (
	"fmt"

	"github.com/anishathalye/porcupine"

	"ramzban/keyservice"
)

// request is a password sent to a node; an answer says what became of it.
type request struct {
	serial  string
	counter uint64
}

type answer struct {
	accepted bool
	reason   keyservice.Reason
	unknown  bool // nobody was told anything
}

// specification: a token is the lowest counter that is still good. An accepted password moves it on. What is not known may
// have happened, later too. What was answered with "nothing was decided" is not in a history: it must not have happened.
var specification = porcupine.Model{
	Partition: bySerial,
	Init:      func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		next, counter, got := state.(uint64), input.(request).counter, output.(answer)
		good := counter >= next && counter <= next+lookAhead
		switch {
		case got.unknown && good, got.accepted && good:
			return true, counter + 1
		case got.unknown:
			return true, next
		case got.accepted:
			return false, next
		case got.reason == keyservice.ReasonAlreadyUsed:
			return counter+1 == next, next
		}
		return false, next // nothing else is sent
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

func bySerial(history []porcupine.Operation) [][]porcupine.Operation {
	tokens := map[string][]porcupine.Operation{}
	for _, op := range history {
		serial := op.Input.(request).serial
		tokens[serial] = append(tokens[serial], op)
	}
	parts := make([][]porcupine.Operation, 0, len(tokens))
	for _, part := range tokens {
		parts = append(parts, part)
	}
	return parts
}

package api

import (
	"regexp"

	"github.com/valyala/fasthttp"

	"ramzban/keyservice"
)

const (
	idempotencyHeader = "Idempotency-Key"      // of a request: it may be repeated under this key
	replayedHeader    = "Idempotency-Replayed" // of an answer: it was given before

	keyForm        = "^[!-~]{1,128}$"
	keyDescription = "Makes the request safe to repeat after a lost answer. A repeat with the same key and body, by the same client and " +
		"within a day, gets the first answer again, marked `Idempotency-Replayed: true`; the same key with another body is " +
		"`idempotency_key_reused`. 1 to 128 printable ASCII characters without spaces: draw a fresh random one for each new request."
	replayedDescription = "`true` when this is the answer to an earlier request with the same Idempotency-Key; else it is not there."
)

var keyIs = regexp.MustCompile(keyForm)

// checkKey refuses an idempotency key that would not protect: a client that sends one believes that it may repeat the
// request.
func checkKey(ctx *fasthttp.RequestCtx, x *exchange, taken bool) *Problem {
	keys := ctx.Request.Header.PeekAll(idempotencyHeader)
	detail := ""
	switch {
	case len(keys) == 0:
		return nil
	case !taken:
		detail = "leave Idempotency-Key out: this route takes none, so a repeat would be a new request"
	case len(keys) > 1:
		detail = "send one Idempotency-Key: there are several"
	case !keyIs.Match(keys[0]):
		detail = "send 1 to 128 printable ASCII characters without spaces as Idempotency-Key"
	default:
		return nil
	}
	return x.problem(string(keyservice.CodeInvalid), detail)
}

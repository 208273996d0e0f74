package api

import (
	"math"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"ramzban/api/wire"
	"ramzban/keyservice"
)

// Rate bounds how often something may happen: PerSecond on average, Burst at once. The default stands for one in which either
// is not above zero.
type Rate struct {
	PerSecond float64
	Burst     int
}

func (r Rate) or(d Rate) Rate {
	if r.PerSecond <= 0 || r.Burst <= 0 {
		return d
	}
	return r
}

// maxBuckets bounds the memory of a limiter, about 200 bytes a name. The bucket used longest ago is forgotten, which is
// as if it were full again: clients are few, and a stranger would need more addresses or certificates than that.
const maxBuckets = 4096

// maxWait is the longest time anybody is told to wait.
const maxWait = time.Hour

// limiter is a token bucket for each name.
type limiter struct {
	rate Rate
	now  func() time.Time

	mu      sync.Mutex // guards all below
	buckets *simplelru.LRU[string, *bucket]
}

type bucket struct {
	tokens float64 // below zero after more was charged than there was
	at     time.Time
}

func newLimiter(r Rate, now func() time.Time) (*limiter, error) {
	buckets, err := simplelru.NewLRU[string, *bucket](maxBuckets, nil)
	return &limiter{rate: r, now: now, buckets: buckets}, err
}

// take uses up a token of this name, if there is one. It returns how long to wait for one, 0 if it was there.
func (l *limiter) take(name string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.filled(name)
	wait := l.until(b)
	if wait == 0 {
		b.tokens--
	}
	return wait
}

// wait returns how long to wait for a token, 0 if there is one; none is used up.
func (l *limiter) wait(name string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.until(l.filled(name))
}

// charge uses up a token for what has happened already, whether there is one or not.
func (l *limiter) charge(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.filled(name).tokens--
}

// filled is the bucket of a name with what has flowed in since it was last looked at. A clock that was set back costs
// that time's tokens and no more.
func (l *limiter) filled(name string) *bucket {
	now := l.now()
	b, known := l.buckets.Get(name)
	if !known {
		b = &bucket{tokens: float64(l.rate.Burst), at: now}
		l.buckets.Add(name, b)
	}
	since := max(0, now.Sub(b.at).Seconds())
	b.tokens, b.at = min(float64(l.rate.Burst), b.tokens+since*l.rate.PerSecond), now
	return b
}

func (l *limiter) until(b *bucket) time.Duration {
	if b.tokens >= 1 {
		return 0
	}
	return time.Duration(math.Ceil(min(maxWait.Seconds(), (1-b.tokens)/l.rate.PerSecond) * float64(time.Second)))
}

// limits is how often who may ask. Every request that reaches a use case can become an entry of the audit log, which is
// kept for ever: what is refused here is not.
type limits struct {
	clients   *limiter // by client
	addresses *limiter // of who is no client, by address
	strangers *limiter // by certificate that is trusted but nobody's
	denials   *limiter // by client

	denied  sync.Map // client and route, once that client was denied there; bounded by clients times routes
	limited *prometheus.CounterVec
}

func newLimits(o Options, limited *prometheus.CounterVec) (*limits, error) {
	l := &limits{limited: limited}
	for _, n := range []struct {
		into **limiter
		rate Rate
	}{{&l.clients, o.Requests}, {&l.addresses, o.Requests}, {&l.strangers, o.Denials}, {&l.denials, o.Denials}} {
		var err error
		if *n.into, err = newLimiter(n.rate, o.Clock); err != nil {
			return nil, err
		}
	}
	return l, nil
}

type deniedRoute struct{ client, method, route string }

// client refuses what the caller asks above its rate. Above its rate of denials it is refused where it was denied
// before: a system that calls one route it may not call must not lose those it may.
func (l *limits) client(x *exchange) *Problem {
	name := x.caller.Name
	if wait := l.clients.take(name); wait > 0 {
		return l.refuse(x, name, wait)
	}
	if _, denied := l.denied.Load(deniedRoute{name, x.method, x.route}); denied {
		return l.refuse(x, name, l.denials.wait(name))
	}
	return nil
}

// address refuses what somebody who is no client asks above the rate.
func (l *limits) address(ctx *fasthttp.RequestCtx, x *exchange) *Problem {
	host, _, err := net.SplitHostPort(ctx.RemoteAddr().String())
	if err != nil { // not TCP: all in one bucket
		host = ""
	}
	return l.refuse(x, "", l.addresses.take(host))
}

// stranger refuses a certificate that was told often enough that it is nobody's.
func (l *limits) stranger(x *exchange, certificate string) *Problem {
	return l.refuse(x, "", l.strangers.take(certificate))
}

// refuse is the answer to who has to wait, nil if nobody has. client is "" for who is none.
func (l *limits) refuse(x *exchange, client string, wait time.Duration) *Problem {
	if wait == 0 {
		return nil
	}
	l.limited.WithLabelValues(client).Inc()
	x.retry = wait
	return x.problem(wire.CodeTooManyRequests, "")
}

// settle looks at how a request ended. Requests that run at the same time may overdraw the rate of denials; the debt is
// paid by waiting longer.
func (l *limits) settle(x *exchange) {
	if x.code == string(keyservice.CodeDenied) {
		l.denied.Store(deniedRoute{x.caller.Name, x.method, x.route}, struct{}{})
		l.denials.charge(x.caller.Name)
	}
}

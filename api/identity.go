package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/authz/approval"
)

// public is what answers without a client certificate. Everything else, known or not, needs one.
var public = map[string]bool{"/v1/time": true, openapiPath: true, docsPath: true}

// admit runs before every route: who is it, does it ask too often, have body and key a form that the route can take, and
// until when must it be answered.
func (s *Server) admit(c *fiber.Ctx) error {
	x := exchangeOf(c.Context())
	if p := s.identify(c.Context(), x); p != nil {
		p.write(c.Context())
		return nil
	}
	r, known := s.routes.of(x)
	if known {
		p := checkBody(c.Context(), x, r)
		if p == nil {
			p = checkKey(c.Context(), x, r.keyed)
		}
		if p != nil {
			p.write(c.Context())
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout(r))
	defer cancel()
	ctx = context.WithValue(keyservice.WithRequestID(ctx, x.id), exchangeKey{}, x)
	c.SetUserContext(ctx)
	return c.Next()
}

func (s *Server) timeout(r routeInfo) time.Duration {
	if r.long {
		return s.ComparisonTimeout
	}
	return s.HandlerTimeout
}

// identify finds out who asks, and whether it may ask again already. The handshake has verified the certificate; it may
// have expired since.
func (s *Server) identify(ctx *fasthttp.RequestCtx, x *exchange) *Problem {
	leaf, err := verifiedLeaf(ctx, s.TLS, s.Clock())
	if err == nil {
		if caller, known := s.Directory.Lookup(approval.CertificateName(leaf)); known {
			x.caller = caller
			return s.limits.client(x)
		}
	}
	if p := s.limits.address(ctx, x); p != nil {
		return p
	}
	switch {
	case public[x.route]:
		return nil
	case err != nil:
		ctx.SetConnectionClose()
		return x.problem(certificateCode(err), "")
	}
	return s.unknown(leaf, x)
}

// isClient says whether a configured client is at the other end of a connection. Each request asks again: a certificate
// expires.
func (s *Server) isClient(state tls.ConnectionState) bool {
	if len(state.VerifiedChains) == 0 {
		return false
	}
	_, known := s.Directory.Lookup(approval.CertificateName(state.VerifiedChains[0][0]))
	return known
}

// unknown refuses a certificate that is nobody's, and says in the log what to add to the configuration.
func (s *Server) unknown(leaf *x509.Certificate, x *exchange) *Problem {
	name := approval.CertificateName(leaf)
	if p := s.limits.stranger(x, name); p != nil {
		return p
	}
	s.Log.Warn("a trusted certificate that belongs to no configured client", "request_id", x.id, "certificate", name,
		"certificate_serial", leaf.SerialNumber.String())
	return x.problem(wire.CodeCertificateUnknown, "")
}

// What can be wrong with a connection's client certificate after its handshake.
var (
	errNoCertificate      = errors.New("no client certificate")
	errCertificateExpired = errors.New("the client certificate has expired since the handshake")
	errCertificateRevoked = errors.New("the client certificate has been withdrawn since the handshake")
)

// verifiedLeaf returns the client certificate that the handshake verified, if it still would: what conf's VerifyConnection
// looks at, such as a revocation list, may have changed.
func verifiedLeaf(ctx *fasthttp.RequestCtx, conf *tls.Config, now time.Time) (*x509.Certificate, error) {
	state := ctx.TLSConnectionState()
	if state == nil || len(state.VerifiedChains) == 0 {
		return nil, errNoCertificate
	}
	leaf := state.VerifiedChains[0][0]
	if now.After(leaf.NotAfter) {
		return nil, errCertificateExpired
	}
	if conf.VerifyConnection != nil {
		if err := conf.VerifyConnection(*state); err != nil {
			return nil, fmt.Errorf("%w: %w", errCertificateRevoked, err)
		}
	}
	return leaf, nil
}

func certificateCode(err error) string {
	switch {
	case errors.Is(err, errCertificateExpired):
		return wire.CodeCertificateExpired
	case errors.Is(err, errCertificateRevoked):
		return wire.CodeCertificateRevoked
	}
	return wire.CodeCertificateRequired
}

// checkBody refuses what huma would let pass: a body of another type or of none, and one that no route reads.
func checkBody(ctx *fasthttp.RequestCtx, x *exchange, r routeInfo) *Problem {
	switch contentType := string(ctx.Request.Header.ContentType()); {
	case r.body && x.size == 0 && !x.unread:
		return x.problem(wire.CodeBodyRequired, "")
	case !r.body && x.size > 0:
		return x.problem(wire.CodeBodyUnexpected, "")
	case r.stream && !isMedia(ndjsonType, contentType):
		return x.problem(wire.CodeMediaUnsupported, "send the lines as "+ndjsonType)
	case r.body && !r.stream && !isMedia("application/json", contentType):
		return x.problem(wire.CodeMediaUnsupported, "")
	}
	return nil
}

func isMedia(want, contentType string) bool {
	media, params, err := mime.ParseMediaType(contentType)
	charset, given := params["charset"]
	return err == nil && media == want && (!given || charset == "utf-8" || charset == "UTF-8")
}

// handshakeFailed returns what to do when this peer's handshake fails: count it, and log why unless it just went away.
func (s *Server) handshakeFailed(remote net.Addr) func(error) {
	return func(err error) {
		s.metrics.handshakes.Inc()
		if errors.Is(err, io.EOF) {
			s.Log.Debug("a connection ended before its TLS handshake", "remote", remote.String())
			return
		}
		s.Log.Warn("TLS handshake failed", "remote", remote.String(), "error", err.Error())
	}
}

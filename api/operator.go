package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/gofiber/fiber/v2/middleware/recover"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
)

// OperatorOptions is what the operator listener is made of: /healthz, /readyz and /metrics.
type OperatorOptions struct {
	Listener  net.Listener                // a plain one; required. Without TLS its address must be a loopback address
	TLS       *tls.Config                 // as Options.TLS; nil: plain HTTP
	Directory *authz.Directory            // required with TLS: a client certificate needs the role operator
	Ready     func(context.Context) error // required; nil when the service can work, else which part cannot
	Metrics   prometheus.Gatherer         // required
	Clock     func() time.Time            // time.Now
	Log       *slog.Logger                // slog.Default()
}

// Operator answers health checks and metrics on a listener of its own.
type Operator struct {
	OperatorOptions
	app *fiber.App
}

const readyTimeout = 5 * time.Second

// NewOperator checks that nobody but the host itself, or an operator's certificate, can reach the listener.
func NewOperator(o OperatorOptions) (*Operator, error) {
	if o.Listener == nil || o.Ready == nil || o.Metrics == nil {
		return nil, errors.New("api: the operator listener needs Listener, Ready and Metrics")
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if err := protect(&o); err != nil {
		return nil, err
	}
	op := &Operator{OperatorOptions: o}
	op.app = fiber.New(fiber.Config{
		DisableStartupMessage: true, Immutable: true, CaseSensitive: true, StrictRouting: true, DisablePreParseMultipartForm: true,
		BodyLimit: 1024, ReadBufferSize: defaultHeaderLimit, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, ErrorHandler: op.failed,
	})
	op.app.Use(recover.New(), op.admit)
	op.app.Add(get, "/healthz", op.healthy)
	op.app.Add(get, "/readyz", op.ready)
	op.app.Add(get, "/metrics", adaptor.HTTPHandler(promhttp.HandlerFor(o.Metrics, promhttp.HandlerOpts{})))
	return op, nil
}

// protect refuses plain HTTP on an address that others can reach, and wraps the listener in TLS where it is configured.
func protect(o *OperatorOptions) error {
	if o.TLS == nil {
		addr, isTCP := o.Listener.Addr().(*net.TCPAddr)
		if !isTCP || !addr.IP.IsLoopback() {
			return fmt.Errorf("api: the operator listener on %s is not on a loopback address: give it TLS", o.Listener.Addr())
		}
		return nil
	}
	if o.Directory == nil {
		return errors.New("api: the operator listener with TLS needs the directory of clients")
	}
	conf, err := serverTLS(o.TLS)
	if err != nil {
		return err
	}
	conf.ClientAuth = tls.RequireAndVerifyClientCert
	o.TLS = conf
	o.Listener = tls.NewListener(o.Listener, conf)
	return nil
}

// Serve answers until Shutdown; it then returns nil.
func (o *Operator) Serve() error {
	if err := o.app.Listener(o.Listener); err != nil {
		return fmt.Errorf("api: serving the operator listener %s: %w", o.Listener.Addr(), err)
	}
	return nil
}

// Shutdown stops accepting and waits for requests in flight, or for ctx.
func (o *Operator) Shutdown(ctx context.Context) error {
	if err := o.app.ShutdownWithContext(ctx); err != nil {
		return fmt.Errorf("api: shutting down the operator listener: %w", err)
	}
	return nil
}

// admit lets every caller in on plain HTTP (which is loopback), and operators only on TLS.
func (o *Operator) admit(c *fiber.Ctx) error {
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Set(fiber.HeaderXContentTypeOptions, "nosniff")
	if o.TLS == nil {
		return c.Next()
	}
	leaf, err := verifiedLeaf(c.Context(), o.TLS, o.Clock())
	if err != nil {
		return o.refuse(c, certificateCode(err), "")
	}
	caller, known := o.Directory.Lookup(approval.CertificateName(leaf))
	if !known {
		return o.refuse(c, wire.CodeCertificateUnknown, "")
	}
	if err := authz.Check(caller, authz.ReadMetrics); err != nil {
		o.Log.Warn("the operator listener was asked by another role", "client", caller.Name)
		return o.refuse(c, string(keyservice.CodeDenied), "")
	}
	return c.Next()
}

// healthy says that the process runs and answers; a failing check means: restart it.
func (o *Operator) healthy(c *fiber.Ctx) error { return c.JSON(fiber.Map{"status": "alive"}) }

// ready says whether the service can work now; a failing check means: send no requests here.
func (o *Operator) ready(c *fiber.Ctx) error {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	if err := o.Ready(ctx); err != nil {
		return o.refuse(c, wire.CodeNotReady, err.Error())
	}
	return c.JSON(fiber.Map{"status": "ready"})
}

func (o *Operator) failed(c *fiber.Ctx, err error) error {
	var e *fiber.Error
	status := fiber.StatusInternalServerError
	if errors.As(err, &e) {
		status = e.Code
	}
	routeProblem(&exchange{}, status).write(c.Context())
	return nil
}

func (o *Operator) refuse(c *fiber.Ctx, code, detail string) error {
	if after := retryAfter(code); after != "" {
		c.Set(fiber.HeaderRetryAfter, after)
	}
	(&exchange{}).problem(code, detail).write(c.Context())
	return nil
}

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/store"
	"ramzban/keyservice/witness"
)

// witnessOptions are what `ramzban witness` is told.
type witnessOptions struct {
	listen, dir                      string
	keys                             []string
	certificate, privateKey, clients string
}

func witnessCommand() *cobra.Command {
	var o witnessOptions
	c := &cobra.Command{
		Use:   "witness",
		Short: "Keep the nodes' signed checkpoints on a host of their own",
		Long: "Takes the checkpoints that nodes sign (audit.witness.url in their configuration) and keeps the newest one of each in\n" +
			"DIR/INSTALLATION/NODE/checkpoint. It never goes back: a checkpoint is taken only if one of its installation's keys\n" +
			"signed it, and with the proof that it follows the one before. The files of keys are read again for each checkpoint:\n" +
			"before an audit key is rotated, put the new version's public half into one. It needs neither the HSM nor the database,\n" +
			"and belongs on a host whose administrators have nothing to do with either. SIGTERM and SIGINT end it.\n\n" +
			"Give --key INSTALLATION=FILE, for as many files as there are: a key counts for its installation alone. A single --key\n" +
			"FILE names none; it is for a witness of one installation, for its keys count for whatever they have signed.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			w, err := o.open()
			if err != nil {
				return err
			}
			return w.serve(c.Context(), func(at net.Addr) error {
				_, err := fmt.Fprintf(c.OutOrStdout(), "the witness answers at %s\n", at)
				return err
			})
		},
	}
	f := c.Flags()
	f.StringVar(&o.listen, "listen", "127.0.0.1:8444", "`ADDRESS` and port")
	f.StringVar(&o.dir, "dir", "", "`FOLDER` of the checkpoints, which must be there")
	f.StringArrayVar(&o.keys, "key", nil, "`INSTALLATION=FILE` with its public audit keys (PEM), which may be given more than once; or FILE alone, once")
	f.StringVar(&o.certificate, "certificate", "", "`FILE` with the server's certificate and its chain (PEM)")
	f.StringVar(&o.privateKey, "private-key", "", "`FILE` with its private key (PEM)")
	f.StringVar(&o.clients, "client-ca", "", "`FILE` with the CA certificates that client certificates must come from (PEM); without it none is asked for")
	for _, needed := range []string{"dir", "key", "certificate", "private-key"} {
		_ = c.MarkFlagRequired(needed) // fails for a name that is no flag, in every test
	}
	return c
}

// witnessServer is the receiver.
type witnessServer struct {
	listen string
	http   *http.Server
}

func (o witnessOptions) open() (*witnessServer, error) {
	files, err := o.keyFiles()
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if _, err := f.read(); err != nil {
			return nil, err
		}
	}
	dir, err := witness.OpenDir(o.dir, o.publicKeys)
	if err != nil {
		return nil, fmt.Errorf("--dir: %w", err)
	}
	conf, err := o.tls()
	if err != nil {
		return nil, err
	}
	return &witnessServer{listen: o.listen, http: &http.Server{
		Handler: witness.Handler(dir), TLSConfig: conf, MaxHeaderBytes: 16 << 10,
		ReadTimeout: witnessLimit, WriteTimeout: witnessLimit, IdleTimeout: time.Minute,
	}}, nil
}

// keyFile is a file of keys, and whose they are; any installation's if that is empty.
type keyFile struct{ installation, path string }

// keyFiles takes --key apart.
func (o witnessOptions) keyFiles() ([]keyFile, error) {
	files := make([]keyFile, len(o.keys))
	for i, key := range o.keys {
		installation, path, named := strings.Cut(key, "=")
		switch {
		case named && store.CheckNode(installation) == nil: // whatever has a slash is a path
			files[i] = keyFile{installation, path}
		case len(o.keys) > 1:
			return nil, fmt.Errorf("--key: say whose keys they are: INSTALLATION=%s", key)
		default:
			files[i] = keyFile{path: key}
		}
	}
	return files, nil
}

// publicKeys reads an installation's files anew, so that a key which is put into one counts from then on.
func (o witnessOptions) publicKeys(_ context.Context, installation string) ([]audit.PublicKey, error) {
	files, err := o.keyFiles()
	if err != nil {
		return nil, err
	}
	var all []audit.PublicKey
	for _, f := range files {
		if f.installation != "" && f.installation != installation {
			continue
		}
		keys, err := f.read()
		if err != nil {
			return nil, err
		}
		all = append(all, keys...)
	}
	return all, nil
}

func (f keyFile) read() ([]audit.PublicKey, error) {
	text, err := os.ReadFile(f.path)
	if err != nil {
		return nil, fmt.Errorf("--key: %w", err)
	}
	keys, err := audit.ParsePublicKeys(text)
	if err != nil {
		return nil, fmt.Errorf("--key: %s: %w", f.path, err)
	}
	return keys, nil
}

func (o witnessOptions) tls() (*tls.Config, error) {
	if err := requirePrivate("--private-key", o.privateKey); err != nil {
		return nil, err
	}
	own, err := tls.LoadX509KeyPair(o.certificate, o.privateKey)
	if err != nil {
		return nil, fmt.Errorf("--certificate: %w", err)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own}}
	if o.clients == "" {
		return conf, nil
	}
	pem, err := os.ReadFile(o.clients)
	if err != nil {
		return nil, fmt.Errorf("--client-ca: %w", err)
	}
	conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	if !conf.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--client-ca: %s holds no PEM certificate", o.clients)
	}
	return conf, nil
}

// serve answers until ctx ends; what it answers then is ended in order.
func (w *witnessServer) serve(ctx context.Context, listening func(net.Addr) error) error {
	l, err := net.Listen("tcp", w.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	if err := listening(l.Addr()); err != nil {
		return errors.Join(err, l.Close())
	}
	ended := make(chan error, 1)
	context.AfterFunc(ctx, func() {
		stop, cancel := context.WithTimeout(context.Background(), witnessLimit)
		defer cancel()
		ended <- w.http.Shutdown(stop)
	})
	if err := w.http.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-ended
}

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"ramzban/api/client"
	"ramzban/keyservice/store/pgstore/pgserver"
	"ramzban/softhsm"
)

// clusterLimit bounds the whole demonstration, the start of the database server included.
const clusterLimit = 2 * time.Minute

func devClusterDemoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cluster-demo",
		Short: "Show two nodes on one PostgreSQL: a password sent to both is accepted once, one is killed; then end",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), clusterLimit)
			defer cancel()
			return runClusterDemo(ctx, c.OutOrStdout())
		},
	}
}

// clusterNode is one of the services that share the database, and who calls it.
type clusterNode struct {
	dev
	name    string
	process *child
	callers map[string]*client.Client
}

// clusterDemo is the demonstration of several nodes under way.
type clusterDemo struct {
	narrator
	dir    string
	server *pgserver.Server
	nodes  []*clusterNode

	phone phone
	token phoneToken
	used  string // the last password that was accepted
}

// runClusterDemo starts a database server and two services in folders and on ports of their own, walks through what they
// promise together, and ends them. The folder is kept if something went wrong: the services' logs are in it.
func runClusterDemo(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "ramzban-demo-")
	if err != nil {
		return fmt.Errorf("demonstration: %w", err)
	}
	d := &clusterDemo{narrator: narrator{out: out}, dir: dir}
	if err := d.run(ctx); err != nil {
		return fmt.Errorf("demonstration, step %d: %w: the services' logs are in %s", d.steps, err, dir)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("demonstration: %w: delete %s", err, dir)
	}
	return d.print("\nThat was all: the node that was left and the database server have ended, and\neverything they made is deleted.")
}

func (d *clusterDemo) run(ctx context.Context) (err error) {
	for _, name := range []string{"tehran", "mashhad"} {
		n := &clusterNode{name: name, dev: dev{dir: d.dir}, callers: map[string]*client.Client{}}
		if n.api, n.ops, err = freePorts(); err != nil {
			return err
		}
		d.nodes = append(d.nodes, n)
	}
	dsn, err := d.startDatabase(ctx)
	if d.server != nil {
		defer func() { err = errors.Join(err, d.server.Stop()) }()
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.endNodes()) }()
	if err := d.startNodes(ctx, dsn); err != nil {
		return err
	}
	if d.phone, err = newPhone(filepath.Join(d.dir, "phone")); err != nil {
		return err
	}
	return d.walk(ctx)
}

// startDatabase starts a server and makes a role and a database for the nodes. It returns their DSN. On a loopback
// address others on this machine reach the server too, so it asks for a password.
func (d *clusterDemo) startDatabase(ctx context.Context) (string, error) {
	port, err := pgserver.FreePort()
	if err != nil {
		return "", err
	}
	if d.server, err = pgserver.New(pgserver.Options{Parent: os.TempDir(), Port: port, Password: rand.Text()}); err != nil {
		return "", err
	}
	password := rand.Text()
	err = d.server.Exec(ctx, "CREATE ROLE ramzban LOGIN PASSWORD '"+password+"'", "CREATE DATABASE ramzban OWNER ramzban TEMPLATE template0")
	return fmt.Sprintf("host=127.0.0.1 port=%d user=ramzban password=%s dbname=ramzban", port, password), err
}

// startNodes starts the nodes one after another: the first one makes the database.
func (d *clusterDemo) startNodes(ctx context.Context, dsn string) error {
	token, err := d.nodes[0].setUpKeys(ctx, d.dir)
	if err != nil {
		return err
	}
	dsnFile := filepath.Join(d.dir, "dsn")
	if err := replaceFile(dsnFile, []byte(dsn+"\n")); err != nil {
		return err
	}
	for i, n := range d.nodes {
		if err := n.configure(token, dsnFile); err != nil {
			return err
		}
		var flags []string
		if i == 0 {
			flags = []string{"--new-database"}
		}
		if err := n.start(ctx, flags...); err != nil {
			return fmt.Errorf("node %s: %w", n.name, err)
		}
	}
	return nil
}

func (n *clusterNode) file() string { return filepath.Join(n.dir, n.name+".yaml") }

func (n *clusterNode) configure(token *softhsm.Token, dsnFile string) error {
	c := devConfig(n.dir, token)
	c.Node, c.API.Listen, c.Operator.Listen = n.name, n.api, n.ops
	p := defaultPostgres()
	p.DSNFile = dsnFile
	c.Store = StoreConfig{Postgres: &p}
	b, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	return replaceFile(n.file(), b)
}

func (n *clusterNode) start(ctx context.Context, flags ...string) (err error) {
	n.process, err = startChild(ctx, n.dev, n.name, append([]string{"serve", "--config", n.file()}, flags...)...)
	if err != nil {
		return err
	}
	return n.process.waitReady(ctx)
}

// as returns the node's client with one of the development certificates.
func (n *clusterNode) as(name string) (*client.Client, error) {
	if c, made := n.callers[name]; made {
		return c, nil
	}
	p := &pki{dir: filepath.Join(n.dir, "pki")}
	c, err := openClient(client.Options{BaseURL: "https://" + n.api, CAFile: p.path("ca.crt"), CertFile: p.path(name + ".crt"), KeyFile: p.path(name + ".key")})
	if err != nil {
		return nil, err
	}
	n.callers[name] = c
	return c, nil
}

func (d *clusterDemo) endNodes() error {
	var errs []error
	for _, n := range d.nodes {
		for _, c := range n.callers {
			c.Close()
		}
		if n.process != nil {
			errs = append(errs, n.process.end())
		}
	}
	return errors.Join(errs...)
}

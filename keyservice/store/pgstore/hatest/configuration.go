package hatest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// install is what to do when a program is missing.
const install = "apt-get install --no-install-recommends patroni etcd-server postgresql iproute2"

// programs fails unless everything that a machine runs is there.
func programs() error {
	for _, name := range []string{"ip", "etcd", "patroni", "setpriv", "bash"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("hatest: %w: %s", err, install)
		}
	}
	return nil
}

// postgresPrograms returns the folder of the newest PostgreSQL: Debian keeps it out of the PATH.
func postgresPrograms() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/[1-9][0-9]/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("hatest: there is no PostgreSQL: %s", install)
	}
	return filepath.Dir(slices.Max(found)), nil
}

// etcdConfig: the shorter heartbeat is etcd's own; the longer election is for busy machines.
const etcdConfig = `
name: NAME
data-dir: DIR/etcd
listen-peer-urls: http://SERVER:2380
initial-advertise-peer-urls: http://SERVER:2380
listen-client-urls: http://SERVER:2379
advertise-client-urls: http://SERVER:2379
initial-cluster: PEERS
initial-cluster-token: ramzban
initial-cluster-state: new
enable-v2: true
heartbeat-interval: 100
election-timeout: 1500
`

// patroniConfig is what the promises need, and times that make a failover a matter of seconds.
//
// synchronous_mode: a commit is acknowledged when the standby that Patroni names has it on its disk, and only that standby
// can become primary. Without it the nearest standby does, with or without what was acknowledged.
//
// synchronous_mode_strict: without it Patroni lets commits be acknowledged by the primary alone, while there is no standby
// and at the beginning of each primary's time, when none is named yet. With it they wait.
//
// ttl is how long a primary that is silent stays primary, loop_wait how often each Patroni looks, retry_timeout how long it
// goes on asking an etcd that does not answer, after which a primary ends itself: loop_wait + 2 retry_timeout <= ttl.
// primary_stop_timeout bounds that end: a PostgreSQL that waits for its standbys is killed.
// wal_retrieve_retry_interval is how long a standby waits before it looks for a new primary again: until one has come,
// nothing is acknowledged. PostgreSQL's own is 5 s.
// Every failover begins another segment of the log, so segments are small: all is in memory.
// failsafe_mode stays off: a primary that cannot ask etcd must not go on.
//
// PostgreSQL's own synchronous_commit stays on: remote_write would count what is not on the standby's disk, local nothing
// but the primary's.
const patroniConfig = `
scope: ramzban
name: NAME
restapi: {listen: "SERVER:8008", connect_address: "SERVER:8008"}
etcd: {hosts: [ETCDS]}
watchdog: {mode: "off"}
bootstrap:
  dcs:
    ttl: 8
    loop_wait: 1
    retry_timeout: 3
    primary_stop_timeout: 2
    synchronous_mode: true
    synchronous_mode_strict: true
    synchronous_node_count: 1
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters:
        max_connections: 200
        shared_buffers: 64MB
        max_wal_size: 64MB
        min_wal_size: 16MB
        wal_log_hints: "on"
        wal_keep_size: 64MB
        wal_sender_timeout: 5s
        wal_receiver_timeout: 5s
        wal_retrieve_retry_interval: 500ms
        synchronous_commit: "on"
  initdb: [{encoding: UTF8}, {locale: C}, {auth: trust}, data-checksums, no-sync, {wal-segsize: '4'}]
postgresql:
  listen: 0.0.0.0:5432
  connect_address: SERVER:5432
  data_dir: DIR/data
  bin_dir: PROGRAMS
  pgpass: DIR/pgpass
  pg_hba: [local all all trust, host all all all trust, host replication all all trust]
  use_unix_socket: true
  authentication:
    superuser: {username: postgres}
    replication: {username: postgres}
    rewind: {username: postgres}
  parameters:
    unix_socket_directories: DIR
    logging_collector: "off"
    dynamic_shared_memory_type: mmap
    ssl: "on"
    ssl_cert_file: DIR/server.crt
    ssl_key_file: DIR/server.key
    log_line_prefix: "%m [%p] %a "
`

// configure makes the machine's folder, with files for the account that its programs run under.
func (m *Machine) configure(certificate map[string][]byte) error {
	bin, err := postgresPrograms()
	if err != nil {
		return err
	}
	var peers, etcds []string
	for number := 1; number <= Size; number++ {
		of := newName(number)
		peers = append(peers, fmt.Sprintf("%s=http://%s:2380", of.Name, of.Address(Servers)))
		etcds = append(etcds, of.Address(Servers)+":2379")
	}
	fill := strings.NewReplacer("NAME", m.Name, "DIR", m.dir, "SERVER", m.Address(Servers), "PROGRAMS", bin,
		"PEERS", strings.Join(peers, ","), "ETCDS", strings.Join(etcds, ", "))
	files := map[string][]byte{"etcd.yml": []byte(fill.Replace(etcdConfig)), "patroni.yml": []byte(fill.Replace(patroniConfig))}
	maps.Copy(files, certificate)
	return m.write(files)
}

// write makes the machine's folder with these files, all of which are the account's alone.
func (m *Machine) write(files map[string][]byte) error {
	uid, gid, err := account()
	if err != nil {
		return fmt.Errorf("hatest: the account of PostgreSQL: %w", err)
	}
	err = os.Mkdir(m.dir, 0o700)
	for name, content := range files {
		path := filepath.Join(m.dir, name)
		err = errors.Join(err, os.WriteFile(path, content, 0o600), os.Chown(path, uid, gid))
	}
	if err = errors.Join(err, os.Chown(m.dir, uid, gid)); err != nil {
		return fmt.Errorf("hatest: %w", err)
	}
	return nil
}

// account is that of Debian's packages: PostgreSQL refuses root.
func account() (uid, gid int, err error) {
	postgres, err := user.Lookup(superuser)
	if err != nil {
		return 0, 0, err
	}
	if uid, err = strconv.Atoi(postgres.Uid); err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(postgres.Gid)
	return uid, gid, err
}

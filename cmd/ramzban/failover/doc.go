// Package failover holds the tests of the key service on a highly available PostgreSQL set that is being broken. They take
// minutes and need Patroni and etcd, so they are a package of their own, which only `make cluster-test` (ten times) and
// `make test-long` (once) run.
//
// It must not have anything that the product imports.
package failover

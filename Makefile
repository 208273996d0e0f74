# Ramzban: `make` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help tools build demo cluster-demo run test test-long cluster-test check bench dev-packages cluster-packages test-packages failover-packages test-root

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
RAMZBAN := bin/ramzban
# Packages whose tests race goroutines inside the test process; those of cmd drive the real binary instead.
RACED := ./api/... ./hsm/... ./keyservice/... ./softhsm/...
# The tests that break a set of PostgreSQL servers take minutes, and packages that the others do without.
FAILOVER := ./cmd/ramzban/failover

help: tools ## What there is
	@echo 'Ramzban, a hardware-backed OTP key service. Targets:'
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

tools:
	@.ci/go-version

dev-packages: tools
	@.ci/need softhsm2-util=softhsm2

cluster-packages: dev-packages
	@.ci/need postgres=postgresql

test-packages: cluster-packages
	@.ci/need pkcs11-tool=opensc oathtool=oathtool pskctool=pskctool openssl=openssl jq=jq curl=curl \
	  mkfs.ext4=e2fsprogs mount=mount ip=iproute2

failover-packages: test-packages
	@.ci/need patroni=patroni etcd=etcd-server

test-root: test-packages
	@.ci/root

build: tools ## Build bin/ramzban
	@go build -trimpath -o $(RAMZBAN) ./cmd/ramzban

demo: dev-packages build ## Show a token from enrolment to a refused second use, then end
	@$(RAMZBAN) dev demo

cluster-demo: cluster-packages build ## Show two nodes on one PostgreSQL, and one carry on alone, then end
	@$(RAMZBAN) dev cluster-demo

run: dev-packages build ## Run the service for development: 127.0.0.1:8443, state and certificates in var/dev
	@exec $(RAMZBAN) dev run

test: test-root ## Run all tests
	go test -race -count=1 -timeout 30m $(RACED)
	go test -count=1 -timeout 30m ./cmd/ramzban

test-long: test-root failover-packages ## Run all tests in their long form: kill loops, power cuts, large scans
	RAMZBAN_TEST_LONG=1 go test -race -count=1 -timeout 2h $(RACED)
	RAMZBAN_TEST_LONG=1 go test -count=1 -timeout 2h ./cmd/ramzban
	go test -v -race -count=1 -timeout 30m $(FAILOVER)

cluster-test: test-root failover-packages ## Break three PostgreSQL servers under Patroni in each way ten times, under load
	go test -v -race -count=10 -timeout 2h $(FAILOVER)

check: test-root ## Format, vet, staticcheck, tidy go.mod, brief fuzzing, all tests with -race
	@unformatted=$$(gofmt -l api cmd hsm keyservice softhsm); \
	  [ -z "$$unformatted" ] || { echo "not formatted: $$unformatted" >&2; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	go mod tidy -diff
	.ci/fuzz 5
	go test -race -count=1 -timeout 30m $(RACED) ./cmd/ramzban

bench: test-packages ## Measure, each beside the raw figure of the same run
	go test -p 1 -run '^$$' -bench . $(RACED) ./cmd/ramzban

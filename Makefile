# Upkeep. "make help" says what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MODULES := . dev dev/s3server dev/kit dev/cluster
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/upkeep-run/upkeep/internal/version.stamped=$(VERSION)
# One way to compile for all targets, so that what one has built the others find in the cache.
export GOFLAGS := $(GOFLAGS) -trimpath
# "make lint" vets, and one pass over everything that a server of Temporal is made of is enough.
GOTEST := go test -vet=off -timeout $(or $(TEST_TIMEOUT),20m)

# The packages with goroutines of their own, tested under the race detector too.
CONCURRENT := ./internal/chunk ./internal/objstore ./internal/prober ./internal/restore ./internal/proof ./worker/... ./workflows/...

.DEFAULT_GOAL := help

.PHONY: help
help: ## say what there is
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/\1\t\2/' | column -t -s "$$(printf '\t')"

.PHONY: run
run: prerequisites-run build ## run everything on this machine and drill a sample database (ONCE=1: then end; UPKEEP_DSN: drill your own)
	@UPKEEP_DSN_ORIGIN='$(origin UPKEEP_DSN)' ./bin/upkeep-dev $(ARGS)

.PHONY: programs
programs:
	@mkdir -p bin
	go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/upkeep ./cmd/upkeep-worker

.PHONY: build
build: programs ## build bin/upkeep, bin/upkeep-worker and bin/upkeep-dev
	cd dev && go build -ldflags '$(LDFLAGS)' -o ../bin/ ./cmd/upkeep-dev

VARIANT = $(if $(SERVER),-server)$(if $(CODE),-code)
.PHONY: image
image: prerequisites-image programs ## make a container image of this machine's files, bin/upkeep-image.tar (SERVER=1: with PostgreSQL's server programs; CODE=1: with Go, Node and npm, for lock files)
	@cd dev/kit && go run ./cmd/upkeep-image --programs ../../bin --version '$(VERSION)' $(if $(SERVER),--with-postgres-server) $(if $(CODE),--with-lock-tools) --to ../../bin/upkeep-image$(VARIANT).tar
	@sha256sum bin/upkeep-image$(VARIANT).tar

.PHONY: test
test: prerequisites ## run unit, workflow, replay and integration tests
	$(GOTEST) ./...
	cd dev && $(GOTEST) ./...
	cd dev/kit && $(GOTEST) ./...
	cd dev/cluster && $(GOTEST) ./...
	$(GOTEST) -race $(CONCURRENT)

.PHONY: cluster
cluster: prerequisites-cluster ## bring up a real Kubernetes cluster on this machine (as root) and print its kubeconfig
	@cd dev/cluster && go run ./cmd/cluster up

.PHONY: cluster-down
cluster-down: ## remove that cluster, after a crash too
	@cd dev/cluster && go run ./cmd/cluster down

.PHONY: e2e
e2e: prerequisites-cluster ## run the end-to-end tests on a cluster: KUBECONFIG's, or this machine's for as long as they run (KEEP=1: it stays; WORKERS=pods: all workers are pods)
	@dev/e2e.sh

.PHONY: compose-test
compose-test: prerequisites-compose ## run docker-compose.yml on images made here, and one drill in it (with Docker, or as root with Debian's docker.io)
	@dev/compose.sh

.PHONY: failpoints
failpoints: prerequisites prerequisites-cluster ## kill and freeze the worker at every point of every effect, also on a cluster, and run every mutant
	FAILPOINTS=all $(GOTEST) -tags fault -count=1 -timeout 60m ./internal/...
	dev/failpoints.sh
	FAILPOINTS=all dev/e2e.sh -timeout 6h

.PHONY: fuzz
fuzz: ## fuzz every parser for a minute each
	@for p in $$(grep -rlE '^func Fuzz' --include='*_test.go' internal | xargs -n1 dirname | sort -u); do \
		for f in $$(grep -hoE '^func Fuzz[A-Za-z]*' $$p/*_test.go | cut -d' ' -f2); do $(GOTEST) -run '^$$' -fuzz "^$$f$$" -fuzztime 60s ./$$p; done; done

.PHONY: bench
bench: prerequisites build ## measure against pg_dump and pg_restore and write docs/benchmarks.md (BENCH_MB=4096 BENCH_RUNS=3)
	cd dev && go run ./bench -mb $${BENCH_MB:-4096} -runs $${BENCH_RUNS:-3} -out ../docs/benchmarks.md

.PHONY: bench-deps
bench-deps: build ## measure the look-up of dependencies against Renovate and write docs/benchmarks-dependencies.md (BENCH_RUNS=3; needs npm and the internet)
	cd dev && go run ./bench-deps -runs $${BENCH_RUNS:-3} -out ../docs/benchmarks-dependencies.md
.PHONY: bench-cluster
bench-cluster: prerequisites-cluster programs ## measure recoveries on a cluster, as e2e finds one, against the guide's commands, and write docs/benchmarks-cluster.md; then incidents and access (BENCH_RUNS=3; BENCH_ONLY=wedged,loss: of these alone)
	cd dev && go build -o ../bin/ ./bench-cluster
	@dev/with-cluster.sh ../bin/bench-cluster -runs $${BENCH_RUNS:-3} -only "$${BENCH_ONLY:-}" -out $${BENCH_OUT:-../docs/benchmarks-cluster.md}
	@[ -n "$${BENCH_ONLY:-}" ] || $(MAKE) bench-incident bench-access

.PHONY: bench-incident
bench-incident: prerequisites-cluster programs ## measure the containment of an incident and its evidence on a cluster on this machine, and write docs/benchmarks-incident.md (BENCH_RUNS=5)
	cd dev && go build -o ../bin/ ./bench-incident
	@dev/with-cluster.sh ../bin/bench-incident -runs $${BENCH_RUNS:-5} -out ../docs/benchmarks-incident.md

.PHONY: bench-access
bench-access: ## measure a review of access on the cluster of KUBECONFIG, among 10,000 roles and 10,000 bindings, and write docs/benchmarks-access.md (BENCH_N=10000 BENCH_RUNS=5)
	cd dev && go build -o ../bin/ ./bench-access
	@dev/with-cluster.sh ../bin/bench-access -n $${BENCH_N:-10000} -runs $${BENCH_RUNS:-5} -out $${BENCH_OUT:-../docs/benchmarks-access.md}

.PHONY: lint
lint: ## check formatting, vet, determinism of workflows, and that the modules agree
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "gofmt would change: $$unformatted" >&2; exit 1; }
	@for m in $(MODULES); do (cd $$m && go vet ./... && go mod tidy -diff >/dev/null) || { echo "$$m: go vet or go mod tidy is not clean" >&2; exit 1; }; done
	go vet -tags fault ./internal/fault ./internal/backup ./internal/restore
	cd dev && go vet -tags e2e ./tests/e2e ./tests/helm
	go run go.temporal.io/sdk/contrib/tools/workflowcheck@v0.6.0 -config workflows/workflowcheck.config.yaml ./workflows/...
	@dev/agree.sh

.PHONY: prerequisites
prerequisites: ## check that the machine has what the tests and the demonstration need; install it as root or with YES=1
	@dev/prerequisites.sh test

.PHONY: prerequisites-run
prerequisites-run:
	@dev/prerequisites.sh run

.PHONY: prerequisites-image
prerequisites-image:
	@dev/prerequisites.sh image $(if $(CODE),npm)

.PHONY: prerequisites-compose
prerequisites-compose:
	@dev/prerequisites.sh compose

.PHONY: prerequisites-cluster
prerequisites-cluster:
	@[ -n "$${KUBECONFIG:-}" ] || dev/prerequisites.sh cluster

.PHONY: clean
clean: ## remove what was built
	rm -rf bin

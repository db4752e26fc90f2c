#!/usr/bin/env bash
# Runs the end-to-end tests: on the cluster of KUBECONFIG, whose nodes must have the images of dev/stack
# (docs/cluster.md), or else on this machine's, which is brought up if it is not, and then taken down
# again unless KEEP=1. WORKERS=pods: the workers of all procedures' tests are pods.
set -euo pipefail
cd "$(dirname "$0")"
built=$(mktemp -d)
took_up=
finish() {
	if [ -n "$took_up" ] && [ "${KEEP:-}" != 1 ]; then "$built/cluster" down; fi
	rm -rf "$built"
}
trap finish EXIT
(cd cluster && go build -o "$built/cluster" ./cmd/cluster)
if [ -z "${KUBECONFIG:-}" ]; then
	"$built/cluster" status >/dev/null 2>&1 || took_up=1
	KUBECONFIG=$("$built/cluster" up)
	export KUBECONFIG
	CGO_ENABLED=0 go build -o "$built/web" ./stack/web
	"$built/cluster" images --web "$built/web"
	make -C .. image VERSION=e2e
	# The same with workers that can be told where to break, and the tools to wake one that is frozen.
	go build -C .. -tags fault -ldflags '-s -w' -o "$built/fault/" ./cmd/upkeep ./cmd/upkeep-worker
	(cd kit && go run ./cmd/upkeep-image --programs "$built/fault" --version e2e-fault --with-postgres-server --to "$built/fault.tar")
	"$built/cluster" import ../bin/upkeep-image.tar "$built/fault.tar"
fi
if ! command -v kubectl >/dev/null || ! command -v helm >/dev/null; then
	PATH="$("$built/cluster" tools):$PATH"
	export PATH
fi
go test -vet=off -tags e2e,fault -count=1 -timeout 40m -p 1 "$@" ./tests/e2e ./tests/helm

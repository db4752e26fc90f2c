#!/usr/bin/env bash
# Runs the end-to-end tests: on the cluster of KUBECONFIG, whose nodes must have the images of dev/stack
# (docs/cluster.md), or else on this machine's, which is brought up if it is not, and then taken down
# again unless KEEP=1.
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
	"$built/cluster" import ../bin/upkeep-image.tar
fi
if ! command -v kubectl >/dev/null || ! command -v helm >/dev/null; then
	PATH="$("$built/cluster" tools):$PATH"
	export PATH
fi
# For the tests that end and freeze programs of the cluster. Those that work side by side mostly wait.
UPKEEP_CLUSTER=$built/cluster
export UPKEEP_CLUSTER
go test -parallel 6 -vet=off -tags e2e,fault -count=1 -timeout 40m -p 1 "$@" ./tests/e2e ./tests/helm

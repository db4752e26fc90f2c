#!/usr/bin/env bash
# with-cluster.sh [--image TAG] COMMAND...: runs a command, in dev/, with KUBECONFIG, kubectl and helm: on
# the cluster of KUBECONFIG, whose nodes must have the images of dev/stack (docs/cluster.md), or else on
# this machine's, which is brought up if it is not, and then taken down again unless KEEP=1. With --image,
# that cluster gets Upkeep's own image too, and one whose workers can be told where to break.
set -euo pipefail
cd "$(dirname "$0")"
image=
if [ "${1:-}" = --image ]; then
	image=$2
	shift 2
fi
built=$(mktemp -d)
took_up=
finish() {
	if [ -n "$took_up" ] && [ "${KEEP:-}" != 1 ]; then "$built/cluster" down; fi
	rm -rf "$built"
}
trap finish EXIT
(cd cluster && go build -o "$built/cluster" ./cmd/cluster)
# For the tests that end and freeze programs of the cluster.
export UPKEEP_CLUSTER=$built/cluster
if [ -z "${KUBECONFIG:-}" ]; then
	"$built/cluster" status >/dev/null 2>&1 || took_up=1
	KUBECONFIG=$("$built/cluster" up)
	export KUBECONFIG
	CGO_ENABLED=0 go build -o "$built/web" ./stack/web
	"$built/cluster" images --web "$built/web"
	if [ -n "$image" ]; then
		make -C .. image VERSION="$image"
		# The same with workers that can be told where to break, the tools to wake one that is frozen, and what
		# makes lock files.
		go build -C .. -tags fault -ldflags '-s -w' -o "$built/fault/" ./cmd/upkeep ./cmd/upkeep-worker
		(cd kit && go run ./cmd/upkeep-image --programs "$built/fault" --version "$image-fault" --with-postgres-server --with-lock-tools --to "$built/fault.tar")
		"$built/cluster" import ../bin/upkeep-image.tar "$built/fault.tar"
	fi
fi
if ! command -v kubectl >/dev/null || ! command -v helm >/dev/null; then
	PATH="$("$built/cluster" tools):$PATH"
	export PATH
fi
"$@"

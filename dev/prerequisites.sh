#!/usr/bin/env bash
# Checks that this machine has what the demonstration needs ("run"), the tests too ("test"), a cluster
# ("cluster"), an image of Upkeep ("image", or "image npm" if that has it) or the run of docker-compose.yml ("compose"). What is missing is
# installed as root or with YES=1; otherwise the one command to run is printed.
set -euo pipefail

missing=()
need() { # PACKAGE TEST...
	local package=$1
	shift
	"$@" >/dev/null 2>&1 || missing+=("$package")
}
newest=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1 || true)
has_server() { [ -x "${newest:-/none}/postgres" ] && [ -x "${newest:-/none}/initdb" ] || [ -x "${UPKEEP_PG_BIN:-/none}/postgres" ]; }
has_client() { [ -x "${newest:-/none}/pg_dump" ] || command -v pg_dump; }
has_amcheck() { ls /usr/share/postgresql/*/extension/amcheck.control; }
need postgresql has_server
need postgresql-client has_client
need postgresql-contrib has_amcheck
need gcc command -v gcc # for zstd's own library, and the race detector; Go does without where it is missing
need libc6-dev test -e /usr/include/stdlib.h
if [ "${2:-}" = npm ]; then need npm command -v npm; fi
if [ "${1:-run}" = test ]; then
	need zstd command -v zstd # bringing a backup back without Upkeep
	need age command -v age   # the same with an encrypted one
	need npm command -v npm   # other versions of PostgreSQL come as npm packages
fi
case "${1:-run}" in image | cluster | compose) # the end-to-end tests run Upkeep's image
	need tini test -x /usr/bin/tini
	need git command -v git
	need ca-certificates test -e /etc/ssl/certs/ca-certificates.crt
	need busybox-static test -x /bin/busybox
	;;
esac
if [ "${1:-run}" = compose ] && ! docker version >/dev/null 2>&1; then # no engine answers: Debian's is started for the test
	need docker.io command -v dockerd
	need iproute2 command -v ip
fi
if [ "${1:-run}" = cluster ]; then
	for program in containerd runc iptables ipset conntrack; do need $program command -v $program; done
	need containernetworking-plugins ls /usr/lib/cni/bridge /usr/lib/cni/host-local
	need iproute2 command -v ip
	need kmod command -v modprobe
	need prometheus test -x /usr/bin/prometheus # the stack's, from its own binary
fi
command -v go >/dev/null || { echo "Go 1.26 is missing: see https://go.dev/doc/install" >&2; exit 1; }

[ ${#missing[@]} -eq 0 ] && exit 0
install="apt-get install -y --no-install-recommends ${missing[*]}"
if ! command -v apt-get >/dev/null; then
	echo "missing: ${missing[*]} (Debian's names; install your system's packages of them)" >&2
	exit 1
fi
if [ "$(id -u)" = 0 ]; then
	apt-get update -q && DEBIAN_FRONTEND=noninteractive $install
elif [ "${YES:-}" = 1 ]; then
	sudo apt-get update -q && sudo DEBIAN_FRONTEND=noninteractive $install
else
	echo "missing: ${missing[*]}. Install them with:" >&2
	echo "    sudo apt-get update && sudo $install" >&2
	echo "or let make do it: YES=1 make ..." >&2
	exit 1
fi

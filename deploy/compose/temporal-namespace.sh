#!/bin/sh
# Makes the namespace unless it is there. A server that has just started may not answer yet.
set -eu
tries=30
until temporal operator namespace describe -n default --command-timeout 10s >/dev/null 2>&1 ||
	temporal operator namespace create -n default --retention 90d --command-timeout 10s; do
	tries=$((tries - 1))
	[ "$tries" -gt 0 ] || exit 1
	sleep 2
done

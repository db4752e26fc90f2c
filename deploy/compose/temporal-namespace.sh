#!/bin/sh
# Makes the namespace unless it is there. A server that has just started may not answer yet; and where
# nobody answers for names of the world, a call takes half a minute, as gRPC asks for some first.
set -eu
tries=5
until temporal operator namespace describe -n default --command-timeout 60s >/dev/null 2>&1 ||
	temporal operator namespace create -n default --retention 90d --command-timeout 60s; do
	tries=$((tries - 1))
	[ "$tries" -gt 0 ] || exit 1
	sleep 2
done

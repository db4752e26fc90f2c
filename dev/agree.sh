#!/usr/bin/env bash
# Fails when the modules of this repository use different versions of what they share.
set -euo pipefail
cd "$(dirname "$0")/.."
differ=$(join <(go list -m -f '{{.Path}} {{.Version}}' all | sort) <(cd dev && go list -m -f '{{.Path}} {{.Version}}' all | sort) |
	awk '$2 != $3 && $3 != "" {print}' | while read -r path root dev; do
	# Only what both name as their own, not what either merely inherits.
	if grep -qE "^\s+$path v[^ ]+$" go.mod && grep -qE "^\s+$path v[^ ]+$" dev/go.mod; then echo "$path: $root in ., $dev in dev"; fi
done)
[ -z "$differ" ] || { echo "the modules disagree:" >&2; echo "$differ" >&2; exit 1; }

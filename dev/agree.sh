#!/usr/bin/env bash
# Fails when the modules of this repository use different versions of what they share.
set -euo pipefail
cd "$(dirname "$0")/.."
versions() { (cd "$1" && go list -m -f '{{.Path}} {{.Version}}' all | sort); }
differ=$(for module in dev dev/s3server dev/kit dev/cluster; do
	join <(versions .) <(versions $module) | awk '$2 != $3 && $3 != "" {print}' | while read -r path root other; do
		# Only what both name as their own, not what either merely inherits.
		if grep -qE "^\s+$path v[^ ]+$" go.mod && grep -qE "^\s+$path v[^ ]+$" $module/go.mod; then echo "$path: $root in ., $other in $module"; fi
	done
done)
[ -z "$differ" ] || { echo "the modules disagree:" >&2; echo "$differ" >&2; exit 1; }

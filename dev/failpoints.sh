#!/usr/bin/env bash
# Runs every case of the failpoint tests, in shares side by side (SHARES=4): most of a case is waiting. Then the
# lives of pull requests, which wait side by side by themselves.
set -euo pipefail
cd "$(dirname "$0")/tests/failpoints"
shares=${SHARES:-4}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go test -vet=off -c -o "$work/failpoints.test" .
pids=()
for share in $(seq "$shares"); do
	FAILPOINTS=$share/$shares "$work/failpoints.test" -test.v -test.timeout 120m >"$work/$share.log" 2>&1 &
	pids+=($!)
done
failed=0
for share in $(seq "$shares"); do
	if wait "${pids[share - 1]}"; then
		grep -E '^ +--- |^--- ' "$work/$share.log"
	else
		failed=1
		cat "$work/$share.log"
	fi
done
cd ../updates
FAILPOINTS=all go test -vet=off -count=1 -v -timeout 180m -run 'TestTheWholeLife|TestACrowd' . | grep -E '^ *--- |^FAIL|^ok|crowd_test' || failed=1
exit "$failed"

#!/usr/bin/env bash
# Runs the end-to-end tests, on the cluster that with-cluster.sh finds or brings up. WORKERS=pods: the
# workers of all procedures' tests are pods.
set -euo pipefail
exec "$(dirname "$0")/with-cluster.sh" --image e2e go test -parallel 8 -vet=off -tags e2e,fault -count=1 -timeout 60m -p 1 "$@" ./tests/e2e ./tests/helm

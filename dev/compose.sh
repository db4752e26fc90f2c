#!/usr/bin/env bash
# Runs docker-compose.yml to its end: every service from an image that is made here, under the same name, one
# drill to PASS, an answer of the Web UI, a second "up", and all of it taken down again. With a Docker engine
# that answers, that one is used; otherwise, as root, Debian's dockerd runs for as long as this does, in a
# network of its own, so that nothing that it does to packet filters reaches the machine. Nobody answers
# there for names of the world.
set -euo pipefail
cd "$(dirname "$0")/.."
made=$(mktemp -d /var/tmp/upkeep-compose-XXXXXX)
engine=
finish() {
	status=$?
	[ -x "$made/docker-compose" ] && {
		[ $status = 0 ] || compose logs --tail 30 || true
		compose down --volumes --timeout 30 || true
	}
	if [ -n "$engine" ]; then
		kill "$engine" && wait "$engine" || true
		umount "$made"/data/overlay2/*/merged 2>/dev/null || true
		[ $status = 0 ] || tail -20 "$made/dockerd.log"
	fi
	rm -rf "$made"
}
trap finish EXIT
compose() { timeout --kill-after 10 "${COMPOSE_TIMEOUT:-600}" "$made/docker-compose" --project-name upkeep-compose-test --project-directory . "$@"; }

make image SERVER=1 VERSION=compose
(cd dev/kit && go run ./cmd/compose-images --source . --to "$made") >"$made/list"
cp "$(head -1 "$made/list")" "$made/docker-compose"

if ! docker version >/dev/null 2>&1; then
	[ "$(id -u)" = 0 ] || { echo "no Docker engine answers; start one, or run this as root with Debian's docker.io" >&2; exit 1; }
	export DOCKER_HOST=unix://$made/docker.sock
	unshare --net -- sh -c "ip link set lo up; exec dockerd --data-root '$made/data' --exec-root '$made/exec' -p '$made/docker.pid' -H '$DOCKER_HOST' --dns 127.0.0.1" >"$made/dockerd.log" 2>&1 &
	engine=$!
	for _ in $(seq 60); do docker version >/dev/null 2>&1 && break; sleep 0.5; done
fi
docker version --format 'Docker {{.Server.Version}}'
tail -n +2 "$made/list" | xargs -n1 docker load -i
docker load -i bin/upkeep-image-server.tar

export POSTGRES_PASSWORD UPKEEP_IMAGE=upkeep:compose-server
POSTGRES_PASSWORD=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
compose config --quiet
compose up --detach --no-build --pull never
# A new server may not take runs yet; by its id the run is there once.
for try in 1 2 3; do
	drill=0
	compose exec -T upkeep upkeep run DrillRecovery --target temporal --id compose-test --wait || drill=$?
	[ "$drill" != 0 ] || break
done
[ "$drill" = 0 ]
# The Web UI answers, and has the run's namespace.
compose exec -T temporal wget -qO- http://temporal-ui:8080/api/v1/namespaces | grep -q '"default"'
# The schema and namespace jobs are done again by a second "up", and change nothing.
compose up --detach --no-build --pull never
compose exec -T upkeep upkeep runs

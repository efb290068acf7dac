#!/usr/bin/env bash
# Every alert of deploy/prometheus by its fault, in namespaces of its own: a real Prometheus, two replicas, Redis, the emulator and
# callers. Some twenty minutes and root. BINARIES=… for the folder with tokenward and entra-emulator; arguments: only these alerts.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/tools.sh deploy
if [ "$(id -u)" -ne 0 ]; then
    echo "run as root: it mounts and makes a network of its own" >&2
    exit 2
fi
# Its mounts go away with its namespaces, and then this. (unshare heeds no other signal.)
TMPDIR=$(mktemp -d)
export TMPDIR
trial=
trap 'if [ -n "$trial" ]; then kill -KILL "$trial" 2>/dev/null; fi; rm -rf "$TMPDIR"' EXIT
trap 'exit 130' INT TERM
unshare --mount --net --pid --fork --mount-proc --kill-child --propagation private -- \
    target/interop/deploy/bin/python scripts/alerts_trial.py "${BINARIES:-target/debug}" "$@" &
trial=$!
status=0
wait "$trial" || status=$?
trial=
exit "$status"

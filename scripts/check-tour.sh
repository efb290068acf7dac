#!/usr/bin/env bash
# deploy/compose and the tour (deploy/tour): their services as plain processes in namespaces of their own, the steps of their
# heads, and every question of the dashboard asked of the tour's Prometheus. It takes a minute and a half, and needs root. BINARIES=… for the folder with tokenward and entra-emulator.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/tools.sh deploy
if [ "$(id -u)" -ne 0 ]; then
    echo "run as root: it mounts and makes a network of its own" >&2
    exit 2
fi
# Their mounts go away with their namespaces, and then this.
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
for trial in compose tour; do
    unshare --mount --net --pid --fork --mount-proc --kill-child --propagation private -- \
        target/interop/deploy/bin/python "scripts/${trial}_trial.py" "${BINARIES:-target/debug}"
done

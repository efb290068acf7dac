#!/usr/bin/env bash
# Renders the overlays of deploy/kubernetes, validates them, and starts the daemon of each as its pod would: the rendered
# configuration and variables, the files as the kubelet lays them out (links, owner, group, mode), a read-only root, uid 65532, no
# network but its own. Beside it stand an API server's key endpoint and Redis, or a Redis Cluster, with TLS. It is ready when /readyz
# says so, and a caller with a service account's token is known to it.
#
#   scripts/check-kubernetes.sh            # BINARY=… to choose the program; the second half needs root
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/tools.sh deploy
python=target/interop/deploy/bin/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" scripts/check_kubernetes.py --unpack "$work/overlays"
echo "ok    overlays: rendered and validated"

binary=${BINARY:-target/debug/tokenward}
if [ "$(id -u)" -eq 0 ] && [ -x "$binary" ] && [ -n "$(find src Cargo.lock -newer "$binary" -print -quit)" ]; then
    echo "note  overlays, each started: $binary is older than its sources"
fi
if [ "$(id -u)" -ne 0 ] || [ ! -x "$binary" ]; then
    echo "skip  overlays, each started: this needs root and a program at $binary"
    if [ "${STRICT:-0}" = 1 ]; then exit 1; fi
    exit 0
fi
for overlay in embedded redis redis-cluster; do
    unshare --mount --net --pid --fork --mount-proc --kill-child --propagation private -- \
        "$python" scripts/kubernetes_trial.py "$overlay" "$work/overlays/$overlay" "$binary"
done

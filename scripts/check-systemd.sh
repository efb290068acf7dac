#!/usr/bin/env bash
# The packaged units under a real systemd: installed by install.sh into a copy of this machine's root (an overlay, in namespaces of
# its own) in which systemd is process 1. What is tried: start and readiness, what the sandbox leaves, LoadCredential, reload, the
# watchdog, a wrong configuration, sockets from systemd, and restarts under load without a failed request.
#
#   scripts/check-systemd.sh          # BINARY=… to choose the program; needs root and systemd's package, a minute
set -euo pipefail
cd "$(dirname "$0")/.."

binary=${BINARY:-target/debug/tokenward}
if [ "$(id -u)" -ne 0 ]; then
    echo "run as root: it mounts, and starts a systemd" >&2
    exit 2
fi
if [ ! -x /usr/lib/systemd/systemd ] || ! grep -q ' cgroup2 ' /proc/mounts; then
    echo "this needs systemd's package and a cgroup2 file system" >&2
    exit 2
fi
if [ ! -x "$binary" ]; then
    echo "no program at $binary; build it (cargo build) or set BINARY" >&2
    exit 1
fi
python3 scripts/systemd_trial.py "$binary"

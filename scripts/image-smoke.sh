#!/usr/bin/env bash
# Starts the image's program as the image's user on a read-only root, with nothing but directories for configuration, state, audit
# and sockets mounted, and waits for /livez to answer 200.
#
#   scripts/image-smoke.sh              # TAG=… to choose the image; needs root and buildah
#   ROOTFS=DIR scripts/image-smoke.sh   # a directory that holds the image's files, in place of an image
#
# `tokenward init` makes the configuration, run outside the container from the same program. A stand-in for the program may make
# it another way: INIT="command …" is run with the directory as its last argument.
set -euo pipefail
cd "$(dirname "$0")/.."

tag=${TAG:-localhost/tokenward:latest}
user=65532
if [ "$(id -u)" -ne 0 ]; then
    echo "run as root: it mounts and changes the root directory" >&2
    exit 2
fi

# A private set of mounts, which goes away with this process.
if [ -z "${SMOKE_INSIDE:-}" ]; then
    SMOKE_INSIDE=1 exec unshare --mount --propagation private -- "$0" "$@"
fi

work=$(mktemp -d)
container=
daemon=
storage=(--storage-driver "${STORAGE_DRIVER:-vfs}")
# shellcheck disable=SC2317 # called by the trap
clean_up() {
    if [ -n "$daemon" ]; then
        kill -KILL "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    for place in etc/tokenward var/lib/tokenward var/log/tokenward run/tokenward ''; do
        umount "$work/root/$place" 2>/dev/null || true
    done
    if [ -n "$container" ]; then
        buildah "${storage[@]}" umount "$container" >/dev/null
        buildah "${storage[@]}" rm "$container" >/dev/null
    fi
    rm -rf "$work"
}
trap clean_up EXIT
fail() {
    echo "FAIL  $*" >&2
    if [ -s "$work/log" ]; then tail -n 40 "$work/log" >&2; fi
    exit 1
}

# The image: what it says about itself, and its files.
if [ -n "${ROOTFS:-}" ]; then
    image=$(cd "$ROOTFS" && pwd)
else
    container=$(buildah "${storage[@]}" from --pull-never "$tag")
    image=$(buildah "${storage[@]}" mount "$container")
    setting() { buildah "${storage[@]}" inspect --type image --format "$1" "$tag"; }
    [ "$(setting '{{.OCIv1.Config.User}}')" = "$user:$user" ] || fail "the image's user is not $user"
    [ "$(setting '{{.OCIv1.Config.Entrypoint}}')" = '[/tokenward]' ] || fail "the image's entry point is not /tokenward"
    [ "$(setting '{{.OCIv1.Config.Cmd}}')" = '[serve]' ] || fail "the image's command is not serve"
fi
# Everything in the image, by name: a shell or a stray secret would be one file too many.
expected='etc/group
etc/nsswitch.conf
etc/passwd
etc/ssl/certs/ca-certificates.crt
tokenward
usr/share/doc/tokenward/sbom.cdx.json'
found=$(cd "$image" && find . ! -type d -printf '%P\n' | LC_ALL=C sort)
[ "$found" = "$expected" ] || fail "the image holds other files than it should: $(tr '\n' ' ' <<<"$found")"
[ -z "$(find "$image" -perm /6022 ! -type l -print -quit)" ] || fail "the image holds a file that others may write, or a setuid one"
if grep -q TOKENWARD_TEST_CLOCK "$image/tokenward"; then fail "the program's clock can be moved: it is a debug build"; fi
echo "ok    files and settings"

# A configuration with its paths as the daemon will see them: `init` writes into /etc/tokenward of the image's own root.
mkdir "$work/root" "$work/etc" "$work/state" "$work/audit" "$work/run" "$work/empty"
chown "$user:$user" "$work/etc" "$work/state" "$work/audit" "$work/run"
chmod 0755 "$work"
chmod 0700 "$work/state" "$work/audit"
mount --bind "$image" "$work/root"
mount -o remount,bind,ro "$work/root"
mount --bind "$work/state" "$work/root/var/lib/tokenward"
mount --bind "$work/audit" "$work/root/var/log/tokenward"
mount --bind "$work/run" "$work/root/run/tokenward"
mount --bind "$work/etc" "$work/root/etc/tokenward"
as_user=("$(command -v chroot)" "--userspec=$user:$user" --groups="$user" "$work/root")
if [ -n "${INIT:-}" ]; then
    # shellcheck disable=SC2086 # a command with its arguments
    $INIT "$work/etc" >"$work/log" 2>&1 || fail "INIT failed"
    chown -R "$user:$user" "$work/etc"
else
    env -i "${as_user[@]}" /tokenward init /etc/tokenward >"$work/log" 2>&1 || fail "tokenward init failed"
fi
[ -s "$work/etc/tokenward.toml" ] || fail "init made no tokenward.toml: $(ls "$work/etc")"
mount -o remount,bind,ro "$work/root/etc/tokenward"
echo "ok    init"

# Ports that are free, so that a daemon of the machine's own does not answer instead.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
}
ops=${OPS_PORT:-$(free_port)}
# Only what differs is set; the sockets' and the store's paths are the defaults, inside the mounts.
environment=(
    TOKENWARD_CONFIG=/etc/tokenward/tokenward.toml
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
    "TOKENWARD__LISTEN__OPS__ADDRESS=127.0.0.1:$ops"
    "TOKENWARD__LISTEN__PUBLIC__ADDRESS=127.0.0.1:$(free_port)"
)
# More of them, in words: EXTRA_ENV="TOKENWARD__LISTEN__LOCAL__1__ADDRESS=127.0.0.1:7171"
read -r -a extra <<<"${EXTRA_ENV:-}"

env -i "${environment[@]}" "${extra[@]}" "${as_user[@]}" /tokenward serve >"$work/log" 2>&1 &
daemon=$!

[ "$(stat -c %u "$work/root/var/lib/tokenward")" = "$user" ] || fail "the state directory is not the user's"
for _ in $(seq "${WAIT_SECONDS:-20}"); do
    for _ in 1 2 3 4 5; do
        kill -0 "$daemon" 2>/dev/null || fail "it ended before it was live"
        status=$(curl -s -o /dev/null -w '%{http_code}' --max-time 2 "http://127.0.0.1:$ops/livez" || true)
        if [ "$status" = 200 ]; then break 2; fi
        sleep 0.2
    done
done
[ "$status" = 200 ] || fail "/livez answered $status after ${WAIT_SECONDS:-20} s"
[ -s "$work/audit/audit.jsonl" ] || fail "no audit record was written"
echo "ok    live"

# Who it is, and that it can write nowhere but where it should.
[ "$(awk '/^Uid:/ {print $2}' "/proc/$daemon/status")" = "$user" ] || fail "it does not run as $user"
[ "$(awk '/^CapEff:/ {print $2}' "/proc/$daemon/status")" = 0000000000000000 ] || fail "it has capabilities"
if (: >"$work/root/written") 2>/dev/null; then fail "the root is not read-only"; fi
echo "ok    user $user, no capabilities, read-only root"

# It goes when it is asked to.
kill -TERM "$daemon"
for _ in $(seq 450); do
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.1
done
if kill -0 "$daemon" 2>/dev/null; then fail "it is still there 45 s after SIGTERM"; fi
code=0
wait "$daemon" || code=$?
daemon=
[ "$code" = 0 ] || fail "it ended with $code after SIGTERM"
echo "ok    stopped"

#!/usr/bin/env bash
# Builds the Dockerfile as it stands, both of its images, with buildah, and starts them. Nothing is pulled: the base images are made here
# from Debian's packages, this machine's Rust and its cache of crates. To be quick, the program is built without the release's
# optimisation; scripts/reproduce.sh builds that.
#
#   scripts/check-dockerfile.sh       # needs root, buildah and debootstrap; several minutes and some 8 GB below TMPDIR (STORAGE_DRIVER=vfs: more)
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" -ne 0 ]; then
    echo "run as root: it makes base images" >&2
    exit 2
fi
for tool in buildah debootstrap; do
    command -v "$tool" >/dev/null || { echo "$tool is not installed" >&2; exit 2; }
done
work=$(mktemp -d)
# The images stay apart from the machine's own.
storage=(--storage-driver "${STORAGE_DRIVER:-overlay}" --root "$work/images" --runroot "$work/run")
trap 'buildah "${storage[@]}" rm --all >/dev/null 2>&1 || true; rm -rf "$work"' EXIT

# base NAME PACKAGES: an image of Debian with these packages.
base() {
    debootstrap --variant=minbase --include="$2" bookworm "$work/debian" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$work/log" 2>&1 ||
        { tail -n 20 "$work/log" >&2; exit 1; }
    local container
    container=$(buildah "${storage[@]}" from scratch)
    buildah "${storage[@]}" copy --quiet "$container" "$work/debian" / >/dev/null
    buildah "${storage[@]}" config --env PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin "$container"
    rm -rf "$work/debian"
    if [ $# -gt 2 ]; then "$3" "$container"; fi
    buildah "${storage[@]}" commit --quiet --rm "$container" "$1" >/dev/null
}
rust() {
    buildah "${storage[@]}" copy --quiet "$1" "$(rustc --print sysroot)" /usr/local/rust >/dev/null
    for part in index cache; do
        buildah "${storage[@]}" copy --quiet "$1" "${CARGO_HOME:-$HOME/.cargo}/registry/$part" "/usr/local/cargo/registry/$part" >/dev/null
    done
    buildah "${storage[@]}" config --env CARGO_HOME=/usr/local/cargo --env CARGO_NET_OFFLINE=true \
        --env PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin \
        --env CARGO_PROFILE_RELEASE_LTO=off --env CARGO_PROFILE_RELEASE_OPT_LEVEL=0 --env CARGO_PROFILE_RELEASE_CODEGEN_UNITS=256 \
        --env CARGO_PROFILE_RELEASE_DEBUG=false "$1"
}
cargo fetch --quiet --locked
base docker.io/library/debian:bookworm-slim ca-certificates
base localhost/tokenward-builder ca-certificates,gcc,g++,libc6-dev,make,binutils,python3 rust
echo "ok    base images"

# What is committed, and nothing else of this checkout.
mkdir "$work/context"
git archive HEAD | tar -x -C "$work/context"
for target in '' tour; do
    tag=localhost/tokenward-dockerfile${target:+-$target}
    buildah "${storage[@]}" build --isolation chroot --pull-never --layers --build-arg BUILDER=localhost/tokenward-builder \
        ${target:+--target "$target"} --tag "$tag" "$work/context" >"$work/log" 2>&1 || { tail -n 40 "$work/log" >&2; exit 1; }
    echo "ok    Dockerfile${target:+, target $target}"
done

container=$(buildah "${storage[@]}" from --pull-never localhost/tokenward-dockerfile)
ROOTFS=$(buildah "${storage[@]}" mount "$container") scripts/image-smoke.sh
# The tour's image: what its services start.
container=$(buildah "${storage[@]}" from --pull-never localhost/tokenward-dockerfile-tour)
for words in "tokenward --version" "entra-emulator --help"; do
    # shellcheck disable=SC2086 # a command with its argument
    buildah "${storage[@]}" run --isolation chroot "$container" -- $words >/dev/null
done
[ "$(buildah "${storage[@]}" run --isolation chroot "$container" -- id -u)" = 65532 ]
echo "ok    the tour's image: tokenward, entra-emulator, a shell, user 65532"

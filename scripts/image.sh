#!/usr/bin/env bash
# Builds the Dockerfile's final image from a static program that is already there, with nothing to pull.
#
#   RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --release --target x86_64-unknown-linux-gnu
#   scripts/image.sh                    # BINARY=… TAG=… ARCHIVE=… to choose
#
# Needs buildah, and root where there are no subordinate user ids.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=${BINARY:-target/x86_64-unknown-linux-gnu/release/tokenward}
tag=${TAG:-localhost/tokenward:latest}
archive=${ARCHIVE:-} # also write the image to this file, for `docker load`

if [ ! -x "$binary" ]; then
    echo "no program at $binary; build it first (see the head of $0) or set BINARY" >&2
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
scripts/image-rootfs.sh "$binary" "$work/context"

storage=(--storage-driver "${STORAGE_DRIVER:-vfs}")
buildah "${storage[@]}" build --isolation chroot --pull-never --squash \
    --timestamp "${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}" \
    --build-context "rootfs=$work/context" \
    --label "org.opencontainers.image.title=tokenward" \
    --label "org.opencontainers.image.licenses=Apache-2.0" \
    --label "org.opencontainers.image.revision=${REVISION:-$(git rev-parse HEAD)}" \
    --file Dockerfile --tag "$tag" "$work/context"
if [ -n "$archive" ]; then
    rm -f "$archive"
    buildah "${storage[@]}" push "$tag" "docker-archive:$archive:$tag"
fi
echo "built $tag"

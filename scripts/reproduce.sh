#!/usr/bin/env bash
# Builds the release of the last commit twice, in two directories with names of different length, and compares every byte. One of
# them is left in target/release-VERSION, as scripts/release.sh does.
#
#   scripts/reproduce.sh              # PROFILE=dev for a quick trial
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
commit=$(git rev-parse HEAD)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
for checkout in one another/and-deeper; do
    mkdir -p "$work/$checkout"
    git clone -q --no-hardlinks . "$work/$checkout"
    git -C "$work/$checkout" checkout -q "$commit"
    OUT="$work/out-${checkout%%/*}" "$work/$checkout/scripts/release.sh"
    rm -rf "$work/$checkout/target"
done
cmp "$work/out-one/SHA256SUMS" "$work/out-another/SHA256SUMS"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
mkdir -p target
rm -rf "target/release-$version"
mv "$work/out-one" "target/release-$version"
echo "ok    both builds have the same bytes; they are in target/release-$version"

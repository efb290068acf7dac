#!/usr/bin/env bash
# Builds the release of the last commit twice, in two directories with names of different length, and compares every byte.
#
#   scripts/reproduce.sh              # PROFILE=dev for a quick trial
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
for checkout in one another/and-deeper; do
    mkdir -p "$work/$checkout"
    git clone -q --no-hardlinks . "$work/$checkout"
    OUT="$work/out-${checkout%%/*}" "$work/$checkout/scripts/release.sh"
    rm -rf "$work/$checkout/target"
done
cmp "$work/out-one/SHA256SUMS" "$work/out-another/SHA256SUMS"
echo "ok    both builds have the same bytes"

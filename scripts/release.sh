#!/usr/bin/env bash
# Makes a release in target/release-VERSION: the archive with the static program, its man pages and completions, the units, the
# deployments, the documentation and the SBOM, the SBOM beside it, and SHA256SUMS. Two runs of one commit make the same bytes, wherever
# the checkout and the registry's cache are: no path, no time and no order of files of this machine goes in. They need the same tools;
# the archive's file TOOLCHAIN says which it was made with.
#
#   scripts/release.sh                # a clean checkout; PROFILE=dev for a quick trial, OUT=… for another directory
#   scripts/reproduce.sh              # twice, in two directories, and compared
set -euo pipefail
cd "$(dirname "$0")/.."

target=x86_64-unknown-linux-gnu
profile=${PROFILE:-release}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
out=${OUT:-target/release-$version}
name=tokenward-$version-$target

# The commit's time is the time of everything.
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    if [ -n "$(git status --porcelain)" ]; then
        echo "there are changes that are not committed; commit them, or set SOURCE_DATE_EPOCH" >&2
        exit 1
    fi
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
fi
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC
umask 022

here=$(pwd -P)
cargo_home=$(cd "${CARGO_HOME:-$HOME/.cargo}" && pwd -P)
sysroot=$(rustc --print sysroot)
export CARGO_INCREMENTAL=0
export RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=$here=. --remap-path-prefix=$cargo_home=cargo --remap-path-prefix=$sysroot=rust"
# What is written in C (aws-lc) and in assembler has paths of its own.
export CFLAGS="-ffile-prefix-map=$here=. -ffile-prefix-map=$cargo_home=cargo"
export CXXFLAGS=$CFLAGS
cargo build --locked --profile "$profile" --target "$target" --bin tokenward
built=target/$target/$([ "$profile" = dev ] && echo debug || echo "$profile")/tokenward

rm -rf "$out"
mkdir -p "$out/$name"
strip --strip-debug -o "$out/$name/tokenward" "$built"
chmod 0755 "$out/$name/tokenward"
for place in "$here" "$cargo_home"; do
    if grep -qaF "$place/" "$out/$name/tokenward"; then
        echo "the program holds the path $place: it would differ elsewhere" >&2
        exit 1
    fi
done
# What the bytes of the program depend on besides the commit; without the names under which a distribution has it.
{
    echo "# To make these bytes again: this commit, these tools, and scripts/release.sh. target/release-VERSION/SHA256SUMS is compared."
    echo "commit  ${REVISION:-$(git rev-parse HEAD)}"
    rustc --version --verbose | grep -E '^(rustc|host|LLVM)'
    cargo --version
    cc --version | head -1
    strip --version | head -1
    ld --version | head -1
    ldd --version | head -1
} >"$out/$name/TOOLCHAIN"
mkdir "$out/$name/man" "$out/$name/completions"
"$out/$name/tokenward" man "$out/$name/man" >/dev/null
for shell in bash zsh fish; do
    "$out/$name/tokenward" completions "$shell" >"$out/$name/completions/tokenward.$shell"
done
python3 scripts/sbom.py >"$out/$name/sbom.cdx.json"
cp README.md CHANGELOG.md SECURITY.md SEMANTICS.md LICENSE "$out/$name/"
git ls-files -z config deploy docs scripts/install.sh | while IFS= read -r -d '' file; do
    mkdir -p "$out/$name/$(dirname "$file")"
    cp "$file" "$out/$name/$file"
done
tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw -C "$out" -cf - "$name" |
    gzip -9n >"$out/$name.tar.gz"
cp "$out/$name/sbom.cdx.json" "$out/$name.cdx.json"
rm -r "${out:?}/$name"
(cd "$out" && sha256sum "$name.cdx.json" "$name.tar.gz" >SHA256SUMS && cat SHA256SUMS)

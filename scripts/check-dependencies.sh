#!/usr/bin/env bash
# The bans and sources of deny.toml for a machine without cargo-deny: one crypto provider, one TLS stack, one registry.
set -euo pipefail
cd "$(dirname "$0")/.."

banned=$(cargo tree --workspace --edges normal,build,dev --prefix none --format '{p}' \
    | grep -E '^(ring|rsa|openssl|openssl-sys|native-tls) v' | sort -u || true)
if [ -n "$banned" ]; then
    echo "banned by deny.toml: $banned" >&2
    exit 1
fi
foreign=$(grep -E '^source = ' Cargo.lock | grep -v '"registry+https://github.com/rust-lang/crates.io-index"' | sort -u || true)
if [ -n "$foreign" ]; then
    echo "a source that deny.toml does not allow: $foreign" >&2
    exit 1
fi
echo "ok    no banned crate, no foreign source"

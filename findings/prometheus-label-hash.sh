#!/usr/bin/env bash
# The Rust crate prometheus 0.14.0 hashes a vector's label values one after the other, with no mark between them: ("a", "bc") and
# ("ab", "c") are one series, which has the values that came first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'TOML'
[package]
name = "label-hash"
version = "0.0.0"
edition = "2024"

[dependencies]
prometheus = { version = "=0.14.0", default-features = false }

[workspace]
TOML
cat >"$folder/src/main.rs" <<'RUST'
use prometheus::{Encoder, IntCounterVec, Opts, Registry, TextEncoder};

fn main() {
    let requests = IntCounterVec::new(Opts::new("requests", "Requests"), &["caller", "app"]).unwrap();
    let registry = Registry::new();
    registry.register(Box::new(requests.clone())).unwrap();
    requests.with_label_values(&["a", "bc"]).inc();
    requests.with_label_values(&["ab", "c"]).inc();
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
    print!("{}", String::from_utf8(text).unwrap());
}
RUST
cargo run -q --manifest-path "$folder/Cargo.toml" --target-dir "$folder/target" | tee "$folder/seen"
echo "prometheus 0.14.0: one series for two pairs of label values"
test "$(grep -c '^requests{' "$folder/seen")" = 1
grep -qx 'requests{app="bc",caller="a"} 2' "$folder/seen"

# `make test` is the README's test command; `make check` is what CI runs, and it runs `make test`.
# What is needed and missing is installed by the targets under "tools".

CARGO ?= cargo
.PHONY: quickstart build test check fmt lint docs deny bench image deploy-check tools

quickstart:
	$(CARGO) run --example quickstart

test: tools
	$(CARGO) test --workspace

check: fmt lint docs deny test deploy-check

fmt:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --workspace --all-targets -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

# The advisory database needs a network beyond the registry; bans, licences and sources do not.
deny:
	@if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; \
	else echo "cargo-deny is not installed: bans, licences and sources are not checked (cargo install cargo-deny --locked)"; fi

tools:
	@scripts/tools.sh

deploy-check:
	scripts/check-deploy.sh

bench:
	$(CARGO) bench --bench serve_hot

image:
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --locked --target x86_64-unknown-linux-gnu
	scripts/image.sh

# `make test` is the README's test command; `make check` is what CI runs, and it runs `make test`. `make quick` is for every save.
# What is needed and missing is installed by the targets under "tools".

CARGO ?= cargo
# Most tests wait on sockets and clocks: more of them than cores may do so at once.
export RUST_TEST_THREADS ?= 8
.PHONY: quickstart build quick test check fmt lint structure docs deny bench bench-refresh bench-relay bench-steps audit-stream scale image image-test dockerfile deploy-check tools providers schemas vault mail soak soak-short flood slow simulate sweep-load baseline model rotation rotation-rewrap revoke-load import-drill drill fuzz linear-work work policy timing azure-identity systemd kubernetes kubernetes-rules tour site release reproduce screenshots languages console-load alerts relay-streams mailboxes

quickstart:
	$(CARGO) run --example quickstart

# What needs nothing but Rust and a C compiler, in under a minute after the build: the format, and the tests of the library and of the
# other crates, without those that start a program (redis-server, redis-cli, openssl, valgrind) and without the longest runs of the
# simulation (its 200 seeds and its mutants, three minutes of computing). The seeds with a name of their own run. `make test` runs all.
QUICK_SKIPS = store::redis::tests:: store::redis::access_tests:: store::redis::cluster_tests:: \
	store::redis::prerequisites_tests:: store::redis::sentinel_tests:: authority::linear_tests:: \
	hold_and_are_as_written_down _noticed
quick: fmt
	$(CARGO) test -q --workspace --lib -- $(addprefix --skip ,$(QUICK_SKIPS))
	$(CARGO) test -q -p entra-emulator -p refresh-model

test: tools
	$(CARGO) test --workspace

check: fmt lint structure docs deny test soak-short deploy-check

fmt:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --features testkit --bench steps -- -D warnings

# No circle among the files of src, no file and no line that is too long; first whether the checks find planted faults, those of
# the alerts included (scripts/check-deploy.sh has that check).
structure:
	@cd scripts && python3 -m unittest -q test_checks
	@scripts/check_circles.py
	@scripts/check_sizes.py
	@scripts/check_lines.py

docs:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

# Bans, licences and sources need no network, but cargo-deny itself; without it the bans and sources are still checked. The
# advisory database needs the network: `cargo deny check advisories`, where there is one.
deny:
	@if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; \
	else echo "cargo-deny is not installed: checking bans and sources without it"; scripts/check-dependencies.sh; fi

tools:
	@scripts/tools.sh

# The scenario of tests/it/providers.rs at every provider that it knows; `make test` runs it at the quick ones.
providers:
	@scripts/tools.sh providers
	$(CARGO) test --test it -- providers:: --include-ignored --nocapture

# A million random questions to the policy, and a million to a daemon at every door that takes them, compared with the reference
# evaluator; `make test` asks twenty thousand and some thousand.
policy:
	$(CARGO) test --lib policy::reference_tests -- --include-ignored
	$(CARGO) test --lib relay::reference_tests -- --include-ignored
	$(CARGO) test --profile checked --test it -- policy_doors:: --include-ignored --nocapture

# Whether a refusal tells by its time that a connection is there: a statistic, which wants the machine for itself.
timing: tools
	$(CARGO) test --profile checked --test it -- timing:: --include-ignored --nocapture

# The API's document against schemathesis: every operation, with requests inside and outside of its schema.
schemas:
	@scripts/tools.sh schemas
	$(CARGO) test --test it -- schemas:: --ignored --nocapture

# OpenBao's own command reads a connection's token at the paths of Vault (a download of 75 MB).
vault:
	@scripts/tools.sh vault
	$(CARGO) test --test it -- dialects::bao --ignored

# The guide docs/mail-programs.md with the mail programs themselves, against a Dovecot and a Postfix. It installs Debian's packages
# and needs root, so it is for a machine that may be changed, such as a container.
mail:
	@scripts/tools.sh mail
	$(CARGO) test --test it -- mail:: --include-ignored --nocapture

# The example with Azure's SDK for Rust. It is built apart from the workspace (a minute the first time), without a TLS stack.
azure-identity:
	$(CARGO) build --locked --manifest-path examples/azure-identity/Cargo.toml --target-dir target/azure-identity
	$(CARGO) test --test it -- managed_identity::the_sdk_for_rust --ignored

# The guide docs/first-service.md in every language: Debian's compilers, and the example in Rust built apart. `make test` runs those
# in Python, JavaScript and curl. Two minutes of it are the programs' own time-outs.
MONO = -r:System.Net.Http -r:System.Runtime.Serialization -r:System.Xml -r:System.Xml.Linq
languages:
	@scripts/tools.sh languages
	$(CARGO) build --locked --manifest-path examples/first-service/rust/Cargo.toml --target-dir target/first-service
	go build -o target/first-service/first-go examples/first-service/first.go
	mcs -out:target/first-service/First.exe $(MONO) examples/first-service/First.cs
	$(CARGO) test --test it -- first_service:: --include-ignored

# The pictures of users' pages and of the console in docs/pictures, made anew by a browser, a daemon and the emulator.
screenshots: tools
	$(CARGO) test --test it -- the_pictures_are_made_anew --ignored

deploy-check:
	scripts/check-deploy.sh

# The packaged units under a real systemd, in a copy of this machine's root. Root, and half a minute.
systemd:
	$(CARGO) build -p tokenward
	scripts/check-systemd.sh

# Each overlay of deploy/kubernetes rendered, validated, and started as its pod would be (this half needs root).
kubernetes:
	$(CARGO) build -p tokenward
	scripts/check-kubernetes.sh

# deploy/compose and the tour of deploy/tour without containers: their services as plain processes, the steps of their heads, and every
# question of the dashboard asked of the tour's Prometheus. It needs root, and takes two minutes.
tour:
	$(CARGO) build -p tokenward -p entra-emulator
	scripts/check-tour.sh

# Every alert of deploy/prometheus by its fault: a Prometheus with shorter times, two replicas, Redis, the emulator and callers
# (docs/alerts.md). Root, and some twenty minutes; ALERTS="TokenwardDown …" for some of them.
alerts:
	$(CARGO) build -p tokenward -p entra-emulator
	scripts/alerts.sh $(ALERTS)

# The documentation site, in target/site, its links checked.
site:
	@command -v mdbook >/dev/null || $(CARGO) install --locked --version 0.5.4 mdbook
	@scripts/site.py

# The archive of a release with its SBOM and SHA256SUMS, in target/release-VERSION; `make reproduce` makes it twice and compares.
release:
	scripts/release.sh
reproduce:
	scripts/reproduce.sh

# The rules of deploy/prometheus as an object of the Prometheus operator.
kubernetes-rules:
	@scripts/tools.sh deploy
	target/interop/deploy/bin/python scripts/check_kubernetes.py --write

bench:
	$(CARGO) bench --bench hand_out -- --svg target/hand_out.svg

bench-refresh: tools
	$(CARGO) bench --bench refresh

bench-relay:
	$(CARGO) bench --bench relay

# The steps of a hand-out, each by itself. It is built with the feature "testkit", apart from the daemon.
bench-steps:
	$(CARGO) bench --features testkit --bench steps

# A daemon asked at full speed while its audit file is rotated, and every file verified: an error if a record is missing, if the chain
# breaks or if memory grows. It wants the machine for itself, and some 3 GB of disk.
AUDIT_MINUTES = $(if $(filter file,$(origin MINUTES)),1,$(MINUTES))
audit-stream:
	$(CARGO) bench --bench audit_stream -- --minutes $(AUDIT_MINUTES)

# What connections cost as they become more: bytes, memory, start, processor at rest, sweep. A million takes minutes and 15 GB.
SIZES ?= 1000,100000
scale: tools
	$(CARGO) bench --bench scale -- --sizes $(SIZES)

# What an operator waits for at many connections: pages of the console, listings of the admin API, whole searches. KEEP=FOLDER keeps
# what was seeded there, for the next run.
console-load: tools
	$(CARGO) bench --bench scale -- --console --sizes $(SIZES) $(if $(KEEP),--keep $(KEEP))

# The image, from a static binary built here: no base image is fetched. `make image-test` starts it.
image:
	@command -v buildah >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends buildah; }
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --locked --target x86_64-unknown-linux-gnu
	scripts/image.sh

image-test: image
	scripts/image-smoke.sh

# The Dockerfile as it stands, from base images made here: both of its images, built without optimisation, and started. Root.
dockerfile:
	@command -v buildah >/dev/null && command -v debootstrap >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends buildah debootstrap; }
	scripts/check-dockerfile.sh

# Real daemons, real Redis, faults of every kind: `make soak MINUTES=30 FAULTS=500 REDIS=sentinel`. Behind Sentinel what is
# acknowledged waits for a replica: a failover without that takes acknowledged refreshes back (SEMANTICS 30). The report says what broke; what was
# written down is kept in target/soak/. SOAK takes more options of `cargo run -p soak -- --help`.
MINUTES ?= 10
FAULTS ?= 160
SEED ?= 1
REDIS ?= standalone
soak: tools
	$(CARGO) build --release
	$(CARGO) build --release -p soak
	@status=0; for mode in entra strict; do \
		mkdir -p target/soak/$$mode; \
		target/release/soak --binary target/release/tokenward --minutes $(MINUTES) --faults $(FAULTS) --seed $(SEED) \
			--mode $$mode --redis $(REDIS) --keep target/soak/$$mode \
			$(if $(filter sentinel,$(REDIS)),--store-lines "wait_replicas = 1") $(SOAK) >/dev/null || status=1; \
	done; exit $$status

# The same for half a minute, with what is built for tests: with --tests, cargo takes their features, and builds nothing twice.
soak-short: tools
	$(CARGO) build --workspace --bins --tests
	target/debug/soak --minutes 0.5 --faults 12 --seed $(SEED) --redis $(REDIS) $(SOAK) >/dev/null

# Every flood at once on one daemon, beside a caller that must not feel it; a table, and an error where the bar is missed.
# FLOOD takes options of `cargo run -p soak --bin flood -- --help`: rates, connections, the bar. It wants the machine for itself.
FLOOD_SECONDS ?= 60
flood: tools
	$(CARGO) build --release -p tokenward -p soak
	target/release/flood --seconds $(FLOOD_SECONDS) $(FLOOD)

# slowhttptest (Debian's) with 2,000 connections at the listeners for callers, plain and with TLS, then floods of HTTP/2 frames, each
# beside a canary at the same listener; a table, and an error where the bar is missed. SLOW takes options of
# `cargo run -p soak --bin slow -- --help`. It wants the machine for itself.
SLOW_SECONDS ?= 20
slow:
	@scripts/tools.sh slow
	$(CARGO) build --release -p tokenward -p soak
	target/release/slow --seconds $(SLOW_SECONDS) $(SLOW)

# Runs of the simulation beyond those of `make test`: SEEDS of them, from FIRST_SEED on.
SEEDS ?= 20000
FIRST_SEED ?= 0
simulate:
	SEEDS=$(SEEDS) FIRST_SEED=$(FIRST_SEED) $(CARGO) test --release --lib testkit::simulation::as_many_seeds -- --ignored --nocapture

# A thousand streams of 10 MiB through the relay at a time; `make test` has a hundred. Memory stays as it is.
relay-streams:
	$(CARGO) test --profile checked --test it -- relay_streams:: --include-ignored --nocapture

# 32 callers take turns at 8 mailboxes over three replicas, six of which are killed; `make test` has 8 callers and one kill.
mailboxes:
	$(CARGO) test --test it -- mailboxes:: --include-ignored --nocapture

# The sweep of three million connections by several replicas (docs/scale.md).
sweep-load:
	$(CARGO) test --release --lib sweep::load -- --ignored --nocapture

# What the 200 seeds of every test run come to, written down anew: after a change that was meant to change them.
baseline:
	$(CARGO) test --release --lib the_baseline_is_written_anew -- --ignored

# Every secret is replaced under load, each phase ROTATION_SECONDS long (the short forms are in `make test`).
ROTATION_SECONDS ?= 20
rotation: tools
	ROTATION_SECONDS=$(ROTATION_SECONDS) $(CARGO) test --test it -- rotation:: keyring:: foresight:: --nocapture --test-threads=1

# The drill of the runbook: everything at once.
drill: tools
	ROTATION_SECONDS=$(ROTATION_SECONDS) $(CARGO) test --test it the_drill -- --nocapture

# 100,000 records sealed anew under load, their worker killed twenty times, and the old key retired.
rotation-rewrap: tools
	$(CARGO) test --test it -- keyring::a_hundred_thousand --ignored --nocapture

# A tenant of 10,000 connections is revoked: after five seconds no replica hands out any of them.
revoke-load:
	$(CARGO) test --test it -- revocations::a_tenant_of_ten_thousand --ignored --nocapture

# 10,000 grants of another system are imported while the daemon and the command are killed 120 times. (Some hundred are in `make test`.)
import-drill:
	$(CARGO) test --test it -- imports::ten_thousand_grants --ignored --nocapture

# The refresh protocol, exhaustively: the large configurations (the small ones are in `make test`).
model:
	$(CARGO) run --release -p refresh-model -- full

# Every reader of what comes from outside, for a minute each or `make fuzz MINUTES=60`, from the committed corpora on; FUZZ_TARGETS
# names some of them. What is found besides stays under target/fuzz. RUSTC_BOOTSTRAP lets a stable compiler take cargo-fuzz's flags.
# There is no sanitizer, for the readers are safe Rust.
FUZZ_SECONDS ?= $(if $(filter file,$(origin MINUTES)),60,$(shell echo $$(( $(MINUTES) * 60 ))))
FUZZ_TARGETS ?= $(sort $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs))))
fuzz:
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-fuzz
	@for target in $(FUZZ_TARGETS); do \
		mkdir -p target/fuzz/corpus/$$target; \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --sanitizer none --target-dir target/fuzz $$target \
			target/fuzz/corpus/$$target fuzz/corpus/$$target -- -dict=fuzz/words.dict -max_total_time=$(FUZZ_SECONDS) \
			-max_len=262144 -timeout=5 -rss_limit_mb=2048 -print_final_stats=1 || exit 1; \
	done

# What a request costs in instructions, written down anew: after a change that was meant to change it.
work: tools
	$(CARGO) test --test it -- work::the_numbers_are_written_down_anew --ignored

# What strangers may send at most, at every door of every listener, counted in instructions under valgrind: minutes. (What an
# authority may send is counted in `make test`.)
linear-work: tools
	$(CARGO) test --test it -- linear_work::the_worst --ignored --nocapture

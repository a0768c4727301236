# Two commands for a newcomer: `make demo` and `make test`. Both install what is missing (tests/setup.sh).

ARGS ?=
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help demo test matrix chaos bench audit fuzz build dist

help:
	@echo 'make demo              the relay at work between a private Postgres and a private RabbitMQ, then a verdict'
	@echo 'make demo ARGS=--stay  the same, and it stays until Ctrl-C, with the URLs to play with'
	@echo 'make test              format, lints and every test, on real private servers'
	@echo 'make matrix            the tests on Postgres 14 to 18 and RabbitMQ 3.10, 4.0 and 4.3, then a table'
	@echo 'make chaos             all faults on real servers, then a table; ARGS="--seed 7 --duration 30m", --help'
	@echo 'make bench             throughput, latency and cost beside their ceilings, about an hour; QUICK=1 for some minutes; ARGS=--help'
	@echo 'make audit             the package, the unit, the alert rules; licences, banned crates and advisories (needs cargo-deny)'
	@echo 'make fuzz              each parser under random bytes for a minute; SECONDS=600 for ten'
	@echo 'make dist              tarball, .deb, .rpm, bill of materials and checksums in $(TARGET)/dist; as root they are installed and removed on bare systems, and the image is made'
	@echo 'make build             the release binary, $(TARGET)/release/pgoutbox'

build:
	cargo build --release --locked

# One build of two programs, without optimisation and without what only tests and production need.
demo:
	sh tests/setup.sh --or-docker
	@echo 'demo: building pgoutbox and the demo: the first time some two minutes on two cores, and a download of 23 MB'
	cargo build --profile demo --locked --no-default-features --package pgoutbox --package harness --bin pgoutbox --bin demo
	PGOUTBOX_BIN='$(abspath $(TARGET))/demo/pgoutbox' '$(TARGET)/demo/demo' $(ARGS)

# A test with real servers waits most of its time: twice as many at one time as there are cores.
test matrix: export RUST_TEST_THREADS ?= $(shell expr 2 '*' "$$(getconf _NPROCESSORS_ONLN)")

test:
	sh tests/setup.sh
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --workspace --locked --no-run
	tests/fuzz/beside.sh cargo test --workspace --locked
	bash tests/matrix.sh ends

matrix:
	sh tests/setup.sh
	bash tests/matrix.sh all

chaos:
	sh tests/setup.sh
	cargo test --release --locked --test chaos -- $(or $(ARGS),--all)

bench:
	sh tests/setup.sh
	cargo bench --locked --bench end_to_end -- $(if $(QUICK),--quick) $(ARGS)

# Not part of `make test`: cargo-deny takes minutes to build. The advisories come last, since they are fetched.
audit:
	cargo package --locked --allow-dirty --no-verify --quiet
	systemd-analyze security --offline=true --threshold=20 docker/systemd/pgoutbox.service >/dev/null
	promtool check rules docker/prometheus/alerts.yaml
	promtool test rules docker/prometheus/alerts_test.yaml
	cargo deny --locked check licenses bans sources
	cargo deny --locked check advisories

# Not part of `make test`: it builds for release, and wants cargo-deb, cargo-generate-rpm, kubectl and Helm. What they make is
# installed and removed on bare Debian systems where that can be done: as root, with debootstrap and rpm. So is the image, with umoci.
dist:
	docker/dist/dist.sh
	python3 docker/dist/chart.py
	if [ "$$(id -u)" = 0 ]; then docker/dist/installed.sh && docker/dist/image.sh; else echo 'dist: not root, so nothing was installed' >&2; fi

# Each target for a minute with the whole machine; `make test` gives each one beside the other tests.
fuzz:
	PGOUTBOX_FUZZ_SECONDS=$(or $(SECONDS),60) cargo test --release --locked --test fuzz -- --nocapture

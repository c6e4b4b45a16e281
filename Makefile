# `make help` lists what there is. Every command runs from a clean checkout.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

TOOLS := .ci/tools/bin
# One profile and one set of features for building, linting and testing: nothing is compiled twice.
ALL := --workspace --all-targets --locked

.PHONY: help dev test lint fmt deny build bench load compiler prepare

help: ## what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

dev: compiler ## one gateway and one searchd with the demo collection, on https://127.0.0.1:8443
	cargo build --workspace --bins --locked
	@exec target/debug/nearfield dev --demo

# The tests start the programs that `build` has made; cargo test rather than a process a test, because many share a server.
test: prepare lint build ## installs what it needs where it can, then all checks and tests
	NEARFIELD_BIN_DIR=$(CURDIR)/target/debug cargo test --workspace --locked --no-fail-fast

build: compiler ## everything, with the binaries that the tests start
	cargo build $(ALL)

lint: prepare deny ## formatting, clippy, licences and sources of the dependencies
	cargo fmt --all --check
	cargo clippy $(ALL) -- -D warnings

# The advisories need their database from the network; everything else needs nothing.
deny: prepare
	$(TOOLS)/cargo-deny --locked --log-level error check --hide-inclusion-graph bans licenses sources
	@if $(TOOLS)/cargo-deny --log-level off fetch db >/dev/null 2>&1; then \
		$(TOOLS)/cargo-deny --locked --log-level error check advisories; \
	else \
		echo "advisories NOT checked: their database could not be fetched"; \
	fi

fmt: ## formats the code
	cargo fmt --all

bench: compiler ## searches per second, latency, recall and CPU per request of release builds
	cargo build --release --locked --workspace --bins
	target/release/nearfield-bench

load: prepare ## the long k6 run against a release build (load-tests/README.md tells how to change it)
	load-tests/run

compiler:
	@.ci/prepare build

prepare: ## installs, or tells, what building and testing need
	@.ci/prepare

# The commands of this repository. `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check bench release clean-state

# Where rustup puts cargo, for a shell that was open before scripts/setup installed it.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

help: ## Lists the commands.
	@sed -n 's/^\([a-z-]*\): ## /\1\t/p' Makefile | while IFS=$$'\t' read -r name text; do printf 'make %-12s %s\n' "$$name" "$$text"; done

demo: ## Sets up, builds, and runs the product demo. DEMO=stay keeps it up.
	@scripts/setup build
	@scripts/setup redis || echo 'demo: going on without Redis' >&2
	@cargo build --locked
	@scripts/demo $(if $(filter stay,$(DEMO)),--stay)

test: ## Sets up and runs every test, with a real Kafka and Redis of its own. REQUIRE_KAFKA=1 REQUIRE_REDIS=1 insist on them.
	@scripts/setup build
	@scripts/setup redis || echo 'test: going on without Redis' >&2
	@scripts/setup kafka || echo 'test: going on without Kafka' >&2
	@scripts/test

check: ## Format, lints and documentation; a warning is a failure.
	@scripts/setup build lint
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

bench: ## Benchmark beside Kafka Streams; see benches/README.md. BASELINE=DIR is where the other side lies.
	@scripts/setup build kafka bench
	@scripts/bench

release: ## Builds the release binary.
	@scripts/setup build
	cargo build --locked --release

clean-state: ## Removes the local state in state/ (the topics hold all of it: the next start restores).
	find state -mindepth 1 ! -name README.md -delete

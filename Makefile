# Phone book of verbs. Each does all of its own set-up; `.ci/run` calls the same ones.
#
#   make demo            the story: boot, prove, join, rejoin, refuse, recover (VERBOSE=1: node consoles)
#   make test            everything a machine can test, VMs included
#   make test-snp        the SEV-SNP boots alone
#   make test-fast       without VMs
#   make lint doc        formatting, clippy, rustdoc; nothing may warn
#   make image           UKI, verity root and disk images under target/image
#   make bench fuzz      measurements; longer fuzzing

FUZZ_SECONDS ?= 600

.PHONY: setup image services demo test test-snp test-fast lint doc bench fuzz fuzz-smoke

setup:
	./setup.sh

# What a VM test or the demo boots: the published image, its twin with a scriptable root, the floor.
image: setup
	cargo run --quiet -p xtask -- image --profile release --check-reproducible
	cargo run --quiet -p xtask -- image --profile test
	cargo run --quiet -p xtask -- image --profile probe

services: setup
	cargo build -p join-service -p key-service -p constellation-cli

demo: image services
	cargo build --quiet -p qemu-tests --bins
	cargo run --quiet -p qemu-tests --bin demo

test: image services
	cargo run --quiet -p xtask -- test

# Whole boots on a SEV-SNP guest interface that a test program provides.
test-snp: image services
	cargo test -p qemu-tests --test snp

test-fast: setup
	cargo run --quiet -p xtask -- test --fast

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo run --quiet -p xtask -- protos --check

doc: setup
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

bench: image
	cargo run --release -p xtask -- bench

fuzz-smoke: setup
	cargo run --quiet -p xtask -- fuzz --seconds 60

fuzz: setup
	cargo run --quiet -p xtask -- fuzz --seconds $(FUZZ_SECONDS)

# Phone book of verbs. Each does all of its own set-up; `.ci/run` calls the same ones.
#
#   make demo            the story: boot, prove, join, rejoin, refuse, recover (VERBOSE=1: node consoles)
#   make cluster-native  a cluster in namespaces of this machine: init, join, status, verify (root)
#   make cluster         a cluster in virtual machines, left running (docs/mini.md)
#   make e2e             the whole story of such a cluster: join, reboot, recover, update, refuse
#   make e2e-snp         a shorter one, on guests with a SEV-SNP interface that a test program provides
#   make test            everything a machine can test, VMs included
#   make test-snp        the SEV-SNP boots alone
#   make test-fast       without VMs
#   make lint doc        formatting, clippy, rustdoc; nothing may warn
#   make image           UKI, verity root and disk images under target/image
#   make kubernetes      real Kubernetes, for the tests that run a cluster
#   make bench fuzz      measurements; longer fuzzing

FUZZ_SECONDS ?= 600

# Not `-p xtask`: alone, its dependencies would be built with fewer features, and again for all else.
XTASK = cargo run --quiet --bin xtask --

.PHONY: setup image kubernetes services demo cluster-native cluster e2e e2e-snp test test-snp test-fast lint doc bench fuzz fuzz-smoke

setup:
	./setup.sh

# What a VM test or the demo boots: the published image, its twin with a scriptable root, the floor.
image: setup
	$(XTASK) image --profile release --check-reproducible
	$(XTASK) image --profile test
	$(XTASK) image --profile probe

# Kubernetes' own programs, built once into the user's cache or named by KUBERNETES_BIN.
kubernetes: setup
	$(XTASK) kubernetes

services: setup
	cargo build --bin join-service --bin key-service --bin verification-service --bin constellation

demo: image services
	cargo build --quiet --bin relay --bin demo
	cargo run --quiet --bin demo

cluster-native: services kubernetes
	cargo build --quiet --bin bootstrapper --bin native-agent
	cargo run --quiet --bin cluster-native

# The OS image and the image that shows what the firmware measures; machines take 3 GiB each.
cluster: setup kubernetes
	$(XTASK) image --profile os
	$(XTASK) image --profile probe
	cargo build --bin constellation --bin e2e
	cargo run --quiet --bin e2e -- cluster target/image/os

e2e: setup kubernetes
	$(XTASK) image --profile os
	$(XTASK) image --profile release
	$(XTASK) image --profile probe
	cargo build --bin constellation --bin e2e
	cargo run --quiet --bin e2e -- target/image/os

# The same, shorter, on guests with a SEV-SNP interface that a test program provides.
e2e-snp: setup kubernetes
	$(XTASK) image --profile os --evidence sev-snp
	$(XTASK) image --profile test
	cargo build --bin constellation --bin e2e
	cargo run --quiet --bin e2e -- snp

# The services that machines talk to are built with the tests.
test: image kubernetes
	$(XTASK) test

# Whole boots on a SEV-SNP guest interface that a test program provides.
test-snp: image
	$(XTASK) test --machines snp::

test-fast: setup
	$(XTASK) test --fast

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	$(XTASK) protos --check

doc: setup
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

bench: image kubernetes
	cargo run --release -p xtask -- bench

fuzz-smoke: setup
	$(XTASK) fuzz --seconds 60

fuzz: setup
	$(XTASK) fuzz --seconds $(FUZZ_SECONDS)

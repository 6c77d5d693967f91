.PHONY: all
all:
	cargo build --workspace

#!/bin/sh
# Makes a Debian machine able to build and test this repository. Idempotent and quick when nothing
# is missing. As root it installs Debian packages; otherwise it prints the one command that does.
set -eu
cd "$(dirname "$0")"

# All that `.ci/run` builds and boots, with toolchain and packages; what is built already counts.
needed=12288 # MiB
free=$(df --output=avail -B 1M . | tail -n 1)
if [ "$free" -lt "$needed" ]; then
    built=$(du -sm target fuzz/target 2>/dev/null | awk '{ sum += $1 } END { print sum + 0 }')
    if [ $((free + built)) -lt "$needed" ]; then
        echo "setup: $((needed - built)) MiB of disk are needed in $PWD, but only $((free)) are free" >&2
        exit 1
    fi
fi

need() { # package providing a command: what the first cargo build cannot do without
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

missing=""
need cc gcc
need make make
need git git
command -v cargo >/dev/null 2>&1 || [ -x "$HOME/.cargo/bin/cargo" ] || missing="$missing rustup"

if [ -n "$missing" ]; then
    command="apt-get update && apt-get install --yes --no-install-recommends$missing"
    if [ "$(id -u)" -ne 0 ]; then
        echo "setup: packages are missing; as root, run:" >&2
        echo "  $command" >&2
        exit 1
    fi
    echo "setup: installing$missing"
    if ! sh -c "$command"; then
        echo "setup: if \`rustup\` has no package here (Debian 12), install it from https://rustup.rs and try again" >&2
        exit 1
    fi
fi
command -v cargo >/dev/null 2>&1 || PATH="$HOME/.cargo/bin:$PATH"
exec cargo run --quiet --bin xtask -- setup

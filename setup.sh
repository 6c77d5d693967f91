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

# Every Debian package that anything here needs, each with a file that shows it is there.
missing=""
while read -r package file; do
    [ -e "$file" ] || missing="$missing $package"
done <<PACKAGES
bubblewrap /usr/bin/bwrap
build-essential /usr/bin/cc
cpio /usr/bin/cpio
cryptsetup-bin /usr/sbin/veritysetup
dosfstools /usr/sbin/mkfs.fat
dpkg-dev /usr/bin/dpkg-source
e2fsprogs /usr/sbin/mke2fs
erofs-utils /usr/bin/mkfs.erofs
git /usr/bin/git
iproute2 /sbin/ip
iptables /usr/sbin/iptables
kmod /usr/sbin/depmod
make /usr/bin/make
mtools /usr/bin/mcopy
musl-tools /usr/bin/musl-gcc
ovmf /usr/share/OVMF/OVMF_CODE_4M.fd
python3 /usr/bin/python3
python3-cryptography /usr/lib/python3/dist-packages/cryptography/__init__.py
qemu-system-x86 /usr/bin/qemu-system-x86_64
swtpm /usr/bin/swtpm
swtpm-tools /usr/bin/swtpm_setup
systemd /usr/bin/systemd-creds
tpm2-tools /usr/bin/tpm2
xz-utils /usr/bin/xz
PACKAGES

if ! command -v cargo >/dev/null 2>&1 && [ ! -x "$HOME/.cargo/bin/cargo" ]; then
    # Debian 12 has no package of it; a list of packages that was never fetched does not say.
    [ "$(id -u)" -ne 0 ] || [ -n "$(apt-cache pkgnames rustup)" ] || apt-get -q update
    if [ -z "$(apt-cache pkgnames rustup)" ]; then
        echo "setup: this release has no package of \`rustup\`: install it from https://rustup.rs and try again" >&2
        exit 1
    fi
    missing="$missing rustup"
fi

if [ -n "$missing" ]; then
    command="apt-get update && apt-get install --yes --no-install-recommends$missing"
    if [ "$(id -u)" -ne 0 ]; then
        echo "setup: packages are missing; as root, run:" >&2
        echo "  $command" >&2
        exit 1
    fi
    echo "setup: installing$missing"
    DEBIAN_FRONTEND=noninteractive sh -c "$command"
fi
command -v cargo >/dev/null 2>&1 || PATH="$HOME/.cargo/bin:$PATH"
exec cargo run --quiet --bin xtask -- setup

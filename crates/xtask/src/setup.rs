//! `xtask setup`: makes a Debian machine able to build, boot and test everything here.
//!
//! Packages of the release itself are installed by APT as always (as root, else the one command is
//! printed). What must be newer than the release comes from backports and is unpacked below
//! `target/tools`: the machine's own APT sources are read and never edited.

use crate::{apt::Apt, tool::Tool};
use anyhow::{Context, bail};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

/// Debian packages, each with a file that shows it is there.
const PACKAGES: [(&str, &str); 21] = [
    ("bubblewrap", "/usr/bin/bwrap"),
    ("build-essential", "/usr/bin/cc"),
    ("cpio", "/usr/bin/cpio"),
    ("cryptsetup-bin", "/usr/sbin/veritysetup"),
    ("dosfstools", "/usr/sbin/mkfs.fat"),
    ("dpkg-dev", "/usr/bin/dpkg-source"),
    ("e2fsprogs", "/usr/sbin/mke2fs"),
    ("erofs-utils", "/usr/bin/mkfs.erofs"),
    ("iproute2", "/sbin/ip"),
    ("iptables", "/usr/sbin/iptables"),
    ("kmod", "/usr/sbin/depmod"),
    ("mtools", "/usr/bin/mcopy"),
    ("musl-tools", "/usr/bin/musl-gcc"),
    ("ovmf", "/usr/share/OVMF/OVMF_CODE_4M.fd"),
    ("python3", "/usr/bin/python3"),
    (
        "python3-cryptography",
        "/usr/lib/python3/dist-packages/cryptography/__init__.py",
    ),
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
    ("swtpm", "/usr/bin/swtpm"),
    ("swtpm-tools", "/usr/bin/swtpm_setup"),
    ("tpm2-tools", "/usr/bin/tpm2"),
    ("xz-utils", "/usr/bin/xz"),
];

/// QEMU of Debian 12 double-faults now and then when it emulates several processors.
const QEMU: [&str; 4] = [
    "qemu-system-common",
    "qemu-system-data",
    "qemu-system-x86",
    "seabios",
];

/// `systemd-measure` of the version whose stub is in the image: an independent check in tests.
const SYSTEMD: [&str; 2] = ["libsystemd-shared", "systemd"];

const MUSL: &str = "x86_64-unknown-linux-musl";

/// Arguments of `xtask setup`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only say what is missing, and fail if anything is
    #[arg(long)]
    check: bool,
}

/// Installs what is missing.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let missing = missing();
    if !missing.is_empty() {
        install(&missing, args.check)?;
    }
    let tools = PathBuf::from("target/tools");
    let ready = tools.join("bin/qemu-system-x86_64").exists();
    if args.check {
        if !ready {
            bail!("`target/tools` is not made yet\nhint: run `cargo run -p xtask -- setup`");
        }
        return Ok(());
    }
    add_rust_target()?;
    if !ready {
        unpack_tools(&tools)?;
    }
    eprintln!("setup: ok");
    Ok(())
}

fn missing() -> Vec<&'static str> {
    let absent = PACKAGES
        .iter()
        .filter(|(_, file)| !Path::new(file).exists());
    absent.map(|(package, _)| *package).collect()
}

fn install(missing: &[&str], check: bool) -> anyhow::Result<()> {
    let command = format!(
        "apt-get install --yes --no-install-recommends {}",
        missing.join(" ")
    );
    let is_root = fs::metadata("/proc/self")?.uid() == 0;
    if check || !is_root {
        bail!("Debian packages are missing\nhint: run `sudo {command}`");
    }
    eprintln!("setup: {command}");
    let apt_get = || Tool::new("apt-get", "apt").env("DEBIAN_FRONTEND", "noninteractive");
    apt_get().args(["-q", "update"]).run()?;
    apt_get()
        .args(["-q", "install", "--yes", "--no-install-recommends"])
        .args(missing)
        .run()
}

fn add_rust_target() -> anyhow::Result<()> {
    let installed = Tool::new("rustup", "rustup")
        .args(["target", "list", "--installed"])
        .output()?;
    if !installed.lines().any(|target| target == MUSL) {
        Tool::new("rustup", "rustup")
            .args(["target", "add", MUSL])
            .run()?;
    }
    Ok(())
}

/// Programs that tests call by their path below `target/tools/bin`.
fn unpack_tools(tools: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(tools.join("bin"))?;
    let tools = fs::canonicalize(tools)?;
    let apt = Apt::prepare(&tools.join("apt"))?;
    unpack(&apt, &SYSTEMD, &tools.join("systemd"))?;
    write_wrapper(
        &tools.join("bin/systemd-measure"),
        &format!(
            "LD_LIBRARY_PATH={0}/usr/lib/x86_64-linux-gnu/systemd:{0}/lib/x86_64-linux-gnu/systemd \
             exec {0}/lib/systemd/systemd-measure \"$@\"",
            tools.join("systemd").display()
        ),
    )?;
    if !apt.has_backports() {
        symlink(
            "/usr/bin/qemu-system-x86_64",
            tools.join("bin/qemu-system-x86_64"),
        )?;
        return Ok(());
    }
    let qemu = tools.join("qemu");
    unpack(&apt, &QEMU, &qemu)?;
    write_wrapper(
        &tools.join("bin/qemu-system-x86_64"),
        &format!(
            "exec {0}/usr/bin/qemu-system-x86_64 -L {0}/usr/share/qemu -L {0}/usr/share/seabios \
             -L /usr/lib/ipxe/qemu \"$@\"",
            qemu.display()
        ),
    )
}

fn unpack(apt: &Apt, packages: &[&str], dir: &Path) -> anyhow::Result<()> {
    let specs: Vec<String> = packages.iter().map(|package| apt.newest(package)).collect();
    let debs = apt.download(&specs, &dir.join("debs"))?;
    for deb in debs {
        Tool::new("dpkg", "dpkg")
            .arg("-x")
            .args([&deb.path, dir])
            .output()?;
    }
    fs::remove_dir_all(dir.join("debs")).context("remove the fetched packages")
}

fn write_wrapper(path: &Path, command: &str) -> anyhow::Result<()> {
    fs::write(path, format!("#!/bin/sh\n{command}\n"))?;
    Ok(fs::set_permissions(path, PermissionsExt::from_mode(0o755))?)
}

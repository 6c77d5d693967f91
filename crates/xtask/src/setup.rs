//! `xtask setup`: what `setup.sh`, which calls it, leaves to a program.
//!
//! Packages of the release itself are installed by then. What must be newer than the release comes from
//! backports and is unpacked below `target/tools`: the machine's own APT sources are read and never
//! edited.

use crate::{apt::Apt, tool::Tool};
use anyhow::Context;
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

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

/// Adds what is missing.
pub(crate) fn run() -> anyhow::Result<()> {
    add_rust_target()?;
    let tools = PathBuf::from("target/tools");
    if !tools.join("bin/qemu-system-x86_64").exists() {
        unpack_tools(&tools)?;
    }
    eprintln!("setup: ok");
    Ok(())
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

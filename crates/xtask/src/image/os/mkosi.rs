//! The distribution part of the tree, by mkosi from `os-image/mkosi`.

use crate::{apt::Apt, tool::Tool};
use anyhow::Context as _;
use measure::pcr::sha256;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Our configuration.
const CONFIGURATION: &str = "os-image/mkosi";

/// The release that nodes run.
const RELEASE: &str = "trixie";

/// Names and versions of packages, below the tree; taken out again when they are read.
pub(super) const PACKAGES: &str = "packages";

/// The tree, below `target`; built when its configuration changed, or on request.
pub(super) fn tree(target: &Path, refresh: bool) -> anyhow::Result<PathBuf> {
    let target = fs::canonicalize(target)?;
    let (dir, key) = (target.join("os-tree"), key()?);
    let (tree, state) = (dir.join("tree"), dir.join("key"));
    if !refresh && fs::read_to_string(&state).is_ok_and(|found| found == key) {
        return Ok(tree);
    }
    build(&target, &dir)?;
    fs::write(state, key)?;
    Ok(tree)
}

/// Builds the tree at `dir/tree`.
pub(super) fn build(target: &Path, dir: &Path) -> anyhow::Result<()> {
    let apt = Apt::prepare(&target.join("apt"))?;
    let python_path = unpack(&apt, &target.join("mkosi"))?;
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    let sources = dir.join("sources/etc/apt/sources.list.d");
    fs::create_dir_all(&sources)?;
    // mkosi's own list would name hosts that not every machine reaches.
    fs::write(sources.join("mkosi.sources"), apt.release_sources(RELEASE)?)?;
    Tool::new("/usr/bin/python3", "python3")
        .env("PYTHONPATH", python_path)
        .args(["-m", "mkosi", "--force"])
        .args(["--directory", CONFIGURATION])
        .arg("--package-manager-tree")
        .arg(dir.join("sources"))
        .arg("--output-dir")
        .arg(dir)
        .arg("--workspace-dir")
        .arg(dir)
        .args(["--output", "tree", "build"])
        .output()
        .context(
            "hint: mkosi needs user namespaces and the Debian packages bubblewrap and python3",
        )?;
    Ok(fs::remove_dir_all(dir.join("sources"))?)
}

/// Unpacks mkosi, unless it is there; gives the folder of its modules. It is not installed: Debian 12 has it in backports.
fn unpack(apt: &Apt, dir: &Path) -> anyhow::Result<PathBuf> {
    let python_path = dir.join("usr/lib/python3/dist-packages");
    if !python_path.join("mkosi").exists() {
        let debs = apt.download(&[apt.newest("mkosi")], &dir.join("debs"))?;
        for deb in debs {
            Tool::new("dpkg", "dpkg")
                .arg("-x")
                .args([&deb.path, dir])
                .output()?;
        }
        fs::remove_dir_all(dir.join("debs"))?;
    }
    Ok(python_path)
}

/// Digest of all that the tree is made from, but the packages.
fn key() -> anyhow::Result<String> {
    let mut all = Vec::new();
    collect(Path::new(CONFIGURATION), &mut all)?;
    Ok(hex::encode(sha256(&all)))
}

fn collect(dir: &Path, all: &mut Vec<u8>) -> anyhow::Result<()> {
    let entries: Result<Vec<_>, _> = fs::read_dir(dir)?.collect();
    let mut entries = entries?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        all.extend(path.to_string_lossy().as_bytes());
        all.push(0);
        if path.is_symlink() {
            all.extend(fs::read_link(&path)?.to_string_lossy().as_bytes());
        } else if path.is_dir() {
            collect(&path, all)?;
        } else {
            all.extend(sha256(&fs::read(&path)?));
        }
    }
    Ok(())
}

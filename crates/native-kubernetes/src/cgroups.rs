//! The control groups of one node: kubelets of several nodes on one kernel need a root of their own each.

use anyhow::{Context as _, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

const ROOT: &str = "/sys/fs/cgroup";

/// How long tasks may take to be gone after they were killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes a group of this name in every hierarchy.
pub(crate) fn make(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(name);
        fs::create_dir_all(&group).with_context(|| format!("create {}", group.display()))?;
        for setting in ["cpuset.cpus", "cpuset.mems"] {
            // In the hierarchy of version 1 that has them, a new group has none of either.
            if let Ok(value) = fs::read(hierarchy.join(setting)) {
                fs::write(group.join(setting), value)?;
            }
        }
    }
    Ok(())
}

/// Removes the groups of this name and all below, once their tasks are gone.
pub(crate) fn remove(name: &str) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(name);
        while let Err(error) = remove_tree(&group) {
            if Instant::now() >= end {
                return Err(error).with_context(|| format!("remove {}", group.display()));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Children first; the files in a group are the kernel's.
fn remove_tree(group: &Path) -> std::io::Result<()> {
    if !group.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

/// One of version 2, or the several of version 1.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(root).with_context(|| format!("list {ROOT}"))? {
        let path = entry?.path();
        if path.join("cgroup.procs").exists() {
            found.push(path);
        }
    }
    Ok(found)
}

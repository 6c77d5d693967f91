//! The root file system: erofs with its dm-verity tree behind it.

use crate::tool::Tool;
use anyhow::{Context, bail};
use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

/// The tree's salt needs no secrecy; it is fixed so that equal files give equal hashes.
pub(crate) const SALT: &str = "636f6e7374656c6c6174696f6e2d726f6f742d76312d6f662d64656d6f696d67";
const UUID: &str = "6f2d1b0e-9c5a-4c57-8f0e-2b6d5a1c7e93";
const BLOCK: u64 = 4096;

/// Packages that the root's programs come from, with their libraries.
pub(crate) const PACKAGES: [&str; 7] = [
    "busybox-static",
    "e2fsprogs",
    "libblkid1",
    "libc6",
    "libcom-err2",
    "libext2fs2",
    "libuuid1",
];

/// Files to keep, by their path below the merged `/usr`; a `*` ends a prefix.
const KEEP: [&str; 13] = [
    "etc/mke2fs.conf",
    "usr/bin/busybox",
    "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "usr/lib/x86_64-linux-gnu/libblkid.so.*",
    "usr/lib/x86_64-linux-gnu/libc.so.6",
    "usr/lib/x86_64-linux-gnu/libcom_err.so.*",
    "usr/lib/x86_64-linux-gnu/libe2p.so.*",
    "usr/lib/x86_64-linux-gnu/libext2fs.so.*",
    "usr/lib/x86_64-linux-gnu/libuuid.so.*",
    "usr/lib64/ld-linux-x86-64.so.2",
    "usr/sbin/e2fsck",
    "usr/sbin/mke2fs",
    "usr/sbin/mkfs.ext4",
];

const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];
const EMPTY: [&str; 8] = [
    "dev",
    "mnt",
    "proc",
    "run",
    "sys",
    "tmp",
    "var/lib/constellation",
    "var/tmp",
];

/// What the kernel command line says about the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verity {
    pub(crate) data_blocks: u64,
    pub(crate) root_hash: String,
}

impl Verity {
    /// The value of `constellation.root`.
    pub(crate) fn parameter(&self) -> String {
        format!("{}:{SALT}:{}", self.data_blocks, self.root_hash)
    }
}

/// Collects the file tree in `tree` from packages unpacked in `packages`.
pub(crate) fn tree(packages: &[PathBuf], init: &str, tree: &Path) -> anyhow::Result<()> {
    for dir in EMPTY.iter().chain(&["etc"]) {
        fs::create_dir_all(tree.join(dir))?;
    }
    for name in MERGED {
        fs::create_dir_all(tree.join("usr").join(name))?;
        symlink(format!("usr/{name}"), tree.join(name))?;
    }
    for package in packages {
        copy_kept(package, package, tree)?;
    }
    for file in KEEP.iter().filter(|file| !file.ends_with('*')) {
        if fs::symlink_metadata(tree.join(file)).is_err() {
            bail!("no package has `{file}`");
        }
    }
    symlink("busybox", tree.join("usr/bin/sh"))?;
    fs::write(tree.join("usr/sbin/init"), init)?;
    fs::set_permissions(tree.join("usr/sbin/init"), PermissionsExt::from_mode(0o755))?;
    Ok(())
}

/// How files are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    /// Half of the size, and of what verity hashes.
    Lz4,
}

/// Writes `image`: the file system of `tree`, then the hash tree.
pub(crate) fn image(tree: &Path, image: &Path, compression: Compression) -> anyhow::Result<Verity> {
    remove(image)?;
    let compressed = (compression == Compression::Lz4).then_some("-zlz4");
    Tool::new("mkfs.erofs", "erofs-utils")
        .args(["--quiet", "--all-root", "-T0", "-x-1", "-U", UUID])
        .args(compressed)
        .args([image, tree])
        .output()?;
    let size = fs::metadata(image)?.len().next_multiple_of(BLOCK);
    fs::OpenOptions::new()
        .write(true)
        .open(image)?
        .set_len(size)?;
    let report = Tool::new("veritysetup", "cryptsetup-bin")
        .args(["format", "--no-superblock", "--format=1", "--hash=sha256"])
        .args(["--data-block-size=4096", "--hash-block-size=4096"])
        .arg(format!("--data-blocks={}", size / BLOCK))
        .arg(format!("--hash-offset={size}"))
        .arg(format!("--salt={SALT}"))
        .args([image, image])
        .output()?;
    let hash = report
        .lines()
        .find_map(|line| line.strip_prefix("Root hash:"));
    let root_hash = hash
        .context("`veritysetup` printed no root hash")?
        .trim()
        .to_owned();
    Ok(Verity {
        data_blocks: size / BLOCK,
        root_hash,
    })
}

fn copy_kept(package: &Path, dir: &Path, tree: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir)? {
        let from = entry?.path();
        if from.is_dir() && !from.is_symlink() {
            copy_kept(package, &from, tree)?;
            continue;
        }
        let path = merged(from.strip_prefix(package)?);
        if !keeps(&path) {
            continue;
        }
        let to = tree.join(&path);
        fs::create_dir_all(to.parent().context("a kept file has a directory")?)?;
        match fs::read_link(&from) {
            Ok(target) => symlink(target, to)?,
            Err(_) => drop(fs::copy(&from, to)?),
        }
    }
    Ok(())
}

/// Packages may still ship `/lib/…` where the system has `/usr/lib/…`.
fn merged(path: &Path) -> PathBuf {
    match MERGED.iter().any(|name| path.starts_with(name)) {
        true => Path::new("usr").join(path),
        false => path.to_owned(),
    }
}

fn keeps(path: &Path) -> bool {
    let path = path.to_string_lossy();
    KEEP.iter().any(|kept| match kept.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == *kept,
    })
}

pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_only_listed_files() {
        assert!(keeps(&merged(Path::new(
            "lib/x86_64-linux-gnu/libe2p.so.2.3"
        ))));
        assert!(keeps(&merged(Path::new("sbin/mke2fs"))));
        assert!(!keeps(&merged(Path::new("sbin/mke2fs2"))));
        assert!(!keeps(&merged(Path::new("usr/share/doc/libc6/copyright"))));
    }
}

//! Mounts of the initramfs.

use crate::{
    block::{BlockError, set_read_ahead},
    dm::MappedDevice,
};
use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags},
};
use std::{
    ffi::CStr,
    fs, io,
    path::{Path, PathBuf},
};

/// No program, device or set-uid bit is expected there.
const INERT: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// The file systems that everything else needs, in order: type, target, flags, options.
const SYSTEM: [(&str, &str, MountFlags, &CStr); 5] = [
    ("proc", "/proc", INERT, c""),
    ("sysfs", "/sys", INERT, c""),
    // The firmware's event log, which explains a refusal to the operator.
    ("securityfs", "/sys/kernel/security", INERT, c""),
    ("devtmpfs", "/dev", MountFlags::NOSUID, c"mode=0755"),
    (
        "tmpfs",
        "/run",
        MountFlags::NOSUID.union(MountFlags::NODEV),
        c"mode=0755,size=20%",
    ),
];

/// Mounts proc, sys, securityfs, dev and run, making the directories that are missing.
///
/// # Errors
/// The first one that failed.
pub fn mount_system() -> Result<(), MountError> {
    for (kind, target, flags, options) in SYSTEM {
        let target = Path::new(target);
        fs::create_dir_all(target).map_err(|source| MountError::Directory {
            path: target.to_path_buf(),
            source,
        })?;
        mount(kind.as_ref(), target, kind, (flags, options))?;
    }
    Ok(())
}

/// Mounts a verified device read-only.
///
/// # Errors
/// The device is no file system of type `kind`, or does not verify.
pub fn mount_read_only(device: &Path, target: &Path, kind: &str) -> Result<(), MountError> {
    let flags = MountFlags::RDONLY | MountFlags::NODEV;
    mount(device, target, kind, (flags, c""))
}

/// How far files of the state file system are read ahead, in KiB: the kernel's own default.
const READ_AHEAD: u32 = 128;

/// Mounts the state file system and turns on the read-ahead that activation left off.
///
/// # Errors
/// The kernel's refusal.
pub fn mount_state(device: &MappedDevice, target: &Path) -> Result<(), MountError> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    // Without barriers an fsync would promise what a power cut takes back; errors stop writing.
    // The kernel reads one block further ahead in an inode table than inodes were ever used
    // (`__ext4_get_inode_loc`), which may be a block that nobody has written and no tag is valid for.
    let options = c"barrier=1,errors=remount-ro,inode_readahead_blks=0";
    mount(&device.node(), target, "ext4", (flags, options))?;
    set_read_ahead(device.number(), READ_AHEAD).map_err(MountError::ReadAhead)
}

/// Mounts a tmpfs that only root can look into.
///
/// # Errors
/// The kernel's refusal.
pub fn mount_private_tmpfs(target: &Path) -> Result<(), MountError> {
    mount("tmpfs".as_ref(), target, "tmpfs", (INERT, c"mode=0700"))
}

/// Unmounts.
///
/// # Errors
/// The kernel's refusal: something is still open there.
pub fn unmount(target: &Path) -> Result<(), MountError> {
    rustix::mount::unmount(target, UnmountFlags::empty()).map_err(|source| MountError::Unmount {
        target: target.to_path_buf(),
        source,
    })
}

fn mount(
    source: &Path,
    target: &Path,
    kind: &str,
    (flags, options): (MountFlags, &CStr),
) -> Result<(), MountError> {
    rustix::mount::mount(source, target, kind, flags, options).map_err(|error| MountError::Mount {
        kind: kind.into(),
        target: target.to_path_buf(),
        source: error,
    })
}

/// Why a mount failed (class internal).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The mount point could not be made.
    #[error("make mount point `{path}`")]
    Directory {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not mounted.
    #[error("mount {kind} on `{target}`")]
    Mount {
        /// Type of the file system.
        kind: String,
        /// The mount point.
        target: PathBuf,
        /// Why.
        source: Errno,
    },
    /// The read-ahead of the state disk.
    #[error("read-ahead of the state disk")]
    ReadAhead(#[source] BlockError),
    /// Not unmounted.
    #[error("unmount `{target}`")]
    Unmount {
        /// The mount point.
        target: PathBuf,
        /// Why.
        source: Errno,
    },
}

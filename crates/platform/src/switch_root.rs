//! From the initramfs into the verified root.

use rustix::{io::Errno, mount::mount_move};
use std::{
    convert::Infallible,
    fs, io,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

/// What moves along: the hand-off file lives on `/run`.
const MOVED: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];

/// Moves the system mounts, deletes what the initramfs holds, makes `new_root` the root and
/// replaces this process by its `init`. Secrets are wiped before: the deletion frees memory and
/// does not overwrite it.
///
/// # Errors
/// The step that failed. Once mounts have moved there is no way back; the caller ends the boot.
pub fn switch_root(new_root: &Path, init: &Path) -> Result<Infallible, SwitchRootError> {
    for mount in MOVED {
        let target = new_root.join(mount.trim_start_matches('/'));
        mount_move(mount, &target).map_err(|source| SwitchRootError::Move {
            path: target,
            source,
        })?;
    }
    delete_initramfs().map_err(SwitchRootError::Delete)?;
    rustix::process::chdir(new_root).map_err(SwitchRootError::Chdir)?;
    mount_move(".", "/").map_err(|source| SwitchRootError::Move {
        path: new_root.to_path_buf(),
        source,
    })?;
    rustix::process::chroot(".").map_err(SwitchRootError::Chroot)?;
    rustix::process::chdir("/").map_err(SwitchRootError::Chdir)?;
    Err(SwitchRootError::Exec {
        path: init.to_path_buf(),
        source: Command::new(init).env_clear().exec(),
    })
}

/// Deletes everything on the file system of `/`, and nothing that is mounted on it.
fn delete_initramfs() -> io::Result<()> {
    let device = fs::symlink_metadata("/")?.dev();
    delete_below(Path::new("/"), device)
}

/// The initramfs has a handful of levels, fixed by the measured image.
fn delete_below(directory: &Path, device: u64) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.dev() != device {
            continue;
        }
        if metadata.is_dir() {
            delete_below(&path, device)?;
            // A directory that another file system is mounted in stays.
            match fs::remove_dir(&path) {
                Err(error) if !is_kept(&error) => return Err(error),
                _ => {}
            }
        } else {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn is_kept(error: &io::Error) -> bool {
    [Errno::BUSY, Errno::NOTEMPTY].contains(&Errno::from_io_error(error).unwrap_or(Errno::IO))
}

/// Why the verified root did not take over (class internal).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwitchRootError {
    /// Changing the working directory.
    #[error("change directory")]
    Chdir(#[source] Errno),
    /// Changing the root.
    #[error("change root")]
    Chroot(#[source] Errno),
    /// Deleting the initramfs.
    #[error("delete the initramfs")]
    Delete(#[source] io::Error),
    /// The root has no program there, or not one that runs.
    #[error("execute `{path}`")]
    Exec {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Moving a mount.
    #[error("move mount to `{path}`")]
    Move {
        /// Where to.
        path: PathBuf,
        /// Why.
        source: Errno,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deletes_the_tree_and_follows_no_link() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("lib/modules/x")).unwrap();
        fs::write(tree.path().join("lib/modules/x/a.ko"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), tree.path().join("link")).unwrap();
        let device = fs::metadata(tree.path()).unwrap().dev();
        delete_below(tree.path(), device).unwrap();
        assert_eq!(fs::read_dir(tree.path()).unwrap().count(), 0);
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn leaves_other_file_systems_alone() {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("a"), "x").unwrap();
        let device = fs::metadata(tree.path()).unwrap().dev();
        delete_below(tree.path(), device + 1).unwrap();
        assert!(tree.path().join("a").exists());
    }
}

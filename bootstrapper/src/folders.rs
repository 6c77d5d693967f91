//! Folders of the verified root that live on the state file system.

use crate::{
    config::Config,
    error::PhaseError,
    file::{self, FileError},
};
use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

/// Where the folders are below the state folder, under their own absolute paths.
const ROOT: &str = "constellation/root";

/// Appears when the folders are in place: the container runtime may start.
pub const START_RUNTIME: &str = "start-container-runtime";

/// Mounts each folder once.
///
/// # Errors
/// [`PhaseError`].
pub fn prepare(config: &Config) -> Result<(), PhaseError> {
    for target in &config.folders {
        if config.bind {
            bind(&config.state, target)?;
        } else {
            file::make_folder(target, 0o700)?;
        }
    }
    Ok(file::replace(
        &config.hand_off.join(START_RUNTIME),
        b"",
        0o600,
    )?)
}

fn bind(state: &Path, target: &Path) -> Result<(), PhaseError> {
    let relative = target.strip_prefix("/").unwrap_or(target);
    let source = state.join(ROOT).join(relative);
    if !source.exists() {
        file::make_folder(&source, 0o700)?;
    }
    if !target.exists() {
        file::make_folder(target, 0o700)?;
    }
    if is_same(&source, target)? {
        return Ok(());
    }
    rustix::mount::mount_bind(&source, target).map_err(|source| PhaseError::Mount {
        path: target.to_owned(),
        source: source.into(),
    })
}

/// Two names of one folder: what a bind mount leaves behind.
fn is_same(one: &Path, other: &Path) -> Result<bool, PhaseError> {
    let identity = |path: &Path| {
        fs::metadata(path)
            .map(|metadata| (metadata.dev(), metadata.ino()))
            .map_err(FileError::new("look at", path))
    };
    Ok(identity(one)? == identity(other)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_in_place_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("var/lib/kubelet");
        let config = Config {
            bind: false,
            folders: vec![target.clone()],
            hand_off: folder.path().to_owned(),
            ..Config::default()
        };
        for _ in 0..2 {
            prepare(&config).unwrap();
            fs::write(target.join("config.yaml"), "a").unwrap();
        }
        assert!(folder.path().join(START_RUNTIME).exists());
        assert!(is_same(&target, &target.join(".")).unwrap());
        assert!(!is_same(&target, folder.path()).unwrap());
    }
}

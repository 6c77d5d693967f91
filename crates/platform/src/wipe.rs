//! Wiping a file that held a secret. Memory is wiped by the secrets' own types.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Overwrites a file on a tmpfs with zeros and deletes it. On a tmpfs the pages that held the
/// secret are the pages that are overwritten; no other file system promises that.
///
/// # Errors
/// The step that failed; the file may still hold the secret then.
pub fn wipe_file(path: &Path) -> Result<(), WipeError> {
    overwrite(path).map_err(|source| WipeError::Overwrite {
        path: path.to_path_buf(),
        source,
    })?;
    fs::remove_file(path).map_err(|source| WipeError::Delete {
        path: path.to_path_buf(),
        source,
    })
}

fn overwrite(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let mut left = file.metadata()?.len();
    let zeros = [0; 4096];
    while left > 0 {
        let len = usize::try_from(left).map_or(zeros.len(), |left| left.min(zeros.len()));
        file.write_all(&zeros[..len])?;
        left -= len as u64;
    }
    file.sync_all()
}

/// Why a file was not wiped (class internal).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WipeError {
    /// The file was wiped and not deleted.
    #[error("delete `{path}`")]
    Delete {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file was not wiped.
    #[error("overwrite `{path}`")]
    Overwrite {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_overwritten_where_it_is_and_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&path, vec![0x5a; 10_000]).unwrap();
        // A second name of the same file shows what became of its bytes.
        fs::hard_link(&path, &other).unwrap();
        wipe_file(&path).unwrap();
        assert!(!path.exists());
        assert_eq!(fs::read(&other).unwrap(), vec![0; 10_000]);
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let error = wipe_file(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(error.to_string(), "overwrite `/nonexistent`");
    }
}

//! Files that are whole at any moment, whatever happens to the machine.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// A file or folder that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{what} `{}`", path.display())]
pub struct FileError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// `what` failed on `path`.
    pub(crate) fn new(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self {
            what,
            path: path.to_owned(),
            source,
        }
    }
}

/// Writes a file, or replaces it, in one step: old or new, never half, also after a power cut.
///
/// # Errors
/// [`FileError`].
pub fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let failed = || FileError::new("write", path);
    // A leftover may have another mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed()(error)),
        _removed_or_absent => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        })
        .map_err(failed())?;
    fs::rename(&new, path).map_err(failed())?;
    sync_parent(path)
}

/// Makes a symbolic link, or replaces whatever has its name, in one step.
///
/// # Errors
/// [`FileError`].
pub fn replace_link(path: &Path, target: &Path) -> Result<(), FileError> {
    let new = path.with_extension("new");
    let failed = || FileError::new("link", path);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed()(error)),
        _removed_or_absent => {}
    }
    std::os::unix::fs::symlink(target, &new).map_err(failed())?;
    fs::rename(&new, path).map_err(failed())?;
    sync_parent(path)
}

/// Makes a folder and its parents; one that is there gets the mode.
///
/// # Errors
/// [`FileError`].
pub fn make_folder(path: &Path, mode: u32) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(FileError::new("make folder", path))
}

/// Reads a file of at most `limit` bytes; `None` if there is none.
///
/// # Errors
/// [`FileError`].
pub fn read_if_present(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    let failed = FileError::new("read", path);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut content = Vec::new();
    match file.take(limit + 1).read_to_end(&mut content) {
        Ok(read) if read as u64 > limit => Err(failed(io::Error::other("it is too long"))),
        Ok(_read) => Ok(Some(content)),
        Err(error) => Err(failed(error)),
    }
}

/// Reads a text file of this node's own making.
///
/// # Errors
/// [`FileError`].
pub fn read_text(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(FileError::new("read", path))
}

/// Deletes a file that may be gone already.
///
/// # Errors
/// [`FileError`].
pub fn delete(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FileError::new("delete", path)(error))
        }
        _deleted_or_absent => Ok(()),
    }
}

/// Waits until everything that was written to the file system of this folder is on the disk.
///
/// # Errors
/// [`FileError`].
pub fn sync_file_system(folder: &Path) -> Result<(), FileError> {
    File::open(folder)
        .and_then(|folder| Ok(rustix::fs::syncfs(folder)?))
        .map_err(FileError::new("sync the file system of", folder))
}

fn sync_parent(path: &Path) -> Result<(), FileError> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    File::open(parent)
        .and_then(|folder| folder.sync_all())
        .map_err(FileError::new("write", parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_has_its_mode_and_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        replace(&path, b"one", 0o644).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_link_replaces_a_file_and_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("current.pem");
        for (name, content) in [("a.pem", "a"), ("b.pem", "b")] {
            fs::write(folder.path().join(name), content).unwrap();
            replace_link(&link, Path::new(name)).unwrap();
            assert_eq!(read_text(&link).unwrap(), content);
        }
    }

    #[test]
    fn errors_name_the_file() {
        let error = replace(Path::new("/nonexistent/a"), b"", 0o600).unwrap_err();
        assert_eq!(error.to_string(), "write `/nonexistent/a`");
    }
}

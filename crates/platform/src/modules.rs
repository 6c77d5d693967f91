//! Kernel modules of the initrd, loaded in the order of its measured list.

use rustix::{io::Errno, system::finit_module};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// `MODULE_INIT_COMPRESSED_FILE`, Linux `include/uapi/linux/module.h`: the kernel decompresses.
const COMPRESSED: i32 = 4;

/// What became of one module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// It was loaded before, or is a dependency's alias.
    Already,
    /// It is for hardware that this machine does not have.
    NoHardware,
    /// It was loaded now.
    Now,
}

/// Reads a module list: one path a line. Lists come from the measured initrd.
///
/// # Errors
/// [`ModuleError::List`].
pub fn read_list(list: &Path) -> Result<Vec<PathBuf>, ModuleError> {
    let text = fs::read_to_string(list).map_err(|source| ModuleError::List {
        path: list.to_path_buf(),
        source,
    })?;
    let lines = text.lines().filter(|line| !line.is_empty());
    Ok(lines.map(PathBuf::from).collect())
}

/// Loads one module, compressed or not.
///
/// # Errors
/// The step that failed, with the path.
pub fn load(path: &Path) -> Result<Loaded, ModuleError> {
    let file = File::open(path).map_err(|source| ModuleError::Open {
        path: path.to_path_buf(),
        source,
    })?;
    let plain = path.extension().is_some_and(|extension| extension == "ko");
    match finit_module(&file, c"", if plain { 0 } else { COMPRESSED }) {
        Ok(()) => Ok(Loaded::Now),
        Err(Errno::EXIST) => Ok(Loaded::Already),
        Err(Errno::NODEV) => Ok(Loaded::NoHardware),
        Err(source) => Err(ModuleError::Load {
            path: path.to_path_buf(),
            source,
        }),
    }
}

/// Why a module was not loaded (class internal: the image does not fit its kernel).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// The kernel refused the module.
    #[error("load module `{path}`")]
    Load {
        /// The module.
        path: PathBuf,
        /// Why.
        source: Errno,
    },
    /// The list could not be read.
    #[error("read module list `{path}`")]
    List {
        /// The list.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The module's file could not be opened.
    #[error("open module `{path}`")]
    Open {
        /// The module.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_keep_their_order_and_skip_empty_lines() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("modules.list");
        fs::write(&list, "/lib/b.ko.xz\n\n/lib/a.ko\n").unwrap();
        let paths = read_list(&list).unwrap();
        assert_eq!(paths, ["/lib/b.ko.xz", "/lib/a.ko"].map(PathBuf::from));
    }

    #[test]
    fn a_missing_module_is_named() {
        let error = load(Path::new("/nonexistent.ko.xz")).unwrap_err();
        assert_eq!(error.to_string(), "open module `/nonexistent.ko.xz`");
    }
}

//! A folder of one run, and the removal of what runs that were killed left behind.

use anyhow::{Context as _, Result};
use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    thread,
};

/// The file whose lock says that a folder's owner lives. A folder without it is kept for somebody.
const LOCK: &str = "owner-lives";

/// A folder that goes with its value unless the thread panics or somebody asks to keep it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    kept: bool,
    _lock: File,
}

impl Folder {
    /// Makes an empty folder for a thing of this kind, and gives folders of the same kind whose owner
    /// was killed to `bury` before they are removed.
    pub(crate) fn create(kind: &str, bury: impl Fn(&Path)) -> Result<Self> {
        let prefix = format!("native-kubernetes-{kind}-");
        for path in abandoned(&env::temp_dir(), &prefix)? {
            bury(&path);
            // Another process may be removing it too.
            drop(fs::remove_dir_all(&path));
        }
        let path = tempfile::Builder::new().prefix(&prefix).tempdir()?.keep();
        // Nobody sees the lock before it is held.
        let new = path.join("lock");
        let lock = File::create(&new)?;
        lock.lock().context("lock a new folder")?;
        fs::rename(new, path.join(LOCK))?;
        Ok(Self {
            path,
            kept: false,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the folder to whoever looks for the reason of a failure, once its value goes.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Both fail only when somebody else has removed it.
        if self.kept || thread::panicking() {
            eprintln!("logs are kept in {}", self.path.display());
            drop(fs::remove_file(self.path.join(LOCK)));
        } else {
            drop(fs::remove_dir_all(&self.path));
        }
    }
}

/// Folders whose lock nobody holds.
fn abandoned(parent: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(parent).with_context(|| format!("list {}", parent.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let lock = entry.path().join(LOCK);
        if !name.to_string_lossy().starts_with(prefix) {
            continue;
        }
        if File::open(lock).is_ok_and(|lock| lock.try_lock().is_ok()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn create(kind: &str) -> Folder {
        Folder::create(kind, |_| {}).unwrap()
    }

    #[test]
    fn a_folder_goes_with_its_value_unless_kept() {
        let folder = create("self-test-drop");
        let path = folder.path().to_owned();
        assert!(path.exists());
        drop(folder);
        assert!(!path.exists());
        let mut folder = create("self-test-drop");
        let path = folder.path().to_owned();
        folder.keep();
        drop(folder);
        assert!(path.exists());
        drop(create("self-test-drop"));
        assert!(path.exists(), "a kept folder is nobody's to remove");
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn what_a_killed_owner_left_is_buried_and_what_lives_is_not() {
        let living = create("self-test-bury");
        let killed = create("self-test-bury");
        let left = killed.path().to_owned();
        // The kernel gives up a killed owner's lock, and nothing else happens.
        killed._lock.unlock().unwrap();
        std::mem::forget(killed);
        let buried = RefCell::new(Vec::new());
        let bury = |path: &Path| buried.borrow_mut().push(path.to_owned());
        drop(Folder::create("self-test-bury", bury).unwrap());
        assert_eq!(*buried.borrow(), [left.as_path()]);
        assert!(!left.exists() && living.path().exists());
    }
}

//! One folder a test: logs, sockets' parents, disks, certificates.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
pub use child_process::free_port;

/// Virtual machines at a time, over all test programs: more only make each other slower on the
/// two cores that a build machine has.
const MACHINE_SLOTS: usize = 2;

/// How long a machine waits for a free slot before the test fails.
const SLOT_PATIENCE: Duration = Duration::from_secs(20 * 60);

/// The folder of one test or demo run.
#[derive(Clone, Debug)]
pub struct Workspace {
    dir: PathBuf,
    _lock: Arc<File>,
}

impl Workspace {
    /// Makes `target/qemu-tests/<name>`, empty. It is this run's alone while the value lives.
    pub fn create(name: &str) -> Result<Self> {
        let dir = base_dir().join(name);
        fs::create_dir_all(base_dir())?;
        let lock = File::create(dir.with_extension("lock"))?;
        if lock.try_lock().is_err() {
            bail!("another run uses {}", dir.display());
        }
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("empty {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self {
            dir: dir.canonicalize()?,
            _lock: Arc::new(lock),
        })
    }

    /// The folder itself, as an absolute path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of a file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes a subfolder.
    pub fn subdir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(dir)
    }
}

/// The right to run one virtual machine; given back on drop, and by the kernel on any exit.
#[derive(Debug)]
pub(crate) struct MachineSlot {
    _lock: File,
}

impl MachineSlot {
    /// Waits for a free slot among all test programs of this target folder.
    pub(crate) fn acquire() -> Result<Self> {
        let base = base_dir();
        fs::create_dir_all(&base)?;
        let end = Instant::now() + SLOT_PATIENCE;
        while Instant::now() < end {
            for slot in 0..MACHINE_SLOTS {
                let lock = File::create(base.join(format!("machine-slot-{slot}.lock")))?;
                if lock.try_lock().is_ok() {
                    return Ok(Self { _lock: lock });
                }
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("no free virtual machine slot after {SLOT_PATIENCE:?}: another run hangs")
    }
}

/// A program of this workspace: the newest build of it, whatever the profile. A harness that is a
/// release build itself measures, so it takes release builds only.
pub fn program(name: &str) -> Result<PathBuf> {
    let profiles: &[&str] = match cfg!(debug_assertions) {
        true => &["release", "debug"],
        false => &["release"],
    };
    let built = profiles
        .iter()
        .map(|profile| target_dir().join(profile).join(name));
    let dated = built.filter_map(|path| {
        let modified = path.metadata().ok()?.modified().ok()?;
        Some((modified, path))
    });
    let (_, newest) = dated.max().with_context(|| {
        format!("program `{name}` is not built\nhint: `cargo build -p` the package that has it")
    })?;
    Ok(newest.canonicalize()?)
}

/// `target/qemu-tests`.
pub(crate) fn base_dir() -> PathBuf {
    target_dir().join("qemu-tests")
}

/// Cargo's target folder.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target"),
        PathBuf::from,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_is_emptied_for_one_run_at_a_time() {
        let first = Workspace::create("self-test").unwrap();
        fs::write(first.file("old"), "").unwrap();
        assert!(Workspace::create("self-test").is_err());
        drop(first);
        let second = Workspace::create("self-test").unwrap();
        assert!(!second.file("old").exists());
    }
}

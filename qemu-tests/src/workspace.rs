//! One folder a test: logs, sockets' parents, disks, certificates.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
pub use child_process::free_port;

/// Virtual machines at a time, over all test programs: one more than a build machine has cores, for
/// machines that wait. More than that only make each other slower.
const MACHINE_SLOTS: usize = 3;

/// How long a machine waits for a free slot before the test fails.
const SLOT_PATIENCE: Duration = Duration::from_secs(20 * 60);

/// What stays of a run that passed: what somebody reads, and nothing that takes space.
const RECORDS: [&str; 4] = ["json", "jsonl", "log", "toml"];

/// The folder of one test or demo run.
#[derive(Clone, Debug)]
pub struct Workspace(Arc<Folder>);

/// What the clones of a workspace share.
#[derive(Debug)]
struct Folder {
    dir: PathBuf,
    passed: AtomicBool,
    _lock: File,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.passed.load(Ordering::SeqCst) {
            println!(
                "not passed; all disks and logs are in {}",
                self.dir.display()
            );
        }
    }
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
        Ok(Self(Arc::new(Folder {
            dir: dir.canonicalize()?,
            passed: AtomicBool::new(false),
            _lock: lock,
        })))
    }

    /// The last word of a run that went well: only its records stay, without disks, images and keys.
    /// A run that does not come to this keeps everything.
    pub fn passed(&self) -> Result<()> {
        keep_records(self.dir())?;
        self.0.passed.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// The folder itself, as an absolute path.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The path of a file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Makes a subfolder.
    pub fn subdir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.file(name);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(dir)
    }
}

/// Removes everything below a folder but records, and folders without any.
fn keep_records(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry?;
        let path = entry.path();
        let done = if entry.file_type()?.is_dir() {
            keep_records(&path)?;
            match fs::read_dir(&path)?.next() {
                Some(_) => continue,
                None => fs::remove_dir(&path),
            }
        } else if is_record(&path) {
            give_back_reserve(&path)
        } else {
            fs::remove_file(&path)
        };
        done.with_context(|| format!("clean up {}", path.display()))?;
    }
    Ok(())
}

/// Audit logs have space beyond their end; cutting a file where it ends gives it back.
fn give_back_reserve(path: &Path) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.set_len(file.metadata()?.len())
}

fn is_record(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| RECORDS.contains(&extension))
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
        fs::write(first.file("old.log"), "").unwrap();
        assert!(Workspace::create("self-test").is_err());
        first.passed().unwrap();
        drop(first);
        let second = Workspace::create("self-test").unwrap();
        assert!(!second.file("old.log").exists());
        second.passed().unwrap();
    }

    #[test]
    fn of_a_run_that_passed_only_records_stay() {
        let workspace = Workspace::create("self-test-passed").unwrap();
        let (site, tpm) = (workspace.subdir("site"), workspace.subdir("worker.tpm"));
        let (site, tpm) = (site.unwrap(), tpm.unwrap());
        let record = site.join("service.log");
        let others = [
            workspace.file("worker.state.raw"),
            site.join("owner.key"),
            tpm.join("tpm2-00.permall"),
        ];
        for file in others.iter().chain([&record]) {
            fs::write(file, "content").unwrap();
        }
        workspace.passed().unwrap();
        assert_eq!(others.map(|file| file.exists()), [false; 3]);
        assert!(record.exists() && !tpm.exists());
    }
}

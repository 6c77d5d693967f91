//! The audit file beside what it is about.

use admission::Timestamp;
use anyhow::{Context as _, Result, anyhow};
use audit::RecordEvent;
use std::{
    fs::{File, OpenOptions, TryLockError},
    io::Write as _,
    path::{Path, PathBuf},
};

use crate::output::WithHint as _;

/// `FILE.audit.jsonl`, open for appending. It is the lock on `FILE`, too, because each run writes that
/// as a whole: of two at a time, one would undo what the other decided.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens the file beside `subject`; `hint` is for an operator whose other command has it.
    pub(crate) fn open(subject: &Path, hint: &str) -> Result<Self> {
        let mut path = subject.to_owned().into_os_string();
        path.push(".audit.jsonl");
        let path = PathBuf::from(path);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("open `{}`", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, file }),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| path.display().to_string())
            }
            Err(TryLockError::WouldBlock) => {
                Err(anyhow!("`{}` is in use", subject.display())).hint(hint)
            }
        }
    }

    /// Appends an event, durably.
    pub(crate) fn append(&self, now: Timestamp, event: &RecordEvent) -> Result<()> {
        let line = serde_json::to_string(&serde_json::json!({ "time": now.0, "event": event }))?;
        let mut file = &self.file;
        writeln!(file, "{line}")
            .and_then(|()| file.sync_all())
            .with_context(|| format!("append to `{}`", self.path.display()))
    }
}

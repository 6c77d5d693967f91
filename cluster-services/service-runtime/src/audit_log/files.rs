//! The files of an audit log: `audit.NNNNNNNN.jsonl`, numbered upwards, and `audit.reserve`.

use super::AuditConfig;
use crate::{Readiness, logs::Chain};
use audit::Head;
use rustix::fs::{FallocateFlags, fallocate};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The folder cannot be listed or made durable.
    #[error("cannot read the folder")]
    Folder(#[source] io::Error),
    /// Another process writes to this log.
    #[error("`{}` is locked by another process", .0.display())]
    Locked(PathBuf),
    /// Lines are not on the disk.
    #[error("cannot append to `{}`", path.display())]
    Append {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file cannot be opened, created or cut to its last whole line.
    #[error("cannot open `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The current file, and the space for the next one.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    capacity: u64,
    keep: usize,
    readiness: Readiness,
    number: u32,
    file: File,
    length: u64,
    _lock: File,
}

const RESERVE: &str = "audit.reserve";
const LOCK: &str = "audit.lock";
const RESERVE_CONDITION: &str = "audit-reserve";

impl Files {
    pub(super) fn open(config: &AuditConfig, readiness: Readiness) -> Result<Self, FileError> {
        let directory = config.directory.clone();
        let lock = open_new_or_old(&directory.join(LOCK))?;
        lock.try_lock()
            .map_err(|_| FileError::Locked(directory.join(LOCK)))?;
        let number = numbers(&directory)?.last().copied().unwrap_or(1);
        let file = open_new_or_old(&path(&directory, number))?;
        let mut files = Self {
            capacity: u64::from(config.file_mebibytes.get()) << 20,
            keep: config.files.get() as usize,
            readiness,
            number,
            file,
            length: 0,
            _lock: lock,
            directory,
        };
        if let Err(error) = reserve(&files.file, files.capacity) {
            tracing::warn!(error = %Chain(&error), "cannot reserve space for the audit log");
        }
        files.sync_folder()?;
        files.refill_reserve();
        Ok(files)
    }

    /// Cuts off what was never acknowledged and gives the head of the last whole line.
    pub(super) fn recover(&mut self) -> Result<Option<Head>, FileError> {
        let path = self.path();
        let failed = |source| FileError::Open {
            path: path.clone(),
            source,
        };
        let tail = Tail::read(&self.file).map_err(failed)?;
        self.length = tail.length;
        if tail.torn > 0 {
            tracing::warn!(bytes = tail.torn, "cut off an unfinished audit line");
            self.file
                .set_len(self.length)
                .and_then(|()| self.file.sync_data())
                .map_err(failed)?;
        }
        match tail.head {
            // A rotation that a crash interrupted: the log ends in the file before.
            None if self.length == 0 && self.number > 1 => self.head_of_predecessor(),
            head => Ok(head),
        }
    }

    fn head_of_predecessor(&self) -> Result<Option<Head>, FileError> {
        let path = path(&self.directory, self.number - 1);
        match File::open(&path).and_then(|file| Tail::read(&file)) {
            Ok(tail) => Ok(tail.head),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(FileError::Open { path, source }),
        }
    }

    /// Whether the next lines belong into the next file.
    pub(super) fn is_full(&self) -> bool {
        self.length >= self.capacity
    }

    /// Appends lines and makes them durable, or leaves the file as it was.
    pub(super) fn append(&mut self, lines: &str) -> Result<(), FileError> {
        let written = self
            .file
            .seek(SeekFrom::Start(self.length))
            .and_then(|_| self.file.write_all(lines.as_bytes()))
            .and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.length += lines.len() as u64;
                Ok(())
            }
            Err(source) => {
                // What is left over after a failure here is cut off by the next `recover`.
                let _best_effort = self.file.set_len(self.length);
                Err(FileError::Append {
                    path: self.path(),
                    source,
                })
            }
        }
    }

    /// Goes on in the next file; `false` when there is no room for one and this file must do. The
    /// file system being full must not stop every boot while this file still takes lines.
    pub(super) fn rotate(&mut self) -> Result<bool, FileError> {
        let next = path(&self.directory, self.number + 1);
        if fs::rename(self.directory.join(RESERVE), &next).is_err() && !self.refill_reserve() {
            return Ok(false);
        }
        self.file = open_new_or_old(&next)?;
        self.number += 1;
        self.length = 0;
        self.sync_folder()?;
        self.remove_oldest()?;
        self.refill_reserve();
        Ok(true)
    }

    /// Takes the space for the next file now, while there is some.
    fn refill_reserve(&mut self) -> bool {
        let made = open_new_or_old(&self.directory.join(RESERVE)).is_ok_and(|file| {
            reserve(&file, self.capacity)
                .inspect_err(|error| {
                    metrics::counter!("audit_reserve_failed_total").increment(1);
                    tracing::error!(error = %Chain(error), "no space for the next audit file");
                })
                .is_ok()
        });
        self.readiness.set(RESERVE_CONDITION, made);
        made
    }

    fn remove_oldest(&self) -> Result<(), FileError> {
        let numbers = numbers(&self.directory)?;
        let excess = numbers.len().saturating_sub(self.keep + 1);
        for number in numbers.into_iter().take(excess) {
            let path = path(&self.directory, number);
            tracing::info!(path = %path.display(), "removing the oldest audit file");
            fs::remove_file(&path).map_err(|source| FileError::Open { path, source })?;
        }
        Ok(())
    }

    fn sync_folder(&self) -> Result<(), FileError> {
        File::open(&self.directory)
            .and_then(|folder| folder.sync_all())
            .map_err(FileError::Folder)
    }

    fn path(&self) -> PathBuf {
        path(&self.directory, self.number)
    }
}

/// How a file ends.
struct Tail {
    /// Bytes up to the end of the last whole line.
    length: u64,
    /// Bytes after it.
    torn: u64,
    /// The head in the last whole line.
    head: Option<Head>,
}

impl Tail {
    fn read(mut file: &File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let window = length.min(2 * audit::MAX_LINE as u64);
        file.seek(SeekFrom::Start(length - window))?;
        let mut bytes = Vec::new();
        file.take(window).read_to_end(&mut bytes)?;
        let end = bytes.iter().rposition(|byte| *byte == b'\n');
        let end = end.map_or(0, |at| at + 1);
        let torn = (bytes.len() - end) as u64;
        let whole = bytes.get(..end.saturating_sub(1)).unwrap_or_default();
        let line = whole.rsplit(|byte| *byte == b'\n').next();
        let line = std::str::from_utf8(line.unwrap_or_default()).ok();
        Ok(Self {
            length: length - torn,
            torn,
            head: line.and_then(audit::last_head),
        })
    }
}

/// Takes space without changing the file's length, so that the length stays that of the log.
fn reserve(file: &File, capacity: u64) -> io::Result<()> {
    Ok(fallocate(file, FallocateFlags::KEEP_SIZE, 0, capacity)?)
}

fn path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("audit.{number:08}.jsonl"))
}

/// The numbers of the files that are there, ascending.
fn numbers(directory: &Path) -> Result<Vec<u32>, FileError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory).map_err(FileError::Folder)? {
        let name = entry.map_err(FileError::Folder)?.file_name();
        let number: Option<u32> = name
            .to_str()
            .and_then(|name| name.strip_prefix("audit.")?.strip_suffix(".jsonl"))
            .and_then(|digits| digits.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn open_new_or_old(path: &Path) -> Result<File, FileError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|source| FileError::Open {
            path: path.to_owned(),
            source,
        })
}

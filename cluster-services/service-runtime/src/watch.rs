//! Files that may change while a service runs: reloaded whole, or not at all.

use crate::{logs::Chain, shutdown::Shutdown};
use std::{
    error::Error,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// Why the first version of a watched file could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError<E: Error + 'static> {
    /// What is in it is refused.
    #[error("cannot use `{}`", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        source: E,
    },
    /// It cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The current value of a watched file; cheap to clone, always whole.
#[derive(Debug)]
pub struct Watched<T>(watch::Receiver<Arc<T>>);

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Watched<T> {
    /// The value now in force.
    #[must_use]
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.0.borrow())
    }
}

/// Reads one file again whenever it changes. A version that cannot be used leaves the old value in
/// force, logs an error and counts `reload_failed_total{file}`.
#[derive(Debug)]
pub struct FileWatch<T, P> {
    path: PathBuf,
    name: &'static str,
    parse: P,
    seen: Option<Stamp>,
    content: Vec<u8>,
    sender: watch::Sender<Arc<T>>,
}

/// What changes whenever a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl<T, E, P> FileWatch<T, P>
where
    E: Error + 'static,
    P: Fn(&[u8], Option<&T>) -> Result<T, E>,
{
    /// The largest file that is read: reference values of hundreds of images fit.
    pub const MAX_LEN: u64 = 4 << 20;

    /// How often [`Self::run`] looks.
    const INTERVAL: Duration = Duration::from_secs(1);

    /// Reads the file for the first time. `parse` gets its bytes and the value in force, so that it
    /// can refuse a step back; `name` is what logs and metrics call the file.
    ///
    /// # Errors
    /// When there is no value to begin with.
    pub fn open(
        path: &Path,
        name: &'static str,
        parse: P,
    ) -> Result<(Self, Watched<T>), WatchError<E>> {
        let (seen, content) = read(path).map_err(|source| WatchError::Read {
            path: path.to_owned(),
            source,
        })?;
        let value = parse(&content, None).map_err(|source| WatchError::Content {
            path: path.to_owned(),
            source,
        })?;
        let (sender, receiver) = watch::channel(Arc::new(value));
        let watch = Self {
            path: path.to_owned(),
            name,
            parse,
            seen: Some(seen),
            content,
            sender,
        };
        Ok((watch, Watched(receiver)))
    }

    /// Looks until shutdown.
    pub async fn run(mut self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(Self::INTERVAL) => self.poll(),
            }
        }
    }

    /// Looks once.
    pub fn poll(&mut self) {
        if stamp(&self.path).is_ok_and(|stamp| Some(stamp) == self.seen) {
            return;
        }
        match read(&self.path) {
            Ok((seen, content)) => {
                self.seen = Some(seen);
                if content != self.content {
                    self.offer(content);
                }
            }
            // Shouts once for each disappearance, not once a second.
            Err(error) if self.seen.take().is_some() => self.refuse(&error),
            Err(_) => {}
        }
    }

    fn offer(&mut self, content: Vec<u8>) {
        let current = Arc::clone(&self.sender.borrow());
        match (self.parse)(&content, Some(&current)) {
            Ok(value) => {
                self.sender.send_replace(Arc::new(value));
                metrics::counter!("reload_succeeded_total", "file" => self.name).increment(1);
                tracing::info!(file = self.name, path = %self.path.display(), "reloaded");
            }
            Err(error) => self.refuse(&error),
        }
        self.content = content;
    }

    fn refuse(&self, error: &(dyn Error + 'static)) {
        metrics::counter!("reload_failed_total", "file" => self.name).increment(1);
        tracing::error!(
            file = self.name,
            path = %self.path.display(),
            error = %Chain(error),
            "not reloaded; the previous version stays in force"
        );
    }
}

/// Reads a file and its stamp. A writer in between changes the stamp, so the next look reads again.
fn read(path: &Path) -> io::Result<(Stamp, Vec<u8>)> {
    let file = File::open(path)?;
    let seen = Stamp::of(&file.metadata()?);
    let limit = FileWatch::<(), fn(&[u8], Option<&()>) -> Result<(), io::Error>>::MAX_LEN;
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {limit} bytes"),
        ));
    }
    Ok((seen, content))
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    Ok(Stamp::of(&fs::metadata(path)?))
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq, thiserror::Error)]
    enum SerialError {
        #[error("not a number")]
        Malformed,
        #[error("serial {got} is below {current}")]
        Lower { current: u32, got: u32 },
    }

    fn serial(bytes: &[u8], current: Option<&u32>) -> Result<u32, SerialError> {
        let text = std::str::from_utf8(bytes).map_err(|_| SerialError::Malformed)?;
        let got = text.trim().parse().map_err(|_| SerialError::Malformed)?;
        match current {
            Some(&current) if got < current => Err(SerialError::Lower { current, got }),
            _ => Ok(got),
        }
    }

    #[test]
    fn a_change_is_taken_a_bad_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial");
        fs::write(&path, "5").unwrap();
        let (mut watch, value) = FileWatch::open(&path, "serial", serial).unwrap();
        let mut after = |content: &str| {
            fs::write(&path, content).unwrap();
            watch.poll();
            *value.current()
        };
        assert_eq!(after("6"), 6);
        assert_eq!(after("rubbish"), 6);
        assert_eq!(after("4"), 6);
        assert_eq!(after("7"), 7);
    }

    #[test]
    fn a_replaced_or_missing_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&path, "1").unwrap();
        let (mut watch, value) = FileWatch::open(&path, "serial", serial).unwrap();
        fs::remove_file(&path).unwrap();
        watch.poll();
        assert_eq!(*value.current(), 1);
        fs::write(&other, "2").unwrap();
        fs::rename(&other, &path).unwrap();
        watch.poll();
        assert_eq!(*value.current(), 2);
    }

    #[test]
    fn without_a_first_value_there_is_no_watch() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial");
        assert!(matches!(
            FileWatch::open(&path, "serial", serial),
            Err(WatchError::Read { .. })
        ));
        fs::write(&path, "x").unwrap();
        assert!(matches!(
            FileWatch::open(&path, "serial", serial),
            Err(WatchError::Content {
                source: SerialError::Malformed,
                ..
            })
        ));
    }

    #[test]
    fn an_oversized_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial");
        File::create(&path).unwrap().set_len((4 << 20) + 1).unwrap();
        assert!(matches!(
            FileWatch::open(&path, "serial", serial),
            Err(WatchError::Read { .. })
        ));
    }
}

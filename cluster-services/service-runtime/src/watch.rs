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

/// Why the first version of watched files could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError<E: Error + 'static> {
    /// What is in them is refused.
    #[error("cannot use the {name}")]
    Content {
        /// What the files are called.
        name: &'static str,
        /// Why.
        source: E,
    },
    /// One cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The current value of watched files; cheap to clone, always whole.
#[derive(Debug)]
pub struct Watched<T>(watch::Receiver<Arc<T>>);

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Watched<T> {
    /// A first value, and the sender of whoever replaces it by later ones.
    #[must_use]
    pub fn channel(value: T) -> (watch::Sender<Arc<T>>, Self) {
        let (sender, receiver) = watch::channel(Arc::new(value));
        (sender, Self(receiver))
    }

    /// The value now in force.
    #[must_use]
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.0.borrow())
    }
}

/// Reads some files that make one value again whenever one of them changes. Versions that cannot be
/// used leave the old value in force, log an error and count `reload_failed_total{files}`.
#[derive(Debug)]
pub struct FileWatch<T, P> {
    paths: Vec<PathBuf>,
    name: &'static str,
    parse: P,
    seen: Option<Vec<Stamp>>,
    contents: Vec<Vec<u8>>,
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
    P: Fn(&[Vec<u8>], Option<&T>) -> Result<T, E>,
{
    /// Reads the files for the first time. `parse` gets their bytes, in the order of `paths`, and the
    /// value in force, so that it can refuse a step back; `name` is what logs and metrics call them.
    ///
    /// # Errors
    /// When there is no value to begin with.
    pub fn open(
        paths: &[PathBuf],
        name: &'static str,
        parse: P,
    ) -> Result<(Self, Watched<T>), WatchError<E>> {
        let (seen, contents) =
            read_all(paths).map_err(|(path, source)| WatchError::Read { path, source })?;
        let value =
            parse(&contents, None).map_err(|source| WatchError::Content { name, source })?;
        let (sender, watched) = Watched::channel(value);
        let watch = Self {
            paths: paths.to_vec(),
            name,
            parse,
            seen: Some(seen),
            contents,
            sender,
        };
        Ok((watch, watched))
    }

    /// Looks once.
    pub fn poll(&mut self) {
        let now: io::Result<Vec<_>> = self.paths.iter().map(|path| stamp(path)).collect();
        if now.is_ok_and(|now| Some(now) == self.seen) {
            return;
        }
        match read_all(&self.paths) {
            Ok((seen, contents)) => {
                self.seen = Some(seen);
                if contents != self.contents {
                    self.offer(contents);
                }
            }
            // Shouts once for each disappearance, not once a second.
            Err((path, error)) if self.seen.take().is_some() => {
                tracing::error!(path = %path.display(), "cannot read a watched file");
                self.refuse(&error);
            }
            Err(_) => {}
        }
    }

    fn offer(&mut self, contents: Vec<Vec<u8>>) {
        let current = Arc::clone(&self.sender.borrow());
        match (self.parse)(&contents, Some(&current)) {
            Ok(value) => {
                self.sender.send_replace(Arc::new(value));
                metrics::counter!("reload_succeeded_total", "files" => self.name).increment(1);
                tracing::info!(files = self.name, "reloaded");
            }
            Err(error) => self.refuse(&error),
        }
        self.contents = contents;
    }

    fn refuse(&self, error: &(dyn Error + 'static)) {
        metrics::counter!("reload_failed_total", "files" => self.name).increment(1);
        tracing::error!(
            files = self.name,
            error = %Chain(error),
            "not reloaded; the previous version stays in force"
        );
    }
}

impl<T, E, P> FileWatch<T, P>
where
    T: Send + Sync + 'static,
    E: Error + 'static,
    P: Fn(&[Vec<u8>], Option<&T>) -> Result<T, E> + Send + 'static,
{
    /// How often [`Self::run`] looks.
    const INTERVAL: Duration = Duration::from_secs(1);

    /// Looks until shutdown.
    pub async fn run(mut self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(Self::INTERVAL) => {}
            }
            // Reading, checking signatures and storing a serial may take a while.
            match tokio::task::spawn_blocking(move || {
                self.poll();
                self
            })
            .await
            {
                Ok(watch) => self = watch,
                Err(error) => {
                    tracing::error!(error = %Chain(&error), "no longer watching files");
                    return;
                }
            }
        }
    }
}

/// The largest file that is read: reference values of hundreds of images fit.
const MAX_LEN: u64 = 4 << 20;

type Contents = (Vec<Stamp>, Vec<Vec<u8>>);

fn read_all(paths: &[PathBuf]) -> Result<Contents, (PathBuf, io::Error)> {
    let mut all = Contents::default();
    for path in paths {
        let (stamp, content) = read(path).map_err(|error| (path.clone(), error))?;
        all.0.push(stamp);
        all.1.push(content);
    }
    Ok(all)
}

/// Reads a file and its stamp. A writer in between changes the stamp, so the next look reads again.
fn read(path: &Path) -> io::Result<(Stamp, Vec<u8>)> {
    let file = File::open(path)?;
    let seen = Stamp::of(&file.metadata()?);
    let mut content = Vec::new();
    file.take(MAX_LEN + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_LEN {
        let message = format!("longer than {MAX_LEN} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
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

    fn serial(contents: &[Vec<u8>], current: Option<&u32>) -> Result<u32, SerialError> {
        let text = std::str::from_utf8(&contents[0]).map_err(|_| SerialError::Malformed)?;
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
        let (mut watch, value) =
            FileWatch::open(std::slice::from_ref(&path), "serial", serial).unwrap();
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
        let (mut watch, value) =
            FileWatch::open(std::slice::from_ref(&path), "serial", serial).unwrap();
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
            FileWatch::open(std::slice::from_ref(&path), "serial", serial),
            Err(WatchError::Read { .. })
        ));
        fs::write(&path, "x").unwrap();
        assert!(matches!(
            FileWatch::open(std::slice::from_ref(&path), "serial", serial),
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
            FileWatch::open(std::slice::from_ref(&path), "serial", serial),
            Err(WatchError::Read { .. })
        ));
    }
}

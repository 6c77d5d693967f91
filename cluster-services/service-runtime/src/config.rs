//! Configuration files: TOML, typed, every key known.
//!
//! A configuration type derives `Deserialize` with `deny_unknown_fields`; what is wrong is reported
//! with file, line, column and key. Nothing is read from the environment.

use serde::{Deserialize, de::DeserializeOwned};
use std::{
    fs, io,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

/// Why a configuration was not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The text is not TOML, or not the configuration of this service.
    #[error("malformed configuration `{}` at line {line}, column {column}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line of the offending key, from 1.
        line: usize,
        /// Column of the offending key, from 1.
        column: usize,
        /// What was expected there.
        message: String,
    },
    /// The file cannot be read.
    #[error("cannot read configuration `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Loads the configuration of a service.
///
/// # Errors
/// [`ConfigError`], naming the file and the place in it.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|error| malformed(path, &text, &error))
}

fn malformed(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let offset = error.span().map_or(0, |span| span.start);
    let before = text.get(..offset).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    ConfigError::Malformed {
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before.len() - line_start + 1,
        message: error.message().replace('\n', ", "),
    }
}

/// A whole number of seconds, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Seconds(NonZeroU32);

impl Seconds {
    /// So many seconds.
    #[must_use]
    pub const fn new(seconds: NonZeroU32) -> Self {
        Self(seconds)
    }

    /// The same as a [`Duration`].
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0.get() as u64)
    }
}

/// A default that is not zero: `number`, or 1 for 0.
#[must_use]
pub const fn count(number: u32) -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(number.saturating_sub(1))
}

/// What a replica calls itself: `"key-0"`, or `{ file = "PATH" }` where a whole cluster shares one
/// configuration and the file differs, such as the pod's name from the downward API.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, untagged)]
pub enum Replica {
    /// In a file, less white space at its end.
    File {
        /// The file.
        file: PathBuf,
    },
    /// Here.
    Name(String),
}

impl Replica {
    /// The name.
    ///
    /// # Errors
    /// [`ConfigError::Read`].
    pub fn name(&self) -> Result<String, ConfigError> {
        match self {
            Self::File { file } => fs::read_to_string(file)
                .map(|text| text.trim_end().to_owned())
                .map_err(|source| ConfigError::Read {
                    path: file.clone(),
                    source,
                }),
            Self::Name(name) => Ok(name.clone()),
        }
    }
}

/// How a service logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// Text for a person at a terminal.
    Human,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        timeout_seconds: Seconds,
        #[expect(dead_code, reason = "only its presence matters here")]
        address: std::net::SocketAddr,
    }

    fn load_text(text: &str) -> Result<Sample, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        load(file.path()).map_err(|error| {
            let name = file.path().display().to_string();
            error.to_string().replace(&name, "FILE")
        })
    }

    #[test]
    fn a_complete_file_loads() {
        let sample = load_text("timeout_seconds = 3\naddress = \"127.0.0.1:1\"\n").unwrap();
        assert_eq!(sample.timeout_seconds.duration(), Duration::from_secs(3));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, place, what) in [
            (
                "timeout_seconds = 3\naddress = \"127.0.0.1:1\"\ninsecure = true\n",
                "line 3, column 1",
                "unknown field `insecure`",
            ),
            ("timeout_seconds = 3\n", "line 1", "missing field `address`"),
            (
                "address = \"127.0.0.1:1\"\ntimeout_seconds = 0\n",
                "line 2, column 19",
                "nonzero",
            ),
            (
                "timeout_seconds = 3\naddress = \"localhost\"\n",
                "line 2, column 11",
                "socket address",
            ),
            ("timeout_seconds = \n", "line 1", ""),
        ] {
            let error = load_text(text).unwrap_err();
            assert!(
                error.starts_with("malformed configuration `FILE` at "),
                "{error}"
            );
            assert!(error.contains(place) && error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_replica_is_named_here_or_in_a_file() {
        #[derive(Deserialize)]
        struct Named {
            replica: Replica,
        }
        let name = |text: &str| toml::from_str::<Named>(text).map(|Named { replica }| replica);
        assert_eq!(
            name("replica = \"key-0\"").unwrap().name().unwrap(),
            "key-0"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "key-service-x7\n").unwrap();
        let from_file = name(&format!("replica.file = {:?}", file.path())).unwrap();
        assert_eq!(from_file.name().unwrap(), "key-service-x7");
        let absent = name("replica.file = \"/nonexistent/name\"").unwrap();
        assert!(absent.name().is_err());
        assert!(name("replica = { file = \"a\", name = \"b\" }").is_err());
    }

    #[test]
    fn an_absent_file_is_named() {
        let error = load::<Sample>(Path::new("/nonexistent/x.toml")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read configuration `/nonexistent/x.toml`"
        );
    }
}

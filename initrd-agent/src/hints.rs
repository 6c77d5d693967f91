//! Hints: what the host says about where and as what to join.
//!
//! They cost availability at most: an endpoint must prove that it acts for the owner, and a name or
//! role that the join service does not grant is refused there. So a hint that does not parse is
//! reported and left out.

mod metadata;

pub use metadata::{URL as METADATA_URL, fetch};

use crate::endpoints::{Endpoint, MAX_ENDPOINTS};
use identity::{NodeName, Role};
use serde::Deserialize;
use std::{fs::File, io, io::Read, path::Path};

/// Where QEMU's firmware configuration device shows the host's file.
pub const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/org.constellation/hints/raw";

/// The longest hints document.
pub const MAX_LEN: u64 = 16 * 1024;

/// What a node was told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// Where a join service may be.
    pub endpoints: Vec<Endpoint>,
    /// The name to join under.
    pub node_name: Option<NodeName>,
    /// The role to join as.
    pub role: Option<Role>,
}

/// The document as written; each field is parsed by itself, so that one bad field leaves the rest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    endpoints: Vec<serde_json::Value>,
    node_name: Option<serde_json::Value>,
    role: Option<serde_json::Value>,
}

/// A source without usable hints.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HintsError {
    /// Too long.
    #[error("hints: expected at most {MAX_LEN} bytes")]
    TooLong,
    /// Not the document.
    #[error("hints: malformed document")]
    Document(#[source] serde_json::Error),
    /// The file could not be read.
    #[error("hints: read `{FW_CFG}`")]
    Read(#[source] io::Error),
    /// The metadata service gave none.
    #[error("hints: metadata service")]
    Metadata(#[source] Box<ureq::Error>),
    /// The metadata service answered with another status than 200.
    #[error("hints: metadata service: expected status 200, got {got}")]
    Status {
        /// The status.
        got: u16,
    },
}

impl Hints {
    /// Reads a document; `ignored` is told of every part that is left out.
    ///
    /// # Errors
    /// [`HintsError`] when there is no document in it at all.
    pub fn parse(bytes: &[u8], mut ignored: impl FnMut(&str)) -> Result<Self, HintsError> {
        // Files of the firmware configuration device may carry the terminator of a C string.
        let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
        if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_LEN) {
            return Err(HintsError::TooLong);
        }
        let document: Document = serde_json::from_slice(bytes).map_err(HintsError::Document)?;
        if document.endpoints.len() > MAX_ENDPOINTS {
            ignored("endpoints after the sixteenth");
        }
        let mut hints = Self::default();
        for value in document.endpoints.into_iter().take(MAX_ENDPOINTS) {
            match parse_field(Some(value)) {
                Ok(endpoint) => hints.endpoints.extend(endpoint),
                Err(()) => ignored("a malformed endpoint"),
            }
        }
        hints.node_name = parse_field(document.node_name).unwrap_or_else(|()| {
            ignored("a malformed node name");
            None
        });
        hints.role = parse_field(document.role).unwrap_or_else(|()| {
            ignored("a malformed role");
            None
        });
        Ok(hints)
    }

    /// These hints, completed by others.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            endpoints: match self.endpoints.is_empty() {
                true => others.endpoints,
                false => self.endpoints,
            },
            node_name: self.node_name.or(others.node_name),
            role: self.role.or(others.role),
        }
    }
}

fn parse_field<T: for<'de> Deserialize<'de>>(
    value: Option<serde_json::Value>,
) -> Result<Option<T>, ()> {
    value.map(serde_json::from_value).transpose().map_err(drop)
}

/// The host's file; `None` where the machine has no such device or file.
///
/// # Errors
/// When it is there and cannot be read, or is too long.
pub fn read_fw_cfg(path: &Path) -> Result<Option<Vec<u8>>, HintsError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(HintsError::Read(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_LEN + 1)
        .read_to_end(&mut bytes)
        .map_err(HintsError::Read)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_LEN) {
        return Err(HintsError::TooLong);
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn parse(text: &str) -> (Result<Hints, HintsError>, Vec<String>) {
        let mut ignored = Vec::new();
        let hints = Hints::parse(text.as_bytes(), |what| ignored.push(what.to_owned()));
        (hints, ignored)
    }

    #[test]
    fn a_full_document() {
        let (hints, ignored) = parse(
            r#"{"endpoints":["10.0.2.2:30090","join.example.org:30090"],"node_name":"worker-0","role":"worker"}"#,
        );
        let hints = hints.unwrap();
        assert_eq!(hints.endpoints.len(), 2);
        assert_eq!(hints.node_name.unwrap().as_str(), "worker-0");
        assert_eq!(hints.role, Some(Role::Worker));
        assert!(ignored.is_empty());
    }

    #[test]
    fn bad_parts_are_left_out_and_reported() {
        let (hints, ignored) =
            parse(r#"{"endpoints":["10.0.2.2:30090",7,"x"],"node_name":"UPPER","role":"king"}"#);
        assert_eq!(hints.unwrap().endpoints.len(), 1);
        assert_eq!(ignored.len(), 4);
    }

    #[test]
    fn a_flood_of_endpoints_is_cut() {
        let flood = vec![r#""10.0.2.2:1""#; 500].join(",");
        let (hints, ignored) = parse(&format!(r#"{{"endpoints":[{flood}]}}"#));
        assert_eq!(hints.unwrap().endpoints.len(), MAX_ENDPOINTS);
        assert_eq!(ignored.len(), 1);
    }

    #[test]
    fn other_documents_are_refused() {
        let deep = "[".repeat(10_000);
        let long = " ".repeat(17_000);
        for bad in [
            "",
            "{",
            "[]",
            "7",
            "{}}",
            r#"{"debug":true}"#,
            r#"{"endpoints":7}"#,
            r#"{"role":"worker","role":"worker"}"#,
            &deep,
            &long,
        ] {
            assert!(parse(bad).0.is_err(), "{}", &bad[..bad.len().min(40)]);
        }
    }

    #[test]
    fn truncated_documents_never_panic() {
        let good = r#"{"endpoints":["10.0.2.2:30090"],"node_name":"a","role":"worker"}"#;
        for len in 0..good.len() {
            assert!(parse(&good[..len]).0.is_err(), "{len}");
        }
        assert!(Hints::parse(format!("{good}\0").as_bytes(), |_| ()).is_ok());
    }

    #[test]
    fn the_first_source_wins_field_by_field() {
        let one = parse(r#"{"node_name":"one"}"#).0.unwrap();
        let two = parse(r#"{"endpoints":["10.0.2.2:1"],"node_name":"two","role":"worker"}"#)
            .0
            .unwrap();
        let both = one.or(two);
        assert_eq!(both.node_name.unwrap().as_str(), "one");
        assert_eq!((both.endpoints.len(), both.role), (1, Some(Role::Worker)));
    }

    #[test]
    fn a_missing_file_is_no_hint_and_a_long_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("raw");
        assert!(matches!(read_fw_cfg(&path), Ok(None)));
        fs::write(&path, vec![b' '; 16 * 1024 + 1]).unwrap();
        assert!(matches!(read_fw_cfg(&path), Err(HintsError::TooLong)));
        fs::write(&path, "{}").unwrap();
        assert_eq!(read_fw_cfg(&path).unwrap().unwrap(), b"{}");
        assert!(matches!(
            read_fw_cfg(folder.path()),
            Err(HintsError::Read(_))
        ));
    }
}

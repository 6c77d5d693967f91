//! Which node this is, and with what kind of evidence it attests.

use crate::config::NodeConfig;
use evidence::{EvidenceKind, UnknownKind};
use hand_off::{AttestationKey, HandOff, ReadError};
use identity::{ClusterId, NodeName};
use serde_json::Value;
use std::{fs, io, path::Path};

/// The key of the measured command line (docs/agent.md).
const EVIDENCE: &str = "constellation.evidence";

/// Which node this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeIdentity {
    pub(crate) name: NodeName,
    pub(crate) cluster: ClusterId,
    /// The attestation key that it was admitted with, where its admitter certified one.
    pub(crate) key: Option<CertifiedKey>,
}

/// An attestation key, and its certificate as a JSON object that nobody here judges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertifiedKey {
    pub(crate) public: Vec<u8>,
    pub(crate) unique: [u8; 32],
    pub(crate) certificate: Value,
}

impl CertifiedKey {
    /// What the agent handed over. A certificate that cannot be shown is none, and no reason to stop.
    fn parse(key: AttestationKey) -> Option<Self> {
        match serde_json::from_str(&key.certificate) {
            Ok(certificate @ Value::Object(_)) => Some(Self {
                public: key.public,
                unique: key.unique,
                certificate,
            }),
            _ => {
                tracing::error!("hand-off: the AK certificate is not a JSON object");
                None
            }
        }
    }
}

/// It is not clear which node this is, or what it attests with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The command line does not say the kind of evidence, or not once.
    #[error("command line: expected `{EVIDENCE}` once, got {got} times")]
    Evidence {
        /// How often it is there.
        got: usize,
    },
    /// The hand-off cannot be read.
    #[error("cannot read the hand-off")]
    HandOff(#[source] ReadError),
    /// The command line names no kind that there is.
    #[error("command line: `{EVIDENCE}`: got `{got}`")]
    Kind {
        /// What it says.
        got: String,
        /// What it may say.
        #[source]
        source: UnknownKind,
    },
    /// The command line cannot be read.
    #[error("cannot read the command line")]
    Read(#[source] io::Error),
    /// The configuration names the node in two ways, or in none.
    #[error("`[node]`: expected `hand_off`, or both of `name` and `cluster_id`")]
    Unclear,
}

impl NodeIdentity {
    /// The node that the configuration names.
    pub(crate) fn find(config: &NodeConfig) -> Result<Self, NodeError> {
        match (&config.hand_off, &config.name, config.cluster_id) {
            (Some(folder), None, None) => {
                let hand_off = HandOff::read(folder).map_err(NodeError::HandOff)?;
                Ok(Self {
                    name: hand_off.node_name,
                    cluster: hand_off.cluster_id,
                    key: hand_off.attestation_key.and_then(CertifiedKey::parse),
                })
            }
            (None, Some(name), Some(cluster)) => Ok(Self {
                name: name.clone(),
                cluster,
                key: None,
            }),
            _ => Err(NodeError::Unclear),
        }
    }
}

/// The kind on the command line in `path`.
pub(crate) fn evidence_kind(path: &Path) -> Result<EvidenceKind, NodeError> {
    let line = fs::read(path).map_err(NodeError::Read)?;
    parse_kind(&String::from_utf8_lossy(&line))
}

/// The agent booted with this line, so that it parses; here a line is read that may be none of ours.
fn parse_kind(line: &str) -> Result<EvidenceKind, NodeError> {
    let words = line.split_ascii_whitespace();
    let pairs = words.filter_map(|word| word.split_once('='));
    let values: Vec<_> = pairs.filter(|(key, _)| *key == EVIDENCE).collect();
    match values.as_slice() {
        [(_, value)] => value.parse().map_err(|source| NodeError::Kind {
            got: (*value).to_owned(),
            source,
        }),
        others => Err(NodeError::Evidence { got: others.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_on_the_line_once() {
        for kind in EvidenceKind::ALL {
            let line = format!("quiet constellation.evidence={kind} panic=1\n");
            assert_eq!(parse_kind(&line).unwrap(), kind);
        }
        for (line, got) in [
            ("quiet panic=1", 0),
            ("constellation.evidence", 0),
            ("xconstellation.evidence=tpm", 0),
            ("constellation.evidence=tpm constellation.evidence=tpm", 2),
        ] {
            assert!(
                matches!(parse_kind(line), Err(NodeError::Evidence { got: times }) if times == got),
                "{line}"
            );
        }
        for line in ["constellation.evidence=", "constellation.evidence=TPM"] {
            assert!(matches!(parse_kind(line), Err(NodeError::Kind { .. })));
        }
    }

    #[test]
    fn the_node_is_named_in_one_way() {
        let (name, cluster_id) = ("worker-0".parse().unwrap(), ClusterId::from_bytes([7; 32]));
        let named = NodeConfig {
            hand_off: None,
            name: Some(name),
            cluster_id: Some(cluster_id),
        };
        assert_eq!(NodeIdentity::find(&named).unwrap().cluster, cluster_id);
        let both = NodeConfig {
            hand_off: Some("/run/constellation".into()),
            ..named.clone()
        };
        let half = NodeConfig {
            cluster_id: None,
            ..named
        };
        for unclear in [both, half, NodeConfig::default()] {
            let error = NodeIdentity::find(&unclear).unwrap_err();
            assert!(matches!(error, NodeError::Unclear), "{unclear:?}");
        }
        let absent = NodeConfig {
            hand_off: Some("/nonexistent".into()),
            ..NodeConfig::default()
        };
        let error = NodeIdentity::find(&absent).unwrap_err();
        assert!(matches!(error, NodeError::HandOff(_)));
    }
}

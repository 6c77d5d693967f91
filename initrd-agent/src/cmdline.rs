//! The measured command line: whose image this is, how it attests, what its root is.
//!
//! The firmware measured it, so it is trusted once a verifier compared the measurement; until then
//! a wrong one only leads to a refusal. Parsing is strict all the same: two readings of one line
//! would be two images with one meaning.

use evidence::{EvidenceKind, UnknownKind};
use owner::{KeyError, OwnerFingerprint};
use platform::verity::{MalformedRoot, VerifiedRoot};

/// All keys of ours start with this.
const PREFIX: &str = "constellation.";

/// What the agent reads from the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// Who may admit this machine.
    pub owner: OwnerFingerprint,
    /// What it attests with.
    pub evidence: EvidenceKind,
    /// Its root file system.
    pub root: VerifiedRoot,
}

/// A command line that this agent does not boot with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandLineError {
    /// Not text.
    #[error("command line: expected ASCII")]
    NotAscii,
    /// A key is there twice.
    #[error("command line: `{key}` given twice")]
    Duplicate {
        /// The key.
        key: String,
    },
    /// A key is not there.
    #[error("command line: `{key}` missing")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A key of ours that is unknown.
    #[error("command line: unknown `{key}`")]
    Unknown {
        /// The key.
        key: String,
    },
    /// The owner is not a fingerprint.
    #[error("command line: `constellation.owner`")]
    Owner(#[source] KeyError),
    /// The evidence kind is not one that this agent has.
    #[error("command line: `constellation.evidence`: got `{got}`")]
    Evidence {
        /// What it says.
        got: String,
        /// What it may say.
        #[source]
        source: UnknownKind,
    },
    /// The root is not `<data blocks>:<salt>:<root hash>`.
    #[error("command line: `constellation.root`")]
    Root(#[source] MalformedRoot),
}

impl CommandLine {
    /// Reads the keys that start with `constellation.`; the others are the kernel's.
    ///
    /// # Errors
    /// [`CommandLineError`] for a key of ours that is missing, unknown, doubled or malformed.
    pub fn parse(line: &[u8]) -> Result<Self, CommandLineError> {
        let line = std::str::from_utf8(line)
            .ok()
            .filter(|line| line.is_ascii())
            .ok_or(CommandLineError::NotAscii)?;
        let mut owner = None;
        let mut evidence = None;
        let mut root = None;
        for word in line.split_ascii_whitespace() {
            // A quoted key would be read by the kernel and not by us.
            let bare = word.trim_start_matches('"');
            if !bare.starts_with(PREFIX) {
                continue;
            }
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let slot = match key {
                "constellation.owner" => &mut owner,
                "constellation.evidence" => &mut evidence,
                "constellation.root" => &mut root,
                _ => {
                    return Err(CommandLineError::Unknown {
                        key: key.to_owned(),
                    });
                }
            };
            if slot.replace(value).is_some() {
                return Err(CommandLineError::Duplicate {
                    key: key.to_owned(),
                });
            }
        }
        let present = |value: Option<_>, key| value.ok_or(CommandLineError::Missing { key });
        Ok(Self {
            owner: present(owner, "constellation.owner")?
                .parse()
                .map_err(CommandLineError::Owner)?,
            evidence: parse_evidence(present(evidence, "constellation.evidence")?)?,
            root: present(root, "constellation.root")?
                .parse()
                .map_err(CommandLineError::Root)?,
        })
    }
}

fn parse_evidence(text: &str) -> Result<EvidenceKind, CommandLineError> {
    text.parse().map_err(|source| CommandLineError::Evidence {
        got: text.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: &str = "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f";
    const HASH: &str = "abababababababababababababababababababababababababababababababab";

    fn line(owner: &str, evidence: &str, root: &str) -> String {
        format!("console=ttyS0 {owner} quiet {evidence} {root} panic=1\n")
    }

    fn good() -> [String; 3] {
        [
            format!("constellation.owner={OWNER}"),
            "constellation.evidence=tpm".to_owned(),
            format!("constellation.root=25600:{HASH}:{HASH}"),
        ]
    }

    fn parse(keys: &[String; 3]) -> Result<CommandLine, CommandLineError> {
        CommandLine::parse(line(&keys[0], &keys[1], &keys[2]).as_bytes())
    }

    #[test]
    fn the_three_keys() {
        let parsed = parse(&good()).unwrap();
        assert_eq!(parsed.owner.as_bytes(), &[0x0f; 32]);
        assert_eq!(parsed.evidence, EvidenceKind::Tpm);
        assert_eq!(parsed.root, format!("25600:{HASH}:{HASH}").parse().unwrap());
    }

    #[test]
    fn every_kind_of_evidence_by_its_name() {
        for kind in EvidenceKind::ALL {
            let mut keys = good();
            keys[1] = format!("constellation.evidence={kind}");
            assert_eq!(parse(&keys).unwrap().evidence, kind);
        }
    }

    #[test]
    fn every_key_is_needed_once() {
        for index in 0..3 {
            let mut keys = good();
            keys[index].clear();
            assert!(matches!(
                parse(&keys),
                Err(CommandLineError::Missing { .. })
            ));
            let mut keys = good();
            keys[index] = format!("{0} {0}", keys[index]);
            assert!(matches!(
                parse(&keys),
                Err(CommandLineError::Duplicate { .. })
            ));
        }
    }

    #[test]
    fn unknown_and_disguised_keys_refuse() {
        for bad in [
            "constellation.debug=1",
            "constellation.",
            "constellation.Owner=x",
            "\"constellation.evidence=tpm\"",
            "-- constellation.shell",
        ] {
            let mut keys = good();
            keys[2] = format!("{} {bad}", keys[2]);
            assert!(
                matches!(parse(&keys), Err(CommandLineError::Unknown { .. })),
                "{bad}"
            );
        }
        assert_eq!(CommandLine::parse(b"\xff"), Err(CommandLineError::NotAscii));
    }

    #[test]
    fn malformed_values_refuse() {
        let upper = OWNER.to_uppercase();
        for bad in ["", "00", &upper, &OWNER[1..], &format!("{OWNER}00")] {
            let mut keys = good();
            keys[0] = format!("constellation.owner={bad}");
            assert!(
                matches!(parse(&keys), Err(CommandLineError::Owner(_))),
                "{bad}"
            );
        }
        for bad in [
            "",
            "TPM",
            "sev",
            "snp",
            "sev-snp,tpm",
            "sev-snp/vtpm",
            "none",
        ] {
            let mut keys = good();
            keys[1] = format!("constellation.evidence={bad}");
            assert!(
                matches!(parse(&keys), Err(CommandLineError::Evidence { .. })),
                "{bad}"
            );
        }
    }

    #[test]
    fn malformed_roots_refuse() {
        for bad in [
            "",
            "1",
            "0:00:00",
            &format!("0:{HASH}:{HASH}"),
            &format!("1:{HASH}:{HASH}:"),
        ] {
            let mut keys = good();
            keys[2] = format!("constellation.root={bad}");
            assert!(
                matches!(parse(&keys), Err(CommandLineError::Root(_))),
                "{bad}"
            );
        }
    }
}

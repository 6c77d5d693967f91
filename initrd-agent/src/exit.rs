//! Why a boot ended, as a number.
//!
//! One table, also printed in `docs/agent.md`; a test compares the two. The last console line of a
//! failed boot carries the row: `exit code=<n> reason=<name> action=<action>`.

use std::{error::Error, fmt};

/// What happens to the machine after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Trying again would end in the same place.
    PowerOff,
    /// Another boot may get further.
    Reboot,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PowerOff => "power-off",
            Self::Reboot => "reboot",
        })
    }
}

macro_rules! exit_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal, $name:literal, $action:ident;)+) => {
        /// The reasons, in the order of the boot. Numbers are never used again.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum ExitReason {
            $($(#[doc = $doc])+ $variant = $code,)+
        }

        impl ExitReason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The number.
            #[must_use]
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// The name, in kebab case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What the machine does then.
            #[must_use]
            pub const fn action(self) -> Action {
                match self {
                    $(Self::$variant => Action::$action,)+
                }
            }

            /// One sentence for the table in `docs/agent.md`.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+),)+
                }
            }
        }
    };
}

exit_reasons! {
    /// The agent failed in a way that it should not: a bug.
    Panic = 1, "panic", Reboot;
    /// proc, sys, dev or run could not be mounted.
    Mount = 10, "mount", PowerOff;
    /// A listed kernel module is missing or was refused.
    Modules = 11, "modules", PowerOff;
    /// The measured command line is not one that this agent boots with.
    CommandLine = 12, "command-line", PowerOff;
    /// No disk for the root file system appeared, or more than one.
    RootMissing = 20, "root-missing", Reboot;
    /// The root file system does not match the measured root hash.
    RootRefused = 21, "root-refused", PowerOff;
    /// The kernel refused a socket or a link; a silent network is waited for instead.
    Network = 30, "network", Reboot;
    /// No state disk appeared, or more than one.
    StateDiskMissing = 40, "state-disk-missing", Reboot;
    /// The state disk cannot be one: too small, in use, or it holds data of somebody else.
    StateDiskUnusable = 41, "state-disk-unusable", PowerOff;
    /// The state disk could not be read or written.
    StateDiskFailed = 42, "state-disk-failed", Reboot;
    /// There is no device for the measured kind of evidence, or it failed.
    Attester = 50, "attester", Reboot;
    /// A server that acts for the owner refused this node.
    Refused = 51, "refused", PowerOff;
    /// The host kept the SNP firmware busy for longer than the agent asks again.
    EvidenceThrottled = 52, "evidence-throttled", Reboot;
    /// The SNP device did not answer in time; the process that asked it was killed.
    EvidenceStalled = 53, "evidence-stalled", Reboot;
    /// The SNP firmware, the host or the driver refused to make a report.
    EvidenceRefused = 54, "evidence-refused", PowerOff;
    /// The SNP device answered with something that is no report.
    EvidenceMalformed = 55, "evidence-malformed", PowerOff;
    /// The header does not open with the released key, or is another cluster's or node's.
    HeaderRefused = 60, "header-refused", PowerOff;
    /// The header of the state disk is older than the server's record of it.
    HeaderTooOld = 61, "header-too-old", PowerOff;
    /// The new state disk could not be formatted.
    Format = 62, "format", Reboot;
    /// A mapping of the state disk exists already, or a live table or superblock differs from the one asked for.
    MappingDiffers = 63, "mapping-differs", PowerOff;
    /// The state disk could not be mapped.
    Mapping = 64, "mapping", Reboot;
    /// The header's join was never committed; it is wiped and the next boot joins as a new node.
    StartOver = 65, "start-over", Reboot;
    /// An init was asked for on a disk that another one made, or whose init is over.
    InitRefused = 66, "init-refused", PowerOff;
    /// PCR 15 could not be extended.
    Latch = 70, "latch", Reboot;
    /// The hand-off could not be written.
    HandOff = 71, "hand-off", Reboot;
    /// The verified root could not become the root, or its init did not start.
    SwitchRoot = 72, "switch-root", PowerOff;
}

/// A failed boot: the row of the table, and the cause for the console.
#[derive(Debug)]
pub struct Failure {
    /// The row.
    pub reason: ExitReason,
    /// The cause, printed as a chain before the last line.
    pub cause: Box<dyn Error>,
}

/// Gives an error its row: `step().map_err(exits(ExitReason::Mount))?`.
pub fn exits<E: Into<Box<dyn Error>>>(reason: ExitReason) -> impl FnOnce(E) -> Failure {
    move |cause| Failure {
        reason,
        cause: cause.into(),
    }
}

/// An error and its sources, joined by colons, printable characters only: part of it may come
/// from a peer, and the console must stay one line a step.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    let printable = |c: char| if c.is_control() { '?' } else { c };
    text.chars().map(printable).take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_ascending() {
        assert!(
            ExitReason::ALL
                .windows(2)
                .all(|w| w[0].code() < w[1].code())
        );
        let mut names: Vec<_> = ExitReason::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ExitReason::ALL.len());
        for name in names {
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{name}"
            );
        }
    }

    #[test]
    fn the_documentation_has_the_same_table() {
        let docs = include_str!("../../docs/agent.md");
        let documented: Vec<_> = docs
            .lines()
            .filter(|line| {
                line.starts_with("| ") && line[2..].starts_with(|c: char| c.is_ascii_digit())
            })
            .filter(|line| line.contains("power-off") || line.contains("reboot"))
            .collect();
        let expected: Vec<_> = ExitReason::ALL
            .iter()
            .map(|reason| {
                let meaning = reason.meaning().trim();
                let (code, name, action) = (reason.code(), reason.name(), reason.action());
                format!("| {code} | `{name}` | {action} | {meaning} |")
            })
            .collect();
        assert_eq!(documented, expected);
    }

    #[test]
    fn chains_stay_on_one_line() {
        let text = chain(&std::io::Error::other("a\nb\x1b[31m"));
        assert_eq!(text, "a?b?[31m");
        assert!(
            chain(&std::io::Error::other("é".repeat(1000)))
                .chars()
                .count()
                <= 500
        );
    }
}

use alloc::{string::String, vec::Vec};
use core::fmt;
use identity::{DiskId, Generation, KeyVersion, NodeName, Role};
use serde::{Deserialize, Deserializer, Serialize};

/// What happened, when, to whom. Without the time it is a [`RecordEvent`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Milliseconds since 1970 by the clock of the service, which is the host's clock.
    pub time_ms: u64,
    /// The rest.
    pub event: RecordEvent,
}

/// What happened. Only texts that the peer chose are bounded and cleaned; the rest has types.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordEvent {
    /// What was done or refused.
    pub action: Action,
    /// Whether it was done.
    pub outcome: Outcome,
    /// What was called, as `IssueJoinTicket` or `GetDataKey`, or the operator's verb.
    pub request: Text,
    /// The admission path (`join`, `rejoin`, …) or the caller of an internal service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Text>,
    /// The node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Its role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The state disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskId>,
    /// The attested identity, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attester: Option<Text>,
    /// The image that was appraised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Text>,
    /// The generation recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// The version of the key released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_version: Option<KeyVersion>,
    /// The data key's id, where it is not the state disk's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Text>,
    /// The checks that failed, at most [`RecordEvent::MAX_CHECKS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
}

impl RecordEvent {
    /// More failed checks than this are cut off: a line is bounded, and the first ones say enough.
    pub const MAX_CHECKS: usize = 16;

    /// An event with everything optional left out.
    #[must_use]
    pub fn new(action: Action, outcome: Outcome, request: &str) -> Self {
        Self {
            action,
            outcome,
            request: Text::new(request),
            path: None,
            node: None,
            role: None,
            disk: None,
            attester: None,
            image: None,
            generation: None,
            key_version: None,
            key: None,
            checks: Vec::new(),
        }
    }
}

/// The four kinds of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The operator acted on the store.
    OperatorAction,
    /// A record changed without a release, as by a Commit.
    RecordChange,
    /// A request was refused; [`Outcome`] has the class.
    Refusal,
    /// A key leaves the service.
    Release,
}

/// How it ended: done, or the class of the refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was done.
    Done,
    /// A fault of our own.
    Internal,
    /// The peer's message made no sense.
    Malformed,
    /// Policy says no.
    Refused,
    /// Not now.
    Unavailable,
}

/// One check that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Its name, as `pcr-11` or `attester`.
    pub check: Text,
    /// What it should have been.
    pub expected: Text,
    /// What it was.
    pub got: Text,
}

impl Check {
    /// A failed check; the texts are bounded and cleaned.
    #[must_use]
    pub fn new(check: &str, expected: impl fmt::Display, got: impl fmt::Display) -> Self {
        Self {
            check: Text::new(check),
            expected: Text::from_display(expected),
            got: Text::from_display(got),
        }
    }
}

/// At most [`Text::MAX_LEN`] printable ASCII characters; anything else in it was replaced by `?`,
/// anything beyond cut off. A peer can neither break a line nor fill the disk with one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Text(String);

impl Text {
    /// Room for two SHA-256 digests in hexadecimal.
    pub const MAX_LEN: usize = 128;

    /// Cleans and cuts `text`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let clean = |c: char| {
            if c == ' ' || c.is_ascii_graphic() {
                c
            } else {
                '?'
            }
        };
        Self(text.chars().take(Self::MAX_LEN).map(clean).collect())
    }

    /// Cleans and cuts what `value` displays, without building a longer text first.
    #[must_use]
    pub fn from_display(value: impl fmt::Display) -> Self {
        let mut bounded = Bounded(String::new());
        // The writer fails only to stop an overlong text, whose beginning is what we want.
        let _cut = fmt::write(&mut bounded, format_args!("{value}"));
        Self::new(&bounded.0)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let cleaned = Self::new(&text);
        if cleaned.0 == text {
            Ok(cleaned)
        } else {
            Err(serde::de::Error::custom(
                "expected at most 128 printable ASCII characters",
            ))
        }
    }
}

struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.0.chars().count() >= Text::MAX_LEN {
                return Err(fmt::Error);
            }
            self.0.push(c);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn hostile_text_is_cut_and_cleaned() {
        assert_eq!(Text::new("a\nb\u{1b}\u{e4}").as_str(), "a?b??");
        assert_eq!(Text::new(&"x".repeat(1000)).as_str().len(), Text::MAX_LEN);
        assert_eq!(
            Text::from_display("\u{e4}".repeat(1000)).as_str().len(),
            Text::MAX_LEN
        );
        assert_eq!(Text::from_display(7).as_str(), "7");
    }

    #[test]
    fn uncleaned_text_is_not_parsed() {
        for bad in [String::from("\"\\n\""), format!("\"{}\"", "x".repeat(129))] {
            assert!(serde_json::from_str::<Text>(&bad).is_err(), "{bad}");
        }
    }
}

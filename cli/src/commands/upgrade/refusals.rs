//! What the join services said about machines that they refused: their log, through the API server.

use kube::{ResourceExt as _, api::LogParams};
use serde::Deserialize;
use std::{collections::BTreeSet, time::Instant};

use super::replicas;
use crate::kubernetes::Cluster;

/// What is read of each log at a time: refusals are a few hundred bytes.
const MAX_LOG: i64 = 256 << 10;

/// The most refusals that are told of one wait.
const MAX_TOLD: usize = 32;

/// Refusals since a moment, each told once.
pub(super) struct Refusals {
    since: Instant,
    told: BTreeSet<String>,
}

impl Refusals {
    pub(super) fn from_now() -> Self {
        Self {
            since: Instant::now(),
            told: BTreeSet::new(),
        }
    }

    /// What was told so far.
    pub(super) fn told(self) -> Vec<String> {
        self.told.into_iter().collect()
    }

    /// Those that were not told yet. A log that cannot be read tells nothing; nothing rests on it.
    pub(super) async fn not_told(&mut self, cluster: &Cluster) -> Vec<String> {
        let pods = replicas::pods(cluster);
        let since = i64::try_from(self.since.elapsed().as_secs()).unwrap_or(i64::MAX);
        let parameters = LogParams {
            since_seconds: Some(since.saturating_add(1)),
            limit_bytes: Some(MAX_LOG),
            ..LogParams::default()
        };
        let mut new = Vec::new();
        for pod in replicas::running(&pods).await.unwrap_or_default() {
            let log = pods.logs(&pod.name_any(), &parameters).await;
            for line in log.unwrap_or_default().lines().filter_map(parse) {
                if self.told.len() < MAX_TOLD && self.told.insert(line.clone()) {
                    new.push(line);
                }
            }
        }
        new
    }
}

/// A line of the join service's log, JSON by `tracing`.
#[derive(Deserialize)]
struct Line {
    message: String,
    #[serde(default)]
    error: String,
    #[serde(default)]
    attester: String,
    #[serde(default)]
    check: String,
    #[serde(default)]
    expected: String,
    #[serde(default)]
    got: String,
}

fn parse(line: &str) -> Option<String> {
    let line: Line = serde_json::from_str(line).ok()?;
    let machine = line.attester.get(..16).unwrap_or(&line.attester);
    let said = match line.message.as_str() {
        "check failed" => format!(
            "{}: expected {}, got {}",
            line.check, line.expected, line.got
        ),
        "appraisal refused" => line.error,
        _ => return None,
    };
    let text = format!("machine {machine} is refused: {said}");
    Some(text.chars().filter(|c| !c.is_control()).take(500).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_is_told_and_nothing_else() {
        let line = r#"{"timestamp":"t","level":"WARN","message":"check failed","attester":"0123456789abcdef0123",
            "check":"PCR 11","expected":"aa","got":"bb\u001b[2J","target":"x"}"#;
        let told = parse(line).unwrap();
        assert_eq!(
            told,
            "machine 0123456789abcdef is refused: PCR 11: expected aa, got bb[2J"
        );
        assert_eq!(parse("no json"), None);
        assert_eq!(parse(r#"{"message":"reloaded"}"#), None);
    }
}

//! What differs between two versions of a document, field by field.

use admission::RecordState;
use appraisal::document::{ImageDocument, ReferenceValuesDocument};
use identity::{NodeName, Role};
use serde::Serialize;
use serde_json::Value;
use std::{collections::BTreeSet, fmt};

use crate::kubernetes::Member;

/// The longest value that is shown whole: a launch measurement has 96 digits, a certificate is longer.
const MAX_VALUE: usize = 128;

/// A value of a field that one version has and the other does not.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    change: Direction,
    field: String,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Added,
    Removed,
}

/// What differs, the order of lists aside. `events` decide nothing and are left out.
pub(super) fn between(before: &Value, after: &Value) -> Vec<Change> {
    let (before, after) = (fields(before), fields(after));
    let change = |change| {
        move |(field, value): &(String, String)| Change {
            change,
            field: field.clone(),
            value: shortened(value),
        }
    };
    let removed = before.difference(&after).map(change(Direction::Removed));
    let added = after.difference(&before).map(change(Direction::Added));
    removed.chain(added).collect()
}

/// Every scalar with its place. Elements of a list are known by their name where they have one.
fn fields(document: &Value) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    collect(String::new(), document, &mut found);
    found
}

fn collect(place: String, value: &Value, found: &mut BTreeSet<(String, String)>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let inner = match place.as_str() {
                    "" => key.clone(),
                    _ => format!("{place}.{key}"),
                };
                if !matches!(key.as_str(), "serial" | "events") {
                    collect(inner, value, found);
                }
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                let name = value.get("name").or_else(|| value.get("product"));
                let inner = match (name.and_then(Value::as_str), value) {
                    (Some(name), _) => format!("{place}[{name}]"),
                    (None, Value::Object(_) | Value::Array(_)) => format!("{place}[{index}]"),
                    (None, _) => place.clone(),
                };
                collect(inner, value, found);
            }
        }
        Value::String(text) => drop(found.insert((place, text.clone()))),
        other => drop(found.insert((place, other.to_string()))),
    }
}

/// Certificates differ in their middle: their first line is shown with a hash of the whole.
fn shortened(value: &str) -> String {
    if value.len() <= MAX_VALUE {
        return value.to_owned();
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, value.as_bytes());
    let first = value.lines().next().unwrap_or_default();
    let first: String = first.chars().take(MAX_VALUE).collect();
    format!("{first} (SHA-256 {})", hex::encode(digest))
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.change {
            Direction::Added => '+',
            Direction::Removed => '-',
        };
        write!(f, "{sign} {} = {}", self.field, self.value)
    }
}

/// A node that new reference values would refuse at its next boot.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct LockedOut {
    pub(super) node: NodeName,
    pub(super) image: String,
    reason: String,
}

impl fmt::Display for LockedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.node, self.image, self.reason)
    }
}

/// The nodes that `before` accepts and `after` does not, by the image that each was admitted with last.
pub(super) fn locked_out(
    members: &[Member],
    before: &ReferenceValuesDocument,
    after: &ReferenceValuesDocument,
) -> Vec<LockedOut> {
    let records = members.iter().filter_map(|member| member.record.as_ref());
    let records = records.filter(|record| record.state == RecordState::Active);
    let locked_out = records.filter_map(|record| {
        Some(LockedOut {
            node: record.node.clone(),
            image: record.image.clone(),
            reason: lock_out(&record.image, record.role, before, after)?,
        })
    });
    locked_out.collect()
}

/// Why a node of this role that was admitted with this image is not any more. A node that was made by init, or adopted,
/// has a record without image: it may run any of its role.
fn lock_out(
    image: &str,
    role: Role,
    before: &ReferenceValuesDocument,
    after: &ReferenceValuesDocument,
) -> Option<String> {
    let loses = |old: &ImageDocument| refusal(old, named(after, &old.name), role);
    if !image.is_empty() {
        return loses(named(before, image)?);
    }
    let mut images = before.images.iter().filter(|old| old.roles.contains(&role));
    images.find_map(|old| {
        let reason = loses(old)?;
        Some(format!(
            "its record has no image; if it runs {}: {reason}",
            old.name
        ))
    })
}

pub(super) fn named<'a>(
    document: &'a ReferenceValuesDocument,
    name: &str,
) -> Option<&'a ImageDocument> {
    document.images.iter().find(|image| image.name == name)
}

fn refusal(old: &ImageDocument, new: Option<&ImageDocument>, role: Role) -> Option<String> {
    let Some(new) = new else {
        return Some("the image is removed".to_owned());
    };
    if old.roles.contains(&role) && !new.roles.contains(&role) {
        return Some(format!("the image is not for role {role} any more"));
    }
    let value = |image| serde_json::to_value(image).unwrap_or_default();
    let changes = between(&value(old), &value(new));
    let gone = changes
        .iter()
        .find(|change| change.change == Direction::Removed && !change.field.starts_with("roles"))?;
    Some(format!("values of {} are removed", gone.field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_difference_names_the_image_and_the_register() {
        let before = json!({"serial": 1, "images": [
            {"name": "v1", "roles": ["worker"], "pcrs": {"4": ["aa"], "11": ["bb", "cc"]}},
        ]});
        let after = json!({"serial": 2, "images": [
            {"name": "v2", "roles": ["worker"], "pcrs": {"4": ["aa"]}, "events": {"4": []}},
            {"name": "v1", "roles": ["worker"], "pcrs": {"4": ["aa"], "11": ["cc", "dd"]}},
        ]});
        let lines: Vec<_> = between(&before, &after)
            .iter()
            .map(ToString::to_string)
            .collect();
        let expected = [
            "- images[v1].pcrs.11 = bb",
            "+ images[v1].pcrs.11 = dd",
            "+ images[v2].name = v2",
            "+ images[v2].pcrs.4 = aa",
            "+ images[v2].roles = worker",
        ];
        assert_eq!(lines, expected);
        assert!(between(&after, &after).is_empty());
    }

    #[test]
    fn certificates_that_begin_alike_are_told_apart() {
        let policy = |fill: &str| json!({"ca": format!("-----BEGIN\n{}", fill.repeat(200))});
        let changes = between(&policy("a"), &policy("b"));
        let [one, other] = &changes[..] else {
            panic!("{changes:?}");
        };
        assert!(one.value.starts_with("-----BEGIN (SHA-256 "));
        assert_ne!(one.value, other.value);
    }

    #[test]
    fn who_loses_its_values_its_role_or_its_image_is_locked_out() {
        let image = |roles: &[&str], pcr: &[&str]| -> ImageDocument {
            let digit = pcr.iter().map(|digit| digit.repeat(64));
            let pcr: Vec<_> = digit.collect();
            let image = json!({"name": "v1", "roles": roles, "pcrs": {"11": pcr}});
            serde_json::from_value(image).unwrap()
        };
        let old = image(&["worker", "control-plane"], &["1", "2"]);
        let refused = |new: Option<&ImageDocument>| refusal(&old, new, Role::Worker);
        assert_eq!(refused(Some(&old)), None);
        let wider = image(&["worker"], &["3", "2", "1"]);
        assert_eq!(refused(Some(&wider)), None);
        let narrower = image(&["worker"], &["2"]);
        assert!(refused(Some(&narrower)).unwrap().contains("pcrs.11"));
        let other = image(&["control-plane"], &["1", "2"]);
        assert!(refused(Some(&other)).unwrap().contains("role worker"));
        assert!(refused(None).unwrap().contains("removed"));
        let values = |images: &[&ImageDocument]| ReferenceValuesDocument {
            version: 1,
            serial: 1,
            images: images.iter().copied().cloned().collect(),
        };
        let (before, after) = (values(&[&old]), values(&[]));
        for (admitted_with, is_locked_out) in [("v1", true), ("", true), ("v0", false)] {
            let reason = lock_out(admitted_with, Role::ControlPlane, &before, &after);
            assert_eq!(reason.is_some(), is_locked_out, "{admitted_with:?}");
        }
        assert_eq!(lock_out("", Role::Worker, &before, &before), None);
    }
}

//! Every key of the services' configuration files is in the operators' documentation. What keys there are
//! is asked of the parsers: each names what it would have taken.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use serde::de::DeserializeOwned;
use std::{fs, path::Path};

/// A key that no section has.
const UNKNOWN: &str = "no_such_key";

/// What the parser says of a section with a key that it has not, and what it would have taken.
fn taken<T: DeserializeOwned>(section: &str, known: &str) -> Option<(String, Vec<String>)> {
    let headers = match section {
        "" => vec![String::new()],
        _ => vec![format!("[{section}]"), format!("[[{section}]]")],
    };
    headers.iter().find_map(|header| {
        let error = toml::from_str::<T>(&format!("{header}\n{known}\n{UNKNOWN} = 1\n")).err();
        let error = error.unwrap_or_else(|| panic!("[{section}] takes any key"));
        let (what, taken) = error.message().split_once(", expected ")?;
        what.contains(UNKNOWN).then(|| {
            let names = taken.split('`').skip(1).step_by(2);
            (what.to_owned(), names.map(str::to_owned).collect())
        })
    })
}

/// All keys with values, as `section.key`.
fn all_keys<T: DeserializeOwned>(section: &str, found: &mut Vec<String>) {
    // A section of several kinds wants to know its kind first.
    let kind = format!("kind = \"{UNKNOWN}\"");
    let kinds = match taken::<T>(section, &kind) {
        Some((what, kinds)) if what.contains("unknown variant") && !section.is_empty() => kinds,
        _ => Vec::new(),
    };
    let kinds = kinds.iter().map(|kind| format!("kind = \"{kind}\""));
    let mut keys: Vec<String> = kinds
        .chain([String::new()])
        .filter_map(|kind| taken::<T>(section, &kind))
        // A value that is one of several words, or a source of a secret, is documented as a whole.
        .filter(|(what, _)| what.contains("unknown field"))
        .flat_map(|(_, keys)| keys)
        .collect();
    keys.sort();
    keys.dedup();
    if keys.is_empty() {
        found.push(section.to_owned());
    }
    for key in keys {
        match section {
            "" => all_keys::<T>(&key, found),
            _ => all_keys::<T>(&format!("{section}.{key}"), found),
        }
    }
}

/// Fails unless each key is written in the documentation, alone or with the last of its sections.
fn assert_documented<T: DeserializeOwned>(page: &str, at_least: usize) {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let text = fs::read_to_string(docs.join(page)).unwrap();
    let mut found = Vec::new();
    all_keys::<T>("", &mut found);
    assert!(found.len() >= at_least, "{found:?}");
    let is_documented = |key: &&String| {
        let mut suffix = key.as_str();
        loop {
            if text.contains(&format!("`{suffix}`")) {
                return true;
            }
            match suffix.split_once('.') {
                Some((_, rest)) if rest.contains('.') => suffix = rest,
                _ => return false,
            }
        }
    };
    let missing: Vec<_> = found.iter().filter(|key| !is_documented(key)).collect();
    assert!(missing.is_empty(), "not in docs/{page}: {missing:?}");
}

#[test]
fn of_the_key_service() {
    assert_documented::<key_service::Config>("operate-services.md", 20);
}

#[test]
fn of_the_join_service() {
    assert_documented::<join_service::Config>("operate-services.md", 30);
}

#[test]
fn of_the_verification_service() {
    assert_documented::<verification_service::Config>("verify.md", 10);
}

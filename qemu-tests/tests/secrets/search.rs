//! Looks for secrets in bytes, in every form that a careless program gives them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Half of a key is as bad as a whole one, so secrets are looked for in pieces of so many bytes.
const PIECE: usize = 16;

/// How much of a file is searched at a time, unless it is all zero; longer than any form of a piece.
const CHUNK: usize = 16 << 10;

/// Secrets by name, ready to be looked for.
pub(crate) struct Search {
    patterns: Vec<Pattern>,
    /// Which two bytes some pattern begins with.
    begins: Vec<bool>,
    longest: usize,
}

struct Pattern {
    name: String,
    bytes: Vec<u8>,
}

impl Search {
    /// Looks for these secrets. What is left beyond whole pieces is not looked for.
    pub(crate) fn new(secrets: &[(String, Vec<u8>)]) -> Self {
        let mut patterns = Vec::new();
        for (name, secret) in secrets {
            for piece in secret.chunks_exact(PIECE) {
                let pattern = |bytes| Pattern {
                    name: name.clone(),
                    bytes,
                };
                patterns.extend(forms(piece).into_iter().map(pattern));
            }
        }
        let mut begins = vec![false; 1 << 16];
        for pattern in &patterns {
            if let [first, second, ..] = pattern.bytes.as_slice()
                && let Some(begin) = begins.get_mut(pair(*first, *second))
            {
                *begin = true;
            }
        }
        let lengths = patterns.iter().map(|pattern| pattern.bytes.len());
        Self {
            longest: lengths.max().unwrap_or_default(),
            patterns,
            begins,
        }
    }

    /// The names of the secrets that are in these bytes.
    pub(crate) fn find(&self, bytes: &[u8]) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (at, two) in bytes.windows(2).enumerate() {
            let [first, second] = *two else { continue };
            if self.begins.get(pair(first, second)) == Some(&true) {
                let rest = bytes.get(at..).unwrap_or_default();
                let here = self.patterns.iter().filter(|p| rest.starts_with(&p.bytes));
                found.extend(here.map(|pattern| pattern.name.clone()));
            }
        }
        found
    }

    /// The same for a file of any size; a disk image is mostly zeros.
    pub(crate) fn find_in_file(&self, path: &Path) -> Result<BTreeSet<String>> {
        let context = || format!("read {}", path.display());
        let mut file = File::open(path).with_context(context)?;
        let zeros = vec![0; CHUNK + self.longest];
        let mut found = BTreeSet::new();
        let mut window = Vec::new();
        loop {
            let kept = window.len().min(self.longest);
            window.drain(..window.len() - kept);
            let mut chunk = file.by_ref().take(CHUNK as u64);
            if chunk.read_to_end(&mut window).with_context(context)? == 0 {
                return Ok(found);
            }
            if !zeros.starts_with(&window) {
                found.extend(self.find(&window));
            }
        }
    }
}

fn pair(first: u8, second: u8) -> usize {
    usize::from(u16::from_be_bytes([first, second]))
}

/// A piece as it is, in hexadecimal, as `{:?}` prints it, and in base64 of both alphabets wherever
/// in a longer text it begins.
fn forms(piece: &[u8]) -> Vec<Vec<u8>> {
    let numbers: Vec<String> = piece.iter().map(ToString::to_string).collect();
    let mut forms = vec![
        piece.to_vec(),
        hex::encode(piece).into_bytes(),
        hex::encode_upper(piece).into_bytes(),
        numbers.join(", ").into_bytes(),
        numbers.join(",").into_bytes(),
    ];
    for before in 0..3 {
        let longer = [&vec![0; before], piece].concat();
        // Only the digits that are of the piece alone: six bits each.
        let first = (8 * before).div_ceil(6);
        let end = 8 * longer.len() / 6;
        for encoded in [
            STANDARD_NO_PAD.encode(&longer),
            URL_SAFE_NO_PAD.encode(&longer),
        ] {
            let own = encoded.get(first..end).unwrap_or_default();
            forms.push(own.as_bytes().to_vec());
        }
    }
    forms
}

#[test]
fn every_form_of_a_secret_is_found_anywhere_and_nothing_else_is() -> Result<()> {
    let secret: Vec<u8> = (0..32).map(|byte| byte * 7 + 3).collect();
    let search = Search::new(&[("secret".to_owned(), secret.clone())]);
    let second_half = secret.get(16..).unwrap_or_default();
    let embedded = |before: usize| [&vec![0xaa; before], secret.as_slice(), &[0xbb; 5]].concat();
    let mut leaks = vec![
        embedded(1),
        second_half.to_vec(),
        format!("key={}", hex::encode(&secret)).into_bytes(),
        hex::encode_upper(&secret).into_bytes(),
        format!("DataKey({secret:?})").into_bytes(),
        serde_json::to_vec(&secret)?,
    ];
    for before in 0..6 {
        leaks.push(STANDARD_NO_PAD.encode(embedded(before)).into_bytes());
        leaks.push(URL_SAFE_NO_PAD.encode(embedded(before)).into_bytes());
    }
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("file");
    for leak in &leaks {
        assert_eq!(search.find(leak).len(), 1, "{leak:?}");
        // Across the border of two chunks as well.
        std::fs::write(&path, [&vec![0; CHUNK - 9], leak.as_slice()].concat())?;
        assert_eq!(search.find_in_file(&path)?.len(), 1, "{leak:?}");
    }
    let other: Vec<u8> = secret.iter().map(|byte| byte ^ 1).collect();
    std::fs::write(
        &path,
        [other.as_slice(), hex::encode(&other).as_bytes()].concat(),
    )?;
    assert!(search.find_in_file(&path)?.is_empty());
    Ok(())
}

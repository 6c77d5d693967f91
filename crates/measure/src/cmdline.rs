//! The kernel command line: which texts a UKI of ours may carry, and its owner.

use alloc::{string::String, vec::Vec};
use core::fmt;
use thiserror::Error;

/// The kernel's own limit on x86 (`COMMAND_LINE_SIZE`).
pub const MAX_LEN: usize = 2048;

/// Key of the word that binds an image to its owner (docs/protocol.md).
pub const OWNER: &str = "constellation.owner";

/// Why a text is not a command line of ours. Class: malformed, except `SecondOwner`: refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CmdlineError {
    /// Something else than printable ASCII words with one space between them. Quotes are out, too:
    /// the kernel and other readers split them differently.
    #[error("byte {offset} is not part of a plain word")]
    Byte {
        /// Where in the text.
        offset: usize,
    },
    /// Longer than the kernel reads.
    #[error("{got} bytes are more than the kernel reads: {MAX_LEN}")]
    Length {
        /// Bytes in the text.
        got: usize,
    },
    /// The owner occurs more than once, so which one counts is open.
    #[error("`{OWNER}` occurs more than once")]
    SecondOwner,
}

/// A command line of plain words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmdline(String);

impl Cmdline {
    /// Parses the content of a `.cmdline` section.
    ///
    /// # Errors
    /// [`CmdlineError`].
    pub fn parse(text: &[u8]) -> Result<Self, CmdlineError> {
        if text.len() > MAX_LEN {
            return Err(CmdlineError::Length { got: text.len() });
        }
        let mut previous = b' ';
        for (offset, byte) in text.iter().copied().enumerate() {
            let space = byte == b' ' && previous != b' ' && offset.saturating_add(1) < text.len();
            if !space && (!byte.is_ascii_graphic() || matches!(byte, b'"' | b'\'' | b'\\')) {
                return Err(CmdlineError::Byte { offset });
            }
            previous = byte;
        }
        let cmdline = Self(text.iter().copied().map(char::from).collect());
        if cmdline.values(OWNER).count() > 1 {
            return Err(CmdlineError::SecondOwner);
        }
        Ok(cmdline)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value of the first word `key=value`.
    #[must_use]
    pub fn value<'a>(&'a self, key: &'a str) -> Option<&'a str> {
        self.values(key).next()
    }

    /// The same command line for another owner: its word is replaced where it stands, or added at
    /// the end.
    ///
    /// # Errors
    /// [`CmdlineError::Length`] if the result is too long.
    pub fn with_owner(&self, fingerprint: &[u8; 32]) -> Result<Self, CmdlineError> {
        let owner = alloc::format!("{OWNER}={}", hex::encode(fingerprint));
        let is_owner = |word: &&str| word.split_once('=').is_some_and(|(key, _)| key == OWNER);
        let mut words: Vec<&str> = self.words().collect();
        match words.iter_mut().find(|word| is_owner(word)) {
            Some(word) => *word = &owner,
            None => words.push(&owner),
        }
        Self::parse(words.join(" ").as_bytes())
    }

    /// As the stub hands it to the kernel: UTF-16, little-endian, with a terminating zero.
    #[must_use]
    pub fn load_options(&self) -> Vec<u8> {
        let units = self.0.encode_utf16().chain([0]);
        units.flat_map(u16::to_le_bytes).collect()
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        self.0.split(' ').filter(|word| !word.is_empty())
    }

    fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let pairs = self.words().filter_map(|word| word.split_once('='));
        pairs
            .filter(move |(name, _)| *name == key)
            .map(|(_, value)| value)
    }
}

impl fmt::Display for Cmdline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

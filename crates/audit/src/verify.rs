use crate::{
    chain::{ChainId, Checkpoint, Head},
    line::{Entry, Line, LineError, VERSION},
};
use alloc::{collections::BTreeMap, vec::Vec};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

/// What [`verify`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Report {
    /// The chains, in the order in which they begin, up to the fault.
    pub chains: Vec<ChainReport>,
    /// The first bad line; `None` when the log is whole.
    pub fault: Option<Fault>,
}

/// One chain of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainReport {
    /// The sequence number of the first line shown. Not 0 where earlier files were left out.
    pub first_seq: u64,
    /// Its last line.
    pub head: Head,
    /// How many records it has.
    pub records: u64,
    /// How many lines follow its last checkpoint: whoever can write the file can cut these.
    pub unsigned: u64,
}

/// The first line that is not as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("audit line {line}: {flaw}")]
pub struct Fault {
    /// Counted from 1; one more than there are lines where the end is missing.
    pub line: usize,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// Lines are missing before this one, or after the last.
    #[error("cut, expected sequence number {expected}")]
    Cut {
        /// The first that is missing.
        expected: u64,
    },
    /// Not a line of this format.
    #[error("malformed")]
    Malformed,
    /// The line is there, at another place.
    #[error("reordered, expected sequence number {expected}, got {got}")]
    Reordered {
        /// What belongs here.
        expected: u64,
        /// What is here.
        got: u64,
    },
    /// The line or one before it has other content than when it was written.
    #[error("rewritten")]
    Rewritten,
    /// The chain does not begin with a signed start.
    #[error("not signed, expected a checkpoint as the second line of its chain")]
    Unsigned,
    /// A checkpoint that none of the audit keys signed.
    #[error("wrong signature")]
    WrongSignature,
}

/// Checks a log, the files of its rotation one after the other. `keys` are the audit keys that may
/// have signed (Ed25519, raw), `known` the heads that were seen earlier and must still be there.
pub fn verify<'a>(
    lines: impl IntoIterator<Item = &'a str>,
    keys: &[[u8; 32]],
    known: &[Head],
) -> Report {
    let lines: Vec<&str> = lines.into_iter().collect();
    let mut verifier = Verifier {
        lines: &lines,
        keys,
        known,
        chains: Vec::new(),
    };
    let fault = verifier.run().err();
    Report {
        chains: verifier.chains,
        fault,
    }
}

/// The head of the last line of a log, for [`crate::Chain::start`]. It only links chains:
/// [`verify`] is what checks them.
#[must_use]
pub fn last_head(line: &str) -> Option<Head> {
    Line::parse(line).ok().map(|line| line.head())
}

struct Verifier<'a> {
    lines: &'a [&'a str],
    keys: &'a [[u8; 32]],
    known: &'a [Head],
    chains: Vec<ChainReport>,
}

impl Verifier<'_> {
    fn run(&mut self) -> Result<(), Fault> {
        for (index, text) in self.lines.iter().enumerate() {
            let number = index.saturating_add(1);
            self.line(index, text)
                .map_err(|flaw| Fault { line: number, flaw })?;
        }
        let end = self.lines.len().saturating_add(1);
        self.all_known_seen()
            .map_err(|flaw| Fault { line: end, flaw })
    }

    fn line(&mut self, index: usize, text: &str) -> Result<(), Flaw> {
        let line = Line::parse(text).map_err(Flaw::from)?;
        if self.known.iter().any(|k| contradicts(k, &line.head())) {
            return Err(Flaw::Rewritten);
        }
        let found = self
            .chains
            .iter()
            .rposition(|c| c.head.chain == line.body.chain);
        match found {
            Some(at) => self.follow(at, &line, index),
            None => self.begin(&line, index),
        }
    }

    /// The first line of a chain that is shown: its start, or the start of a rotated file.
    fn begin(&mut self, line: &Line, index: usize) -> Result<(), Flaw> {
        match &line.body.entry {
            Entry::Started {
                version, previous, ..
            } => {
                if *version != VERSION || line.body.seq != 0 || line.body.prev != [0; 32] {
                    return Err(Flaw::Malformed);
                }
                self.linked(previous.as_ref())?;
            }
            // Earlier files were left out, which is legal only at the very beginning.
            Entry::Rotated { .. } if index == 0 => {}
            _ => return Err(self.misplaced(line, 0, index)),
        }
        self.chains.push(ChainReport {
            first_seq: line.body.seq,
            head: line.head(),
            records: 0,
            unsigned: 1,
        });
        Ok(())
    }

    /// A further line of a chain that has begun.
    fn follow(&mut self, at: usize, line: &Line, index: usize) -> Result<(), Flaw> {
        let Some(chain) = self.chains.get(at) else {
            return Err(Flaw::Malformed);
        };
        let before = chain.head;
        let expected = before.seq.saturating_add(1);
        if line.body.seq != expected {
            return Err(self.misplaced(line, expected, index));
        }
        if line.body.prev != before.hash {
            return Err(Flaw::Rewritten);
        }
        let signed = self.signed(line, before)?;
        if expected == 1 && !signed {
            return Err(Flaw::Unsigned);
        }
        if let Some(chain) = self.chains.get_mut(at) {
            chain.head = line.head();
            chain.unsigned = if signed {
                0
            } else {
                chain.unsigned.saturating_add(1)
            };
            if matches!(line.body.entry, Entry::Record(_)) {
                chain.records = chain.records.saturating_add(1);
            }
        }
        Ok(())
    }

    /// Whether the line is a checkpoint; one that does not verify is a flaw.
    fn signed(&self, line: &Line, before: Head) -> Result<bool, Flaw> {
        match &line.body.entry {
            Entry::Checkpoint { signature } => {
                let message = Checkpoint(before).message();
                let by = |key: &[u8; 32]| {
                    UnparsedPublicKey::new(&ED25519, key)
                        .verify(&message, signature)
                        .is_ok()
                };
                if self.keys.iter().any(by) {
                    Ok(true)
                } else {
                    Err(Flaw::WrongSignature)
                }
            }
            Entry::Started { .. } => Err(Flaw::Malformed),
            Entry::Record(_) | Entry::Rotated { .. } => Ok(false),
        }
    }

    /// The chain before this one must end where this one says, if it is shown at all.
    fn linked(&self, previous: Option<&Head>) -> Result<(), Flaw> {
        let Some(previous) = previous else {
            return Ok(());
        };
        match self.chains.iter().find(|c| c.head.chain == previous.chain) {
            Some(chain) if chain.head.seq < previous.seq => Err(Flaw::Cut {
                expected: chain.head.seq.saturating_add(1),
            }),
            Some(chain) if chain.head != *previous => Err(Flaw::Rewritten),
            None if !self.chains.is_empty() => Err(Flaw::Cut { expected: 0 }),
            _ => Ok(()),
        }
    }

    /// Tells a line that is elsewhere from one that is gone.
    fn misplaced(&self, line: &Line, expected: u64, index: usize) -> Flaw {
        let got = line.body.seq;
        let later = self.lines.iter().skip(index.saturating_add(1));
        let elsewhere = later
            .filter_map(|text| Line::parse(text).ok())
            .any(|other| other.body.chain == line.body.chain && other.body.seq == expected);
        if got < expected || elsewhere {
            Flaw::Reordered { expected, got }
        } else {
            Flaw::Cut { expected }
        }
    }

    fn all_known_seen(&self) -> Result<(), Flaw> {
        let heads: BTreeMap<ChainId, &ChainReport> =
            self.chains.iter().map(|c| (c.head.chain, c)).collect();
        for known in self.known {
            match heads.get(&known.chain) {
                Some(chain) if known.seq <= chain.head.seq => {}
                Some(chain) => {
                    let expected = chain.head.seq.saturating_add(1);
                    return Err(Flaw::Cut { expected });
                }
                None => return Err(Flaw::Cut { expected: 0 }),
            }
        }
        Ok(())
    }
}

impl Line {
    fn head(&self) -> Head {
        Head {
            chain: self.body.chain,
            seq: self.body.seq,
            hash: self.hash,
        }
    }
}

impl From<LineError> for Flaw {
    fn from(error: LineError) -> Self {
        match error {
            LineError::Malformed => Self::Malformed,
            LineError::WrongHash => Self::Rewritten,
        }
    }
}

fn contradicts(known: &Head, seen: &Head) -> bool {
    known.chain == seen.chain && known.seq == seen.seq && known.hash != seen.hash
}

#[cfg(test)]
mod tests;

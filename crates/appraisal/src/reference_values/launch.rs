//! What a report must say of the launch.

use super::non_empty;
use crate::{
    document::{IdBlockDocument, LaunchDigest, SnpImageDocument},
    error::{FailedCheck, LaunchMismatch, LoadError, rule},
};
use alloc::vec::Vec;
use core::fmt::Display;
use snp::ReportFields;

/// An image's anchors. Either one is enough: the measurement itself, or an ID block, whose measurement
/// the secure processor compared with the launch.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    measurements: Vec<LaunchDigest>,
    id_block: Option<IdBlockDocument>,
}

impl Launch {
    pub(super) fn parse(field: &str, document: SnpImageDocument) -> Result<Self, LoadError> {
        let measurements = non_empty(field, document.measurements)?;
        if let Some(block) = &document.id_block {
            check_anchor(field, block)?;
        } else if measurements.is_empty() {
            return Err(rule(field, "`measurements` or `id_block`", "neither"));
        }
        Ok(Self {
            measurements,
            id_block: document.id_block,
        })
    }

    /// What differs, unless one of the anchors holds.
    pub(super) fn mismatch(&self, report: &ReportFields<'_>) -> Option<LaunchMismatch> {
        let got = LaunchDigest(*report.measurement);
        if self.measurements.contains(&got) {
            return None;
        }
        let id_block = match &self.id_block {
            None => Vec::new(),
            Some(block) => match differing(block, report) {
                differing if differing.is_empty() => return None,
                differing => differing,
            },
        };
        Some(LaunchMismatch {
            expected: self.measurements.clone(),
            got,
            id_block,
        })
    }

    /// Whether one launch could fit both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let measured = |digest| other.measurements.contains(digest);
        if self.measurements.iter().any(measured) {
            return true;
        }
        match (&self.id_block, &other.id_block) {
            // Two blocks are apart only if a field with one value each is.
            (Some(a), Some(b)) => {
                let apart = |a: Option<LaunchDigest>, b: Option<LaunchDigest>| {
                    a.zip(b).is_some_and(|(a, b)| a != b)
                };
                a.family_id == b.family_id
                    && a.image_id == b.image_id
                    && !apart(a.id_key_digest, b.id_key_digest)
                    && !apart(a.author_key_digest, b.author_key_digest)
            }
            _ => false,
        }
    }
}

/// A block is as good as its signer: without one, whoever launches writes it. The digest of no key is
/// zero.
fn check_anchor(field: &str, block: &IdBlockDocument) -> Result<(), LoadError> {
    let digests = [block.id_key_digest, block.author_key_digest];
    let mut named = digests.iter().flatten().peekable();
    if named.peek().is_none() {
        let expected = "`id_key_digest` or `author_key_digest`";
        return Err(rule(field, expected, "neither"));
    }
    if named.any(|digest| *digest == LaunchDigest([0; 48])) {
        return Err(rule(field, "the digest of a key", "zero"));
    }
    Ok(())
}

fn differing(block: &IdBlockDocument, report: &ReportFields<'_>) -> Vec<FailedCheck> {
    let mut failed = Vec::new();
    let mut want = |holds: bool, check: &str, expected: &dyn Display, got: &dyn Display| {
        if !holds {
            failed.push(FailedCheck::new(check, expected, got));
        }
    };
    for (check, expected, got) in [
        ("ID_KEY_DIGEST", block.id_key_digest, report.id_key_digest),
        (
            "AUTHOR_KEY_DIGEST",
            block.author_key_digest,
            report.author_key_digest,
        ),
    ] {
        if let Some(expected) = expected {
            let got = LaunchDigest(*got);
            want(expected == got, check, &expected, &got);
        }
    }
    for (check, expected, got) in [
        ("FAMILY_ID", &block.family_id, report.family_id),
        ("IMAGE_ID", &block.image_id, report.image_id),
    ] {
        let (expected, got) = (hex::encode(expected), hex::encode(got));
        want(expected == got, check, &expected, &got);
    }
    let (least, got) = (block.minimum_guest_svn, report.guest_svn);
    want(got >= least, "GUEST_SVN", &least, &got);
    failed
}

//! The appraisal policy.

use crate::{
    LATCH_PCR,
    appraised::AttesterIdentity,
    certificate::Certificate,
    document::{AuthorityDocument, Kind, PolicyDocument, TpmDocument, VERSION},
    error::{LoadError, rule},
};
use alloc::{collections::BTreeSet, format, string::String, vec, vec::Vec};
use evidence::{EvidenceKind, Requirement};
use tpm::PcrSet;

/// PCRs that every policy covers. Without 0, 2, 3 and 7 a false firmware could write all others;
/// without 4, 9, 11, 12 and 13 the image would not be covered, 12 being where an added command line
/// shows; 15 is the latch.
pub const REQUIRED_PCRS: [u32; 10] = [0, 2, 3, 4, 7, 9, 11, 12, 13, LATCH_PCR];
/// PCR 16 and 23 can be reset by anybody, 17 to 22 by a dynamic launch.
const FIRST_RESETTABLE: u32 = 16;

/// A policy that passed every rule.
#[derive(Clone, Debug)]
pub struct Policy {
    serial: u64,
    pcrs: Vec<u32>,
    pcr_set: PcrSet,
    pub(crate) authorities: Vec<Certificate>,
    pub(crate) intermediates: Vec<Certificate>,
    pub(crate) ek_hashes: BTreeSet<AttesterIdentity>,
}

impl Policy {
    /// Parses a policy document. The owner's signature over `json` is the caller's to check.
    ///
    /// # Errors
    /// If the JSON has another shape, an unknown or a missing field, an empty list, no trust for
    /// any endorsement key, or a PCR set that leaves out one of [`REQUIRED_PCRS`].
    pub fn parse(json: &[u8]) -> Result<Self, LoadError> {
        let document: PolicyDocument =
            serde_json::from_slice(json).map_err(|source| LoadError::Json {
                document: "policy",
                source,
            })?;
        check_version(document.version)?;
        if document.evidence != [Kind::Tpm] {
            let got = format!("{:?}", document.evidence);
            return Err(rule("evidence", "[\"tpm\"]", got));
        }
        Self::from_tpm(document.serial, document.tpm)
    }

    fn from_tpm(serial: u64, tpm: TpmDocument) -> Result<Self, LoadError> {
        let pcr_set = check_pcrs(&tpm.pcrs)?;
        if tpm.ek_authorities.is_none() && tpm.ek_hashes.is_none() {
            let expected = "`ek_authorities` or `ek_hashes`, else no endorsement key is trusted";
            return Err(rule("tpm", expected, "neither"));
        }
        let authorities = non_empty("tpm.ek_authorities", tpm.ek_authorities)?;
        let hashes = non_empty("tpm.ek_hashes", tpm.ek_hashes)?;
        let intermediates = non_empty("tpm.ek_intermediates", tpm.ek_intermediates)?;
        Ok(Self {
            serial,
            pcrs: tpm.pcrs,
            pcr_set,
            authorities: parse_authorities(&authorities)?,
            intermediates: parse_certificates("tpm.ek_intermediates", intermediates.iter())?,
            ek_hashes: hashes.into_iter().collect(),
        })
    }

    /// The serial.
    #[must_use]
    pub const fn serial(&self) -> u64 {
        self.serial
    }

    /// The PCRs to quote, ascending: what an admitter's hello asks for.
    #[must_use]
    pub fn tpm_pcrs(&self) -> &[u32] {
        &self.pcrs
    }

    /// The kinds of evidence that are accepted.
    #[must_use]
    pub const fn kinds(&self) -> &[EvidenceKind] {
        &[EvidenceKind::Tpm]
    }

    /// What an admitter's hello asks for.
    #[must_use]
    pub fn requirements(&self) -> Vec<Requirement> {
        vec![Requirement {
            kind: EvidenceKind::Tpm,
            pcrs: self.pcrs.clone(),
        }]
    }

    pub(crate) const fn pcr_set(&self) -> PcrSet {
        self.pcr_set
    }
}

pub(crate) fn check_version(version: u32) -> Result<(), LoadError> {
    if version == VERSION {
        return Ok(());
    }
    Err(rule("version", format!("{VERSION}"), format!("{version}")))
}

fn check_pcrs(pcrs: &[u32]) -> Result<PcrSet, LoadError> {
    let refuse = |expected: &str| rule("tpm.pcrs", expected, format!("{pcrs:?}"));
    if !pcrs.is_sorted_by(|a, b| a < b) {
        return Err(refuse("ascending indices, each once"));
    }
    if pcrs.last().is_some_and(|last| *last >= FIRST_RESETTABLE) {
        return Err(refuse("indices below 16, because the others can be reset"));
    }
    let set = PcrSet::new(pcrs.iter().copied()).ok_or_else(|| refuse("PCR indices"))?;
    if !REQUIRED_PCRS.iter().all(|pcr| set.contains(*pcr)) {
        return Err(refuse(&format!("at least {REQUIRED_PCRS:?}")));
    }
    Ok(set)
}

/// An absent list is none; a list that is there has entries.
pub(crate) fn non_empty<T>(field: &str, list: Option<Vec<T>>) -> Result<Vec<T>, LoadError> {
    match list {
        Some(list) if list.is_empty() => Err(rule(field, "at least one entry", "an empty list")),
        list => Ok(list.unwrap_or_default()),
    }
}

fn parse_authorities(authorities: &[AuthorityDocument]) -> Result<Vec<Certificate>, LoadError> {
    for (index, authority) in authorities.iter().enumerate() {
        if !authority.bound_to_platform {
            return Err(rule(
                format!("tpm.ek_authorities {index}: bound_to_platform"),
                "true: an authority that certifies only TPMs of the owner's platforms, not a \
                 manufacturer's root",
                "false",
            ));
        }
    }
    let pems = authorities.iter().map(|authority| &authority.certificate);
    parse_certificates("tpm.ek_authorities", pems)
}

fn parse_certificates<'a>(
    field: &'static str,
    pems: impl Iterator<Item = &'a String>,
) -> Result<Vec<Certificate>, LoadError> {
    pems.enumerate()
        .map(|(index, pem)| {
            Certificate::parse_authority(pem).map_err(|source| LoadError::Certificate {
                field,
                index,
                source,
            })
        })
        .collect()
}

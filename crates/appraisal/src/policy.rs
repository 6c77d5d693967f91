//! The appraisal policy.

mod sev_snp;

use crate::{
    LATCH_PCR,
    appraised::AttesterIdentity,
    certificate::{Certificate, Issuers},
    document::{AuthorityDocument, Kind, PolicyDocument, SnpDocument, TpmDocument, VERSION},
    error::{LoadError, rule},
};
use alloc::{collections::BTreeSet, format, string::String, vec::Vec};
use evidence::{EvidenceKind, Requirement};
pub(crate) use sev_snp::{ProductPolicy, SnpPolicy};
use snp::{Authorities, Origin, Product};
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
    kinds: Vec<EvidenceKind>,
    pub(crate) tpm: Option<TpmPolicy>,
    pub(crate) sev_snp: Option<SnpPolicy>,
    azure_sev_snp: Option<QuotePolicy>,
    sev_snp_vtpm: Option<QuotePolicy>,
}

/// Which endorsement keys are trusted.
#[derive(Clone, Debug)]
pub(crate) struct TpmPolicy {
    quote: QuotePolicy,
    pub(crate) ek_issuers: Issuers,
    pub(crate) ek_hashes: BTreeSet<AttesterIdentity>,
}

/// What a quote is over.
#[derive(Clone, Debug)]
pub(crate) struct QuotePolicy {
    pub(crate) pcrs: Vec<u32>,
    pub(crate) set: PcrSet,
}

impl Policy {
    /// Parses a policy document. The owner's signature over `json` is the caller's to check.
    ///
    /// # Errors
    /// If the JSON has another shape, an unknown or a missing field, an empty list, a section that no
    /// accepted kind needs or a kind without its section, no trust for any endorsement key, or a PCR
    /// set that leaves out one of [`REQUIRED_PCRS`].
    pub fn parse(json: &[u8]) -> Result<Self, LoadError> {
        let document: PolicyDocument =
            serde_json::from_slice(json).map_err(|source| LoadError::Json {
                document: "policy",
                source,
            })?;
        check_version(document.version)?;
        let kinds = parse_kinds(&document.evidence)?;
        let wants = |kind: EvidenceKind| kinds.contains(&kind);
        let reports = kinds.iter().any(|kind| kind.has_report());
        let tpm = section("tpm", wants(EvidenceKind::Tpm), document.tpm)?;
        let sev_snp = section("sev_snp", reports, document.sev_snp)?;
        let azure = EvidenceKind::AzureSevSnp;
        if let (
            true,
            Some(SnpDocument {
                vmpl: vmpl @ 1.., ..
            }),
        ) = (wants(azure), &sev_snp)
        {
            let expected =
                "0 with `azure-sev-snp`: what runs below a paravisor asks for reports too";
            return Err(rule("sev_snp.vmpl", expected, format!("{vmpl}")));
        }
        let azure = section("azure_sev_snp", wants(azure), document.azure_sev_snp)?;
        let vtpm = EvidenceKind::SevSnpVtpm;
        let vtpm = section("sev_snp_vtpm", wants(vtpm), document.sev_snp_vtpm)?;
        Ok(Self {
            serial: document.serial,
            tpm: tpm.map(TpmPolicy::parse).transpose()?,
            sev_snp: sev_snp.map(SnpPolicy::parse).transpose()?,
            azure_sev_snp: azure
                .map(|quote| QuotePolicy::judged("azure_sev_snp.pcrs", quote.pcrs))
                .transpose()?,
            sev_snp_vtpm: vtpm
                .map(|quote| QuotePolicy::reported("sev_snp_vtpm.pcrs", quote.pcrs))
                .transpose()?,
            kinds,
        })
    }

    /// The serial.
    #[must_use]
    pub const fn serial(&self) -> u64 {
        self.serial
    }

    /// The kinds of evidence that are accepted.
    #[must_use]
    pub fn kinds(&self) -> &[EvidenceKind] {
        &self.kinds
    }

    /// Product lines whose reports need no processor: a development root stands in AMD's place.
    #[must_use]
    pub fn development_roots(&self) -> Vec<Product> {
        let products = self.sev_snp.iter().flat_map(|policy| &policy.products);
        products
            .filter(|entry| entry.authorities.origin() == Origin::Development)
            .map(ProductPolicy::product)
            .collect()
    }

    /// Who may vouch for the keys that sign reports, of each product line.
    pub fn authorities(&self) -> impl Iterator<Item = &Authorities> {
        let products = self.sev_snp.iter().flat_map(|policy| &policy.products);
        products.map(|entry| &entry.authorities)
    }

    /// What an admitter's hello asks for.
    #[must_use]
    pub fn requirements(&self) -> Vec<Requirement> {
        let requirement = |kind: &EvidenceKind| Requirement {
            kind: *kind,
            pcrs: self
                .quote(*kind)
                .map_or_else(Vec::new, |quote| quote.pcrs.clone()),
        };
        self.kinds.iter().map(requirement).collect()
    }

    /// What a quote of this kind is over; none for a kind without one, or one that is not accepted.
    pub(crate) fn quote(&self, kind: EvidenceKind) -> Option<&QuotePolicy> {
        match kind {
            EvidenceKind::AzureSevSnp => self.azure_sev_snp.as_ref(),
            EvidenceKind::SevSnp => None,
            EvidenceKind::SevSnpVtpm => self.sev_snp_vtpm.as_ref(),
            EvidenceKind::Tpm => self.tpm.as_ref().map(|tpm| &tpm.quote),
        }
    }

    /// The PCRs that must have an image's values for this kind.
    pub(crate) fn judged_pcrs(&self, kind: EvidenceKind) -> &[u32] {
        match kind {
            EvidenceKind::AzureSevSnp | EvidenceKind::Tpm => {
                self.quote(kind).map_or(&[], |quote| &quote.pcrs)
            }
            EvidenceKind::SevSnp | EvidenceKind::SevSnpVtpm => &[],
        }
    }
}

impl TpmPolicy {
    fn parse(tpm: TpmDocument) -> Result<Self, LoadError> {
        let quote = QuotePolicy::judged("tpm.pcrs", tpm.pcrs)?;
        if tpm.ek_authorities.is_none() && tpm.ek_hashes.is_none() {
            let expected = "`ek_authorities` or `ek_hashes`, else no endorsement key is trusted";
            return Err(rule("tpm", expected, "neither"));
        }
        let authorities = non_empty("tpm.ek_authorities", tpm.ek_authorities)?;
        let hashes = non_empty("tpm.ek_hashes", tpm.ek_hashes)?;
        if hashes.iter().any(|hash| !hash.names_machine()) {
            return Err(rule(
                "tpm.ek_hashes",
                "hashes of endorsement keys",
                "another",
            ));
        }
        let intermediates = non_empty("tpm.ek_intermediates", tpm.ek_intermediates)?;
        Ok(Self {
            quote,
            ek_issuers: Issuers::authenticate(
                parse_authorities(&authorities)?,
                &parse_certificates("tpm.ek_intermediates", intermediates.iter())?,
            ),
            ek_hashes: hashes.into_iter().collect(),
        })
    }
}

impl QuotePolicy {
    /// PCRs that decide: at least [`REQUIRED_PCRS`], and none that can be reset.
    fn judged(field: &str, pcrs: Vec<u32>) -> Result<Self, LoadError> {
        let refuse = |expected: &str, got: &[u32]| rule(field, expected, format!("{got:?}"));
        if pcrs.last().is_some_and(|last| *last >= FIRST_RESETTABLE) {
            let expected = "indices below 16, because the others can be reset";
            return Err(refuse(expected, &pcrs));
        }
        let quote = Self::reported(field, pcrs)?;
        if !REQUIRED_PCRS.iter().all(|pcr| quote.set.contains(*pcr)) {
            return Err(refuse(&format!("at least {REQUIRED_PCRS:?}"), &quote.pcrs));
        }
        Ok(quote)
    }

    /// PCRs that are shown to the operator.
    fn reported(field: &str, pcrs: Vec<u32>) -> Result<Self, LoadError> {
        let refuse = |expected| rule(field, expected, format!("{pcrs:?}"));
        if pcrs.is_empty() || !pcrs.is_sorted_by(|a, b| a < b) {
            return Err(refuse("ascending indices, each once, at least one"));
        }
        let set = PcrSet::new(pcrs.iter().copied()).ok_or_else(|| refuse("PCR indices"))?;
        Ok(Self { pcrs, set })
    }
}

fn parse_kinds(kinds: &[Kind]) -> Result<Vec<EvidenceKind>, LoadError> {
    let unique: BTreeSet<Kind> = kinds.iter().copied().collect();
    if unique.is_empty() || unique.len() != kinds.len() {
        let got = format!("{} entries", kinds.len());
        return Err(rule("evidence", "at least one kind, each once", got));
    }
    Ok(kinds.iter().map(|kind| kind.0).collect())
}

/// A section is there exactly if an accepted kind needs it: one that is read by nobody would look
/// like a rule.
fn section<T>(field: &str, wanted: bool, section: Option<T>) -> Result<Option<T>, LoadError> {
    match (wanted, &section) {
        (true, None) => Err(rule(field, "the section that `evidence` asks for", "none")),
        (false, Some(_)) => Err(rule(
            field,
            "none, because no kind of `evidence` reads it",
            "one",
        )),
        _ => Ok(section),
    }
}

pub(crate) fn check_version(version: u32) -> Result<(), LoadError> {
    if version == VERSION {
        return Ok(());
    }
    Err(rule("version", format!("{VERSION}"), format!("{version}")))
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

//! Reference values: what the images of this cluster measure.

mod launch;

use crate::{
    LATCH_PCR,
    document::{ImageDocument, PcrValue, ReferenceValuesDocument, SnpImageDocument},
    error::{LaunchMismatch, LoadError, PcrMismatch, rule},
    policy::{Policy, check_version, non_empty},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    vec::Vec,
};
use evidence::EvidenceKind;
use identity::Role;
use launch::Launch;
use snp::AuthenticatedReport;
use tpm::ExpectedEvent;

/// Reference values that passed every rule that does not need the policy.
#[derive(Clone, Debug)]
pub struct ReferenceValues {
    serial: u64,
    images: Vec<Image>,
}

/// What evidence says about what was booted, each part where the evidence has it and it counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Booted<'a, 'r> {
    pub(crate) kind: EvidenceKind,
    pub(crate) pcrs: Option<&'a BTreeMap<u32, [u8; 32]>>,
    pub(crate) report: Option<&'a AuthenticatedReport<'r>>,
}

/// What an image differs in from what was booted.
#[derive(Debug)]
pub(crate) struct Mismatches {
    pub(crate) pcrs: Vec<PcrMismatch>,
    pub(crate) launch: Option<LaunchMismatch>,
}

impl Mismatches {
    pub(crate) const fn count(&self) -> usize {
        self.pcrs
            .len()
            .saturating_add(self.launch.is_some() as usize)
    }
}

/// One image that may boot.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    roles: Vec<Role>,
    pcrs: Option<BTreeMap<u32, Vec<PcrValue>>>,
    launch: Option<Launch>,
    paravisor: Option<Launch>,
    events: BTreeMap<u32, Vec<ExpectedEvent>>,
}

impl ReferenceValues {
    /// Parses a reference value document. The owner's signature over `json` is the caller's to check.
    ///
    /// # Errors
    /// If the JSON has another shape, an unknown or a missing field, an empty list, two images with
    /// one name, an image whose PCR 15 may be anything but zero, or one that could pass as two kinds.
    pub fn parse(json: &[u8]) -> Result<Self, LoadError> {
        let document: ReferenceValuesDocument =
            serde_json::from_slice(json).map_err(|source| LoadError::Json {
                document: "reference values",
                source,
            })?;
        check_version(document.version)?;
        let images = non_empty("images", Some(document.images))?;
        let images: Vec<Image> = images
            .into_iter()
            .map(Image::from_document)
            .collect::<Result<_, _>>()?;
        let mut names = BTreeSet::new();
        for image in &images {
            if !names.insert(image.name.as_str()) {
                return Err(rule(
                    "images",
                    "unique names",
                    format!("`{}` twice", image.name),
                ));
            }
        }
        Ok(Self {
            serial: document.serial,
            images,
        })
    }

    /// The serial.
    #[must_use]
    pub const fn serial(&self) -> u64 {
        self.serial
    }

    /// The images.
    #[must_use]
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// Checks the rules that need the policy: each image has what some accepted kind compares, all of
    /// it, and no evidence could fit two images, because then its roles would be a matter of order.
    pub(crate) fn check_against(&self, policy: &Policy) -> Result<(), LoadError> {
        for image in &self.images {
            let mut usable = false;
            for kind in policy.kinds() {
                usable |= image.serves(*kind, policy.judged_pcrs(*kind))?;
            }
            if !usable {
                let field = format!("image `{}`", image.name);
                let expected = "values for a kind of evidence that the policy accepts";
                return Err(rule(field, expected, "none"));
            }
        }
        for kind in policy.kinds() {
            self.check_distinct(*kind, policy.judged_pcrs(*kind))?;
        }
        Ok(())
    }

    fn check_distinct(&self, kind: EvidenceKind, pcrs: &[u32]) -> Result<(), LoadError> {
        let serving: Vec<&Image> = self
            .images
            .iter()
            .filter(|image| image.serves(kind, pcrs).unwrap_or_default())
            .collect();
        for (i, a) in serving.iter().enumerate() {
            for b in serving.iter().skip(i.saturating_add(1)) {
                let same_pcrs = pcrs.iter().all(|pcr| a.shares_value(b, *pcr));
                let same_launch = !kind.has_report() || a.shares_launch(b, kind);
                if same_pcrs && same_launch {
                    let got = format!(
                        "`{}` and `{}` accept the same {kind} evidence",
                        a.name, b.name
                    );
                    return Err(rule("images", "images that can be told apart", got));
                }
            }
        }
        Ok(())
    }
}

impl Image {
    fn from_document(document: ImageDocument) -> Result<Self, LoadError> {
        let name = document.name;
        if name.is_empty() {
            return Err(rule("images", "a name", "an empty one"));
        }
        let field = |field: &str| format!("image `{name}`: {field}");
        let roles = non_empty(&field("roles"), Some(document.roles))?;
        let pcrs = document.pcrs.map(|pcrs| pcrs.0);
        for (pcr, values) in pcrs.iter().flatten() {
            if values.is_empty() {
                let field = field(&format!("pcrs.{pcr}"));
                return Err(rule(field, "at least one value", "an empty list"));
            }
        }
        let latch = pcrs.as_ref().and_then(|pcrs| pcrs.get(&LATCH_PCR));
        if latch.is_some_and(|values| *values != [PcrValue::ZERO]) {
            return Err(rule(
                field("pcrs.15"),
                "zero and nothing else",
                "another value",
            ));
        }
        let events = document
            .events
            .map_or_else(BTreeMap::new, |events| events.0);
        let events = events.into_iter().map(|(pcr, events)| {
            let events = events.into_iter().map(|event| ExpectedEvent {
                name: event.name,
                digest: event.digest.0,
            });
            (pcr, events.collect())
        });
        let launch = |name, document: Option<SnpImageDocument>| {
            let launch = document.map(|document| Launch::parse(&field(name), document));
            launch.transpose()
        };
        let paravisor = launch("azure_sev_snp", document.azure_sev_snp)?;
        let launch = launch("sev_snp", document.sev_snp)?;
        if paravisor.is_some() && pcrs.is_none() {
            let expected = "`pcrs` beside it: a paravisor says nothing about the image";
            return Err(rule(field("azure_sev_snp"), expected, "none"));
        }
        // The kind is on the command line, so an image has one. What keeps a boot from a second key is
        // done for that kind alone: PCR 15 is not extended where a claim on the report does it.
        if launch.is_some() && pcrs.is_some() {
            let expected = "no `pcrs` beside it: an image attests with one kind of evidence";
            return Err(rule(field("sev_snp"), expected, "some"));
        }
        Ok(Self {
            events: events.collect(),
            launch,
            paravisor,
            name,
            roles,
            pcrs,
        })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Roles that a node with this image may take.
    #[must_use]
    pub fn roles(&self) -> &[Role] {
        &self.roles
    }

    /// Whether the image attests with `kind`; PCRs it has, it has all of.
    fn serves(&self, kind: EvidenceKind, judged: &[u32]) -> Result<bool, LoadError> {
        if !self.is_of(kind) {
            return Ok(false);
        }
        let Some(pcrs) = &self.pcrs else {
            return Ok(true);
        };
        if let Some(pcr) = judged.iter().find(|pcr| !pcrs.contains_key(*pcr)) {
            let field = format!("image `{}`: pcrs", self.name);
            let expected = format!("a value for PCR {pcr} of the policy");
            return Err(rule(field, expected, "none"));
        }
        Ok(true)
    }

    /// What a report of this kind is compared with. A paravisor's launch is never enough for a bare
    /// report, nor an image's own for a paravisor: whoever runs in either would be taken for the other.
    fn launch(&self, kind: EvidenceKind) -> Option<&Launch> {
        match kind {
            EvidenceKind::AzureSevSnp => self.paravisor.as_ref(),
            EvidenceKind::SevSnp | EvidenceKind::SevSnpVtpm => self.launch.as_ref(),
            EvidenceKind::Tpm => None,
        }
    }

    /// Whether evidence of `kind` is of an image like this one. An image in a paravisor is none of a
    /// bare TPM's, although both have PCRs.
    const fn is_of(&self, kind: EvidenceKind) -> bool {
        match kind {
            EvidenceKind::AzureSevSnp => self.paravisor.is_some(),
            EvidenceKind::SevSnp | EvidenceKind::SevSnpVtpm => self.launch.is_some(),
            EvidenceKind::Tpm => self.pcrs.is_some() && self.paravisor.is_none(),
        }
    }

    /// What differs; `None` if the image says nothing about evidence of this kind.
    pub(crate) fn mismatches(&self, booted: Booted<'_, '_>) -> Option<Mismatches> {
        if !self.is_of(booted.kind) {
            return None;
        }
        let pcrs = match (booted.pcrs, &self.pcrs) {
            (None, _) => Vec::new(),
            (Some(quoted), Some(pcrs)) => differing(pcrs, quoted),
            (Some(_), None) => return None,
        };
        let launch = match (booted.report, self.launch(booted.kind)) {
            (None, _) => None,
            (Some(report), Some(launch)) => launch.mismatch(report.report()),
            (Some(_), None) => return None,
        };
        Some(Mismatches { pcrs, launch })
    }

    /// Events that explain a value of `pcr`; empty where none are listed.
    pub(crate) fn events(&self, pcr: u32) -> &[ExpectedEvent] {
        self.events.get(&pcr).map_or(&[], Vec::as_slice)
    }

    fn shares_value(&self, other: &Self, pcr: u32) -> bool {
        let values = |image: &Self| -> Vec<PcrValue> {
            let pcrs = image.pcrs.as_ref();
            pcrs.and_then(|pcrs| pcrs.get(&pcr))
                .cloned()
                .unwrap_or_default()
        };
        let others = values(other);
        values(self).iter().any(|value| others.contains(value))
    }

    fn shares_launch(&self, other: &Self, kind: EvidenceKind) -> bool {
        match (self.launch(kind), other.launch(kind)) {
            (Some(a), Some(b)) => a.overlaps(b),
            _ => false,
        }
    }
}

/// Every PCR of `quoted` that has none of the values in `pcrs`; one that is not there has none.
fn differing(
    pcrs: &BTreeMap<u32, Vec<PcrValue>>,
    quoted: &BTreeMap<u32, [u8; 32]>,
) -> Vec<PcrMismatch> {
    quoted
        .iter()
        .map(|(pcr, got)| PcrMismatch {
            pcr: *pcr,
            expected: pcrs.get(pcr).cloned().unwrap_or_default(),
            got: PcrValue(*got),
        })
        .filter(|pcr| !pcr.expected.contains(&pcr.got))
        .collect()
}

//! Reference values: what the images of this cluster measure.

use crate::{
    LATCH_PCR,
    document::{ImageDocument, PcrValue, ReferenceValuesDocument},
    error::{LoadError, PcrMismatch, rule},
    policy::{Policy, check_version, non_empty},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    vec::Vec,
};
use identity::Role;
use tpm::ExpectedEvent;

/// Reference values that passed every rule that does not need the policy.
#[derive(Clone, Debug)]
pub struct ReferenceValues {
    serial: u64,
    images: Vec<Image>,
}

/// One image that may boot.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    roles: Vec<Role>,
    pcrs: BTreeMap<u32, Vec<PcrValue>>,
    events: BTreeMap<u32, Vec<ExpectedEvent>>,
}

impl ReferenceValues {
    /// Parses a reference value document. The owner's signature over `json` is the caller's to check.
    ///
    /// # Errors
    /// If the JSON has another shape, an unknown or a missing field, an empty list, two images with
    /// one name, or an image whose PCR 15 may be anything but zero.
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

    /// Checks the rules that need the policy: each image covers the policy's PCRs, and no quote
    /// could fit two images, because then its roles would be a matter of order.
    pub(crate) fn check_against(&self, policy: &Policy) -> Result<(), LoadError> {
        for image in &self.images {
            let missing = |pcr: &&u32| !image.pcrs.contains_key(*pcr);
            if let Some(pcr) = policy.tpm_pcrs().iter().find(missing) {
                let field = format!("image `{}`: pcrs", image.name);
                let expected = format!("a value for PCR {pcr} of the policy");
                return Err(rule(field, expected, "none"));
            }
        }
        for (i, a) in self.images.iter().enumerate() {
            for b in self.images.iter().skip(i + 1) {
                if policy.tpm_pcrs().iter().all(|pcr| a.shares_value(b, *pcr)) {
                    let got = format!("`{}` and `{}` accept the same PCRs", a.name, b.name);
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
        let pcrs = document.pcrs.0;
        for (pcr, values) in &pcrs {
            if values.is_empty() {
                let field = field(&format!("pcrs.{pcr}"));
                return Err(rule(field, "at least one value", "an empty list"));
            }
        }
        if pcrs
            .get(&LATCH_PCR)
            .is_some_and(|values| *values != [PcrValue::ZERO])
        {
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
        Ok(Self {
            events: events.collect(),
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

    /// Every PCR of `quoted` that has none of this image's values; one that the image does not
    /// know has none.
    pub(crate) fn mismatches(&self, quoted: &BTreeMap<u32, [u8; 32]>) -> Vec<PcrMismatch> {
        quoted
            .iter()
            .map(|(pcr, got)| PcrMismatch {
                pcr: *pcr,
                expected: self.pcrs.get(pcr).cloned().unwrap_or_default(),
                got: PcrValue(*got),
            })
            .filter(|pcr| !pcr.expected.contains(&pcr.got))
            .collect()
    }

    /// Events that explain a value of `pcr`; empty where none are listed.
    pub(crate) fn events(&self, pcr: u32) -> &[ExpectedEvent] {
        self.events.get(&pcr).map_or(&[], Vec::as_slice)
    }

    fn shares_value(&self, other: &Self, pcr: u32) -> bool {
        let values = |image: &Self| image.pcrs.get(&pcr).cloned().unwrap_or_default();
        let others = values(other);
        values(self).iter().any(|value| others.contains(value))
    }
}

//! What a node attests with: the keys of a TPM, or of a processor, without either around them.

use anyhow::{Context as _, Result};
use attested_tls::{ActivatedSecret, Attestation, EvidenceRequest};
use evidence::{AttesterClaim, Binding, Evidence, SnpEvidence};
use qemu_tests::Chip;
use snp::UnixTime;
use software_snp::{CrlFields, DevelopmentRoot, Leaf, Product, ReportFields};
use software_tpm::keys::{KeyAuthority, KeyTpm};
use std::{sync::Arc, time::SystemTime};

/// What every SEV-SNP guest here launched.
pub(crate) const MEASUREMENT: [u8; 48] = [0x5a; 48];

/// A revocation list is in force for two of them, in seconds.
const HOUR: u64 = 60 * 60;

/// The product line of every chip here.
pub(crate) const PRODUCT: Product = Product::Milan;

/// Who makes machines that an installation trusts.
#[derive(Debug)]
pub(crate) enum Maker {
    /// Certifies TPMs.
    Tpm(Box<KeyAuthority>),
    /// In AMD's place.
    SevSnp(Arc<DevelopmentRoot>),
}

/// A machine.
#[derive(Debug)]
pub(crate) enum Machine {
    Tpm(KeyTpm),
    SevSnp(Box<SnpGuest>),
}

impl Maker {
    /// The machine with this serial number.
    pub(crate) fn manufacture(&self, serial: u16) -> Result<Machine> {
        Ok(match self {
            Self::Tpm(authority) => Machine::Tpm(authority.manufacture()?),
            Self::SevSnp(root) => Machine::SevSnp(Box::new(SnpGuest::on(&chip(root, serial))?)),
        })
    }
}

/// The chip with this serial number.
pub(crate) fn chip(root: &Arc<DevelopmentRoot>, serial: u16) -> Chip {
    // Never all zero: that is how a report masks it.
    let mut chip = Chip::new(root, PRODUCT, 1);
    let [high, low] = serial.to_be_bytes();
    (chip.id[0], chip.id[1]) = (high, low);
    chip
}

impl Machine {
    /// What its hello claims.
    pub(crate) fn claim(&self) -> AttesterClaim {
        match self {
            Self::Tpm(tpm) => AttesterClaim::Tpm(tpm.identity().clone()),
            Self::SevSnp(_) => AttesterClaim::SevSnp,
        }
    }

    /// Evidence for a session. Each is of a boot of its own.
    pub(crate) fn attest(&self, request: &EvidenceRequest) -> Result<Attestation> {
        match self {
            Self::Tpm(tpm) => attest_by_tpm(tpm, request),
            Self::SevSnp(guest) => Ok(Attestation {
                activated: None,
                evidence: Evidence::SevSnp(guest.boot(&request.binding)?),
            }),
        }
    }
}

fn attest_by_tpm(tpm: &KeyTpm, request: &EvidenceRequest) -> Result<Attestation> {
    let challenge = request.challenge.as_ref().context("no challenge")?;
    let activated = tpm.activate(challenge);
    let activated = activated.context("a challenge for another TPM")?;
    let activated = ActivatedSecret::from_slice(&activated).context("activated secret")?;
    let data = request.binding.qualifying_data();
    let quote = tpm.quote(&data, &request.pcrs).context("quote")?;
    Ok(Attestation {
        activated: Some(activated),
        evidence: Evidence::Tpm(quote),
    })
}

/// A guest whose host offers the chip's certificate and its authorities'.
#[derive(Debug)]
pub(crate) struct SnpGuest {
    pub(crate) leaf: Leaf,
    report: ReportFields,
    certificates: Vec<u8>,
}

impl SnpGuest {
    /// An honest guest on this chip.
    pub(crate) fn on(chip: &Chip) -> Result<Self> {
        let behaviour = chip.guest(MEASUREMENT)?;
        Ok(Self {
            leaf: behaviour.leaf,
            report: behaviour.report,
            certificates: behaviour.certificates,
        })
    }

    /// A new boot, with a `REPORT_ID` of its own, and its report for this channel.
    pub(crate) fn boot(&self, binding: &Binding) -> Result<SnpEvidence> {
        let mut report = self.report.clone();
        aws_lc_rs::rand::fill(&mut report.report_id)?;
        report.report_data = *binding.as_bytes();
        Ok(SnpEvidence {
            report: report.signed_by(&self.leaf)?.to_vec(),
            certificates: self.certificates.clone(),
        })
    }
}

/// A revocation list as of an hour ago, DER.
pub(crate) fn revocation_list(root: &DevelopmentRoot) -> Result<Vec<u8>> {
    let now = now()?.0;
    let fields = CrlFields {
        this_update: now.saturating_sub(HOUR),
        next_update: now.saturating_add(HOUR),
        revoked: Vec::new(),
    };
    Ok(root.crl(PRODUCT, &fields)?)
}

pub(crate) fn now() -> Result<UnixTime> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(UnixTime(since.as_secs()))
}

/// What `constellation measure` would print of what the guests launched.
pub(crate) fn measurements() -> serde_json::Value {
    serde_json::json!({ "sev_snp": { "measurements": [hex::encode(MEASUREMENT)] } })
}

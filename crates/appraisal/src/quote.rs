//! Quotes: what a key that something trusted vouches for signed about PCRs.

use crate::{
    LATCH_PCR,
    appraised::TpmClaims,
    asked::{Asked, Stage},
    document::PcrValue,
    error::{AppraisalError, PcrMismatch},
    policy::QuotePolicy,
    reference_values::Image,
};
use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use evidence::TpmEvidence;
use tpm::{EventLog, PcrSet, Quote, SigningKey, composite_digest};

/// A quote that this key signed for what was asked, over the policy's PCRs. What the PCRs mean is not
/// known yet.
#[must_use]
#[derive(Debug)]
pub(crate) struct AuthenticatedQuote<'a> {
    evidence: &'a TpmEvidence,
    judged: BTreeMap<u32, [u8; 32]>,
    claims: TpmClaims,
}

impl<'a> AuthenticatedQuote<'a> {
    /// Verifies the quote. What `key` is worth is the caller's to know.
    pub(crate) fn authenticate(
        key: &SigningKey,
        evidence: &'a TpmEvidence,
        asked: &Asked<'_>,
        policy: &QuotePolicy,
    ) -> Result<Self, AppraisalError> {
        let quote = key
            .verify(&evidence.attestation, &evidence.signature)
            .map_err(AppraisalError::Quote)?;
        check_binding(&quote, &asked.qualifying_data)?;
        match asked.stage {
            Stage::Admission => check_selection(&quote, policy)?,
            Stage::Running(_) => check_wider_selection(&quote, &evidence.pcrs, policy)?,
        }
        check_values(&quote, &evidence.pcrs, asked.stage, policy)?;
        Ok(Self {
            evidence,
            judged: judged(&evidence.pcrs, asked.stage, policy),
            claims: TpmClaims {
                clock: quote.clock,
                firmware_version: quote.firmware_version,
                pcrs: evidence.pcrs.clone(),
            },
        })
    }

    /// The latch rule comes before any comparison and is no reference value: no key was released in
    /// this boot yet, or exactly this cluster's was.
    pub(crate) fn check_latch(&self, stage: Stage) -> Result<(), AppraisalError> {
        let got = self.evidence.pcrs.get(&LATCH_PCR).copied();
        let got = PcrValue(got.unwrap_or([0xff; 32]));
        match stage {
            Stage::Admission if got == PcrValue::ZERO => Ok(()),
            Stage::Admission => Err(AppraisalError::Latched { got }),
            Stage::Running(expected) if got == expected => Ok(()),
            Stage::Running(expected) => Err(AppraisalError::Latch { expected, got }),
        }
    }

    /// The quoted values that an image must have.
    pub(crate) const fn judged(&self) -> &BTreeMap<u32, [u8; 32]> {
        &self.judged
    }

    pub(crate) fn into_claims(self) -> TpmClaims {
        self.claims
    }

    /// What the event log, an untrusted text, says about each mismatch.
    pub(crate) fn explain(&self, image: &Image, mismatches: &[PcrMismatch]) -> Vec<String> {
        if mismatches.is_empty() {
            return Vec::new();
        }
        let event_log = &self.evidence.event_log;
        if event_log.is_empty() {
            return vec!["the attester sent no event log".to_string()];
        }
        let log = match EventLog::parse(event_log) {
            Ok(log) => log,
            Err(error) => return vec![format!("the attester's event log is unusable: {error}")],
        };
        let explain = |pcr: &PcrMismatch| log.explain(pcr.pcr, &pcr.got.0, image.events(pcr.pcr));
        mismatches
            .iter()
            .map(|pcr| explain(pcr).to_string())
            .collect()
    }
}

/// The policy's PCRs. Of a running node the latch is left out: it is compared with this cluster's value
/// and never with an image's, which is zero.
fn judged(
    pcrs: &BTreeMap<u32, [u8; 32]>,
    stage: Stage,
    policy: &QuotePolicy,
) -> BTreeMap<u32, [u8; 32]> {
    let latch = |pcr: u32| matches!(stage, Stage::Running(_)) && pcr == LATCH_PCR;
    let mut judged = pcrs.clone();
    judged.retain(|pcr, _| policy.set.contains(*pcr) && !latch(*pcr));
    judged
}

fn check_binding(quote: &Quote<'_>, expected: &[u8; 32]) -> Result<(), AppraisalError> {
    if quote.extra_data == expected {
        return Ok(());
    }
    Err(AppraisalError::Binding {
        expected: hex::encode(expected),
        got: hex::encode(quote.extra_data),
    })
}

fn check_selection(quote: &Quote<'_>, policy: &QuotePolicy) -> Result<(), AppraisalError> {
    let set = policy.set;
    if quote.selection.is_exactly(set) {
        return Ok(());
    }
    Err(AppraisalError::Selection {
        expected: format!("bank 0x000b PCRs {set:?}"),
        got: quote.selection.to_string(),
    })
}

/// A running node does not know the policy of whoever asks, so it quotes more: the SHA-256 bank alone,
/// exactly the PCRs that it sent, the policy's among them.
fn check_wider_selection(
    quote: &Quote<'_>,
    sent: &BTreeMap<u32, [u8; 32]>,
    policy: &QuotePolicy,
) -> Result<(), AppraisalError> {
    let exact = PcrSet::new(sent.keys().copied()).filter(|set| quote.selection.is_exactly(*set));
    if exact.is_some_and(|set| policy.pcrs.iter().all(|pcr| set.contains(*pcr))) {
        return Ok(());
    }
    Err(AppraisalError::Selection {
        expected: format!(
            "bank 0x000b, the PCRs sent, with {:?} among them",
            policy.set
        ),
        got: quote.selection.to_string(),
    })
}

fn check_values(
    quote: &Quote<'_>,
    pcrs: &BTreeMap<u32, [u8; 32]>,
    stage: Stage,
    policy: &QuotePolicy,
) -> Result<(), AppraisalError> {
    if stage == Stage::Admission && !pcrs.keys().eq(&policy.pcrs) {
        return Err(AppraisalError::PcrValues {
            expected: format!("{:?}", &policy.pcrs),
            got: format!("{:?}", pcrs.keys().collect::<Vec<_>>()),
        });
    }
    let expected = composite_digest(pcrs);
    if quote.pcr_digest == expected {
        return Ok(());
    }
    Err(AppraisalError::PcrDigest {
        expected: hex::encode(expected),
        got: hex::encode(quote.pcr_digest),
    })
}

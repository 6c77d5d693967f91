//! Quotes: what a key that something trusted vouches for signed about PCRs.

use crate::{
    LATCH_PCR,
    appraised::TpmClaims,
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
use evidence::{Binding, TpmEvidence};
use tpm::{EventLog, Quote, SigningKey, composite_digest};

/// A quote that this key signed for this channel, over the policy's PCRs. What the PCRs mean is not
/// known yet.
#[must_use]
#[derive(Debug)]
pub(crate) struct AuthenticatedQuote<'a> {
    evidence: &'a TpmEvidence,
    claims: TpmClaims,
}

impl<'a> AuthenticatedQuote<'a> {
    /// Verifies the quote. What `key` is worth is the caller's to know.
    pub(crate) fn authenticate(
        key: &SigningKey,
        evidence: &'a TpmEvidence,
        binding: &Binding,
        policy: &QuotePolicy,
    ) -> Result<Self, AppraisalError> {
        let quote = key
            .verify(&evidence.attestation, &evidence.signature)
            .map_err(AppraisalError::Quote)?;
        check_binding(&quote, binding)?;
        check_selection(&quote, policy)?;
        check_values(&quote, &evidence.pcrs, policy)?;
        Ok(Self {
            evidence,
            claims: TpmClaims {
                clock: quote.clock,
                firmware_version: quote.firmware_version,
                pcrs: evidence.pcrs.clone(),
            },
        })
    }

    /// The latch rule comes before any comparison and is no reference value: no key was released in
    /// this boot.
    pub(crate) fn check_latch(&self) -> Result<(), AppraisalError> {
        let latch = self.evidence.pcrs.get(&LATCH_PCR).copied();
        let latch = PcrValue(latch.unwrap_or([0xff; 32]));
        if latch == PcrValue::ZERO {
            return Ok(());
        }
        Err(AppraisalError::Latched { got: latch })
    }

    /// The quoted values.
    pub(crate) const fn pcrs(&self) -> &'a BTreeMap<u32, [u8; 32]> {
        &self.evidence.pcrs
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

fn check_binding(quote: &Quote<'_>, binding: &Binding) -> Result<(), AppraisalError> {
    let expected = binding.qualifying_data();
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

fn check_values(
    quote: &Quote<'_>,
    pcrs: &BTreeMap<u32, [u8; 32]>,
    policy: &QuotePolicy,
) -> Result<(), AppraisalError> {
    if !pcrs.keys().eq(&policy.pcrs) {
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

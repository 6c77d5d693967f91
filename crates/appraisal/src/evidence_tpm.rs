//! TPM evidence: from a signed quote to an image.

use crate::{
    LATCH_PCR,
    appraised::{Appraised, AttesterIdentity, Claims},
    document::PcrValue,
    error::{AppraisalError, PcrMismatch},
    policy::Policy,
    reference_values::{Image, ReferenceValues},
};
use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use evidence::{Binding, TpmEvidence};
use tpm::{AttestationKey, EventLog, Quote, composite_digest};

/// Evidence that a proven attestation key signed for this channel, over the policy's PCRs. What
/// the PCRs mean is not known yet.
#[must_use]
#[derive(Debug)]
pub(crate) struct Authenticated<'a> {
    identity: AttesterIdentity,
    evidence: &'a TpmEvidence,
    claims: Claims,
}

impl<'a> Authenticated<'a> {
    /// Verifies the quote. That `ak` lives in the TPM `identity` must have been established.
    pub(crate) fn authenticate(
        (ak, identity): (AttestationKey, AttesterIdentity),
        evidence: &'a TpmEvidence,
        binding: &Binding,
        policy: &Policy,
    ) -> Result<Self, AppraisalError> {
        let quote = ak
            .verify(&evidence.attestation, &evidence.signature)
            .map_err(AppraisalError::Quote)?;
        check_binding(&quote, binding)?;
        check_selection(&quote, policy)?;
        check_values(&quote, &evidence.pcrs, policy)?;
        Ok(Self {
            identity,
            evidence,
            claims: Claims {
                clock: quote.clock,
                firmware_version: quote.firmware_version,
            },
        })
    }

    /// Compares with the reference values. The latch rule comes first and is no reference value.
    pub(crate) fn appraise(
        self,
        reference_values: &ReferenceValues,
    ) -> Result<Appraised, AppraisalError> {
        let pcrs = &self.evidence.pcrs;
        let latch = PcrValue(pcrs.get(&LATCH_PCR).copied().unwrap_or([0xff; 32]));
        if latch != PcrValue::ZERO {
            return Err(AppraisalError::Latched { got: latch });
        }
        let nearest = reference_values
            .images()
            .iter()
            .map(|image| (image, image.mismatches(pcrs)))
            .min_by_key(|(_, mismatches)| mismatches.len());
        match nearest {
            Some((image, mismatches)) if mismatches.is_empty() => Ok(Appraised::tpm(
                self.identity,
                image.name().to_string(),
                image.roles().to_vec(),
                self.claims,
            )),
            Some((image, mismatches)) => Err(AppraisalError::PcrMismatch {
                image: image.name().to_string(),
                explanation: explain(&self.evidence.event_log, image, &mismatches),
                pcrs: mismatches,
            }),
            None => Err(AppraisalError::PcrMismatch {
                image: String::new(),
                explanation: Vec::new(),
                pcrs: Vec::new(),
            }),
        }
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

fn check_selection(quote: &Quote<'_>, policy: &Policy) -> Result<(), AppraisalError> {
    let set = policy.pcr_set();
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
    policy: &Policy,
) -> Result<(), AppraisalError> {
    if !pcrs.keys().eq(policy.tpm_pcrs()) {
        return Err(AppraisalError::PcrValues {
            expected: format!("{:?}", policy.tpm_pcrs()),
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

/// What the event log says about each mismatch.
fn explain(event_log: &[u8], image: &Image, mismatches: &[PcrMismatch]) -> Vec<String> {
    if event_log.is_empty() {
        return vec!["the attester sent no event log".to_string()];
    }
    let log = match EventLog::parse(event_log) {
        Ok(log) => log,
        Err(error) => return vec![format!("the attester's event log is unusable: {error}")],
    };
    mismatches
        .iter()
        .map(|pcr| {
            log.explain(pcr.pcr, &pcr.got.0, image.events(pcr.pcr))
                .to_string()
        })
        .collect()
}

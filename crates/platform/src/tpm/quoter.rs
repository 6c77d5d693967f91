//! A TPM and a key in it that quotes: what every attester with a TPM has.

use super::{
    TpmError,
    commands::{Handle, Tpm},
    flush, pcr_set,
};
use evidence::TpmEvidence;
use tpm::{PcrSet, Quote, composite_digest};

#[derive(Debug)]
pub(super) struct Quoter {
    pub(super) tpm: Tpm,
    pub(super) ak: Handle,
    event_log: Vec<u8>,
}

impl Quoter {
    pub(super) const fn new(tpm: Tpm, ak: Handle, event_log: Vec<u8>) -> Self {
        Self { tpm, ak, event_log }
    }

    /// Quotes the SHA-256 PCRs `pcrs` over `qualifying_data`. Values are read after the quote; where
    /// one was extended in between, both are made once more.
    pub(super) fn quote(
        &mut self,
        qualifying_data: &[u8; 32],
        pcrs: &[u32],
    ) -> Result<TpmEvidence, TpmError> {
        let set = pcr_set(pcrs)?;
        let first = self.quote_once(qualifying_data, set)?;
        if values_are_quoted(&first) {
            return Ok(first);
        }
        self.quote_once(qualifying_data, set)
    }

    fn quote_once(
        &mut self,
        qualifying_data: &[u8; 32],
        set: PcrSet,
    ) -> Result<TpmEvidence, TpmError> {
        let (attestation, signature) = self.tpm.quote(self.ak, qualifying_data, set)?;
        Ok(TpmEvidence {
            attestation,
            signature,
            pcrs: self.tpm.pcr_read(set)?,
            event_log: self.event_log.clone(),
        })
    }

    /// Extends a PCR of the SHA-256 bank.
    pub(super) fn extend(&mut self, pcr: u32, digest: &[u8; 32]) -> Result<(), TpmError> {
        pcr_set(&[pcr])?;
        self.tpm.pcr_extend(pcr, digest)
    }
}

/// Whether the quote is over these values. What is no quote is the verifier's to refuse.
fn values_are_quoted(evidence: &TpmEvidence) -> bool {
    Quote::parse(&evidence.attestation).map_or(true, |quote| {
        quote.pcr_digest == composite_digest(&evidence.pcrs)
    })
}

impl Drop for Quoter {
    fn drop(&mut self) {
        flush(&mut self.tpm, self.ak);
    }
}

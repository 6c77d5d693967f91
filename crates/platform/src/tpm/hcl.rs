//! The vTPM of Azure's paravisor (HCL), which runs inside the SEV-SNP guest at VMPL 0.
//!
//! The paravisor makes the attestation key, asks the firmware for a report over it before the guest
//! starts, and leaves both in the vTPM. So the report is as old as the boot, and a quote by that key is
//! what is fresh. (Azure: "Confidential VM guest attestation design detail"; the numbers are those of
//! Microsoft's own reader, crate `az-cvm-vtpm`.)

use super::{
    TpmError,
    commands::{Handle, OWNER, Tpm},
    device::TpmDevice,
    quoter::Quoter,
    transport::Transport,
};
use evidence::AzureSnpEvidence;

/// Where the paravisor leaves the HCL report; the owner, with an empty password, may read it.
const REPORT: Handle = Handle(0x0140_0001);

/// Where the attestation key is that the report vouches for. The verifier takes the key from the
/// report: another key here only makes quotes that it refuses.
const ATTESTATION_KEY: Handle = Handle(0x8100_0003);

/// The attesting vTPM: the report of this boot and the key that it vouches for.
#[derive(Debug)]
pub struct HclAttester {
    quoter: Quoter,
    report: Vec<u8>,
}

impl HclAttester {
    /// Opens the TPM and reads the report.
    ///
    /// # Errors
    /// If the device does not open, there is no report or no key, or a command fails.
    pub fn open(device: &TpmDevice) -> Result<Self, TpmError> {
        Self::start(device.open()?, device.event_log())
    }

    /// The same over any transport, with a given event log.
    ///
    /// # Errors
    /// If there is no report or no key, or a command fails.
    pub fn start(transport: Box<dyn Transport>, event_log: Vec<u8>) -> Result<Self, TpmError> {
        let mut tpm = Tpm::new(transport);
        let report = tpm.nv_read(OWNER, REPORT)?.ok_or(TpmError::Missing {
            what: "HCL report",
            handle: REPORT.0,
        })?;
        tpm.read_public(ATTESTATION_KEY)?.ok_or(TpmError::Missing {
            what: "attestation key",
            handle: ATTESTATION_KEY.0,
        })?;
        Ok(Self {
            quoter: Quoter::new(tpm, ATTESTATION_KEY, event_log),
            report,
        })
    }

    /// The report, and a quote of the SHA-256 PCRs `pcrs` over `qualifying_data`.
    ///
    /// # Errors
    /// If `pcrs` is empty or names a PCR above 23, or a command fails.
    pub fn attest(
        &mut self,
        qualifying_data: &[u8; 32],
        pcrs: &[u32],
    ) -> Result<AzureSnpEvidence, TpmError> {
        Ok(AzureSnpEvidence {
            quote: self.quoter.quote(qualifying_data, pcrs)?,
            hcl_report: self.report.clone(),
        })
    }

    /// Extends a PCR of the SHA-256 bank.
    ///
    /// # Errors
    /// If the command fails.
    pub fn extend(&mut self, pcr: u32, digest: &[u8; 32]) -> Result<(), TpmError> {
        self.quoter.extend(pcr, digest)
    }
}

//! A vTPM that the host runs beside a confidential guest.

use super::{
    TpmError, commands::Tpm, create_ak, device::TpmDevice, quoter::Quoter, transport::Transport,
};
use evidence::TpmEvidence;
use tpm::EkKind;

/// A vTPM with an attestation key made for this process. Nothing vouches for the key: what it quotes
/// is the host's word.
#[derive(Debug)]
pub struct VtpmAttester {
    quoter: Quoter,
    ak_public: Vec<u8>,
}

impl VtpmAttester {
    /// Opens the TPM and makes the attestation key.
    ///
    /// # Errors
    /// If the device does not open or a command fails.
    pub fn open(device: &TpmDevice) -> Result<Self, TpmError> {
        Self::start(device.open()?)
    }

    /// The same over any transport.
    ///
    /// # Errors
    /// If a command fails.
    pub fn start(transport: Box<dyn Transport>) -> Result<Self, TpmError> {
        let mut tpm = Tpm::new(transport);
        // P-256, which is made in a fraction of the time of RSA.
        let (ak, ak_public) = create_ak(&mut tpm, EkKind::EccP256, &crate::random::array()?)?;
        // An event log explains what PCRs differ in, and these are compared with nothing. With a
        // certificate table beside it, a long one would not fit into a frame.
        Ok(Self {
            quoter: Quoter::new(tpm, ak, Vec::new()),
            ak_public,
        })
    }

    /// `TPMT_PUBLIC` of the attestation key.
    #[must_use]
    pub fn ak_public(&self) -> &[u8] {
        &self.ak_public
    }

    /// Quotes the SHA-256 PCRs `pcrs` over `qualifying_data`.
    ///
    /// # Errors
    /// If `pcrs` is empty or names a PCR above 23, or a command fails.
    pub fn quote(
        &mut self,
        qualifying_data: &[u8; 32],
        pcrs: &[u32],
    ) -> Result<TpmEvidence, TpmError> {
        self.quoter.quote(qualifying_data, pcrs)
    }
}

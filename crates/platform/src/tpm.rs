//! The TPM of this machine, as an attester uses it.
//!
//! [`TpmAttester`] takes the endorsement key, makes an attestation key that lives as long as the
//! process, answers credential challenges and quotes. [`HclAttester`] quotes with the attestation key
//! of Azure's paravisor and hands out the report that vouches for it; [`VtpmAttester`] has an
//! attestation key and nothing that vouches for it. Each is the only user of the device and quotes
//! nothing but the 32 bytes it is given with the PCRs of the SHA-256 bank. Responses come from
//! hardware or from a host's vTPM, so they are parsed like any foreign bytes. Whether this TPM
//! deserves trust is the verifier's question, never asked here.

mod device;
mod hcl;
mod quoter;
mod vtpm;

mod command;
mod commands;
mod event_log;
mod transport;

use crate::random::{self, RandomError};
use commands::{Handle, Tpm};
use evidence::{TpmChallenge, TpmEvidence, TpmIdentity};
use quoter::Quoter;
use std::io;
use tpm::{AttestationKey, EkKind, EndorsementKey, Malformed, PcrSet, Reader};
use zeroize::Zeroizing;

pub use device::{MalformedDevice, TpmDevice};
pub use event_log::{EVENT_LOG_PATH, read_event_log};
pub use hcl::HclAttester;
pub use transport::{DEVICE_PATH, DeviceFile, Socket, Transport};
pub use vtpm::VtpmAttester;

/// NV index and persistent handle of an endorsement key (EK Credential Profile 2.5, section 2.2.1.4;
/// TCG Registry of Reserved TPM 2.0 Handles 1.1, section 2.3.1).
const EK_ECC_P256: EkLocation = EkLocation {
    kind: EkKind::EccP256,
    certificate: Handle(0x01c0_000a),
    persistent: Handle(0x8101_0016),
};
const EK_RSA_2048: EkLocation = EkLocation {
    kind: EkKind::Rsa2048,
    certificate: Handle(0x01c0_0002),
    persistent: Handle(0x8101_0001),
};

/// The longest part of a challenge. The longest that is any is the seed encrypted to an RSA 4096 key.
const MAX_CHALLENGE: usize = 1024;

/// Why the TPM did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// The challenge is none; the device is as good as before.
    #[error("malformed challenge: `{0}`")]
    Challenge(&'static str),
    /// The device does not open.
    #[error("cannot open TPM device `{path}`")]
    Open {
        /// The device.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is no NV index or object where one is looked for.
    #[error("TPM: expected {what} at {handle:#010x}, got none")]
    Missing {
        /// What is looked for.
        what: &'static str,
        /// Where.
        handle: u32,
    },
    /// Exchanging a command with the device failed, a time-out included.
    #[error("{command} could not be exchanged with the TPM")]
    Exchange {
        /// The command.
        command: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kernel gave no random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The TPM answered with an error.
    #[error("{command} failed with response code {code:#x}")]
    Refused {
        /// The command.
        command: &'static str,
        /// `TPM_RC`.
        code: u32,
    },
    /// The response is not what the command returns.
    #[error("{command} returned a malformed response")]
    Response {
        /// The command.
        command: &'static str,
        /// The field.
        #[source]
        source: Malformed,
    },
    /// The PCRs asked for are none, or not all below 24.
    #[error("PCR selection {0:?} is not a set of indices below 24")]
    Selection(Vec<u32>),
}

#[derive(Clone, Copy)]
struct EkLocation {
    kind: EkKind,
    certificate: Handle,
    persistent: Handle,
}

/// The attesting TPM: endorsement key, an attestation key made for this process, event log.
#[derive(Debug)]
pub struct TpmAttester {
    quoter: Quoter,
    ek: Handle,
    identity: TpmIdentity,
    unique: [u8; 32],
}

impl TpmAttester {
    /// Opens the TPM and makes the attestation key.
    ///
    /// # Errors
    /// If the device does not open or a command fails.
    pub fn open(device: &TpmDevice) -> Result<Self, TpmError> {
        Self::start(device.open()?, device.event_log())
    }

    /// Opens the TPM and makes the attestation key that another process made with `unique`: a primary key
    /// follows from the TPM's seed and the template. Whether it is that key is for the caller to compare.
    ///
    /// # Errors
    /// If the device does not open or a command fails.
    pub fn resume(device: &TpmDevice, unique: &[u8; 32]) -> Result<Self, TpmError> {
        Self::make(device.open()?, device.event_log(), *unique)
    }

    /// The same over any transport, with a given event log.
    ///
    /// # Errors
    /// If a command fails.
    pub fn start(transport: Box<dyn Transport>, event_log: Vec<u8>) -> Result<Self, TpmError> {
        Self::make(transport, event_log, random::array()?)
    }

    fn make(
        transport: Box<dyn Transport>,
        event_log: Vec<u8>,
        unique: [u8; 32],
    ) -> Result<Self, TpmError> {
        let mut tpm = Tpm::new(transport);
        let (location, ek_certificate) = find_certificate(&mut tpm)?;
        let (ek, ek_public) = load_ek(&mut tpm, location)?;
        let (ak, ak_public) = match create_ak(&mut tpm, location.kind, &unique) {
            Ok(created) => created,
            Err(error) => {
                flush(&mut tpm, ek);
                return Err(error);
            }
        };
        Ok(Self {
            quoter: Quoter::new(tpm, ak, event_log),
            ek,
            identity: TpmIdentity {
                ek_certificate,
                ek_public,
                ak_public,
            },
            unique,
        })
    }

    /// What the attestation key was made with. It is no secret: without the TPM's seed it makes nothing.
    #[must_use]
    pub const fn unique(&self) -> &[u8; 32] {
        &self.unique
    }

    /// What this attester claims to be. The certificate is empty where the TPM stores none.
    #[must_use]
    pub const fn identity(&self) -> &TpmIdentity {
        &self.identity
    }

    /// Recovers the secret of a credential that was made for this TPM and this attestation key.
    ///
    /// # Errors
    /// If the challenge is malformed or for another TPM or key, or a command fails.
    pub fn activate(&mut self, challenge: &TpmChallenge) -> Result<Zeroizing<[u8; 32]>, TpmError> {
        check_part("credential blob", &challenge.credential_blob)?;
        check_part("encrypted secret", &challenge.encrypted_secret)?;
        let Quoter { tpm, ak, .. } = &mut self.quoter;
        let session = tpm.start_policy_session()?;
        let secret = tpm.policy_secret_endorsement(session).and_then(|()| {
            let objects = [*ak, self.ek, session];
            tpm.activate_credential(objects, challenge)
        });
        tpm.flush_context(session)?;
        secret
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

    /// Extends a PCR of the SHA-256 bank.
    ///
    /// # Errors
    /// If the command fails.
    pub fn extend(&mut self, pcr: u32, digest: &[u8; 32]) -> Result<(), TpmError> {
        self.quoter.extend(pcr, digest)
    }
}

impl Drop for TpmAttester {
    /// Frees the slot. The resource manager would do it when the device closes; a TPM without one has
    /// three slots in all.
    fn drop(&mut self) {
        flush(&mut self.quoter.tpm, self.ek);
    }
}

/// A part of a challenge goes into the command as it came: exactly one `TPM2B`, or the device would see
/// another command than was meant, or one that it cannot take.
fn check_part(part: &'static str, bytes: &[u8]) -> Result<(), TpmError> {
    let mut reader = Reader::new(part, bytes);
    reader
        .sized(part, MAX_CHALLENGE - size_of::<u16>())
        .and_then(|_| reader.finish())
        .map_err(|_| TpmError::Challenge(part))
}

fn pcr_set(pcrs: &[u32]) -> Result<PcrSet, TpmError> {
    PcrSet::new(pcrs.iter().copied()).ok_or_else(|| TpmError::Selection(pcrs.to_vec()))
}

/// The endorsement key to use is the one that has a certificate, ECC before RSA because a TPM
/// makes an ECC key in a fraction of the time. Without any it is RSA, which every TPM has.
fn find_certificate(tpm: &mut Tpm) -> Result<(EkLocation, Vec<u8>), TpmError> {
    for location in [EK_ECC_P256, EK_RSA_2048] {
        let index = location.certificate;
        // Everybody may read a certificate with the index's own empty password.
        if let Some(certificate) = tpm.nv_read(index, index)? {
            return Ok((location, without_padding(certificate)));
        }
    }
    Ok((EK_RSA_2048, Vec::new()))
}

/// Cuts what follows the certificate: vendors make the NV index larger than the certificate.
fn without_padding(mut certificate: Vec<u8>) -> Vec<u8> {
    // SEQUENCE with a two-byte length; every certificate is between 256 bytes and 64 KiB long.
    if let [0x30, 0x82, high, low, ..] = *certificate.as_slice() {
        certificate.truncate(4 + usize::from(u16::from_be_bytes([high, low])));
    }
    certificate
}

/// The persistent endorsement key if it was made from the template, else a new one from it, which
/// is the same key: a primary key is derived from the TPM's seed and the template.
fn load_ek(tpm: &mut Tpm, location: EkLocation) -> Result<(Handle, Vec<u8>), TpmError> {
    if let Some(public) = tpm.read_public(location.persistent)? {
        let parsed = EndorsementKey::parse(&public);
        if parsed.is_ok_and(|key| key.kind() == location.kind) {
            return Ok((location.persistent, public));
        }
    }
    tpm.create_primary(&location.kind.template())
}

/// Makes a restricted signing key of the endorsement key's family, another one for each `unique`. It is a
/// primary key because those need no storage key; the credential challenge ties it to the
/// endorsement key.
fn create_ak(
    tpm: &mut Tpm,
    kind: EkKind,
    unique: &[u8; 32],
) -> Result<(Handle, Vec<u8>), TpmError> {
    tpm.create_primary(&AttestationKey::template(kind, unique))
}

/// Flushes a transient object; persistent ones stay. A failure only keeps a slot busy until the
/// device closes.
fn flush(tpm: &mut Tpm, handle: Handle) {
    if handle.is_transient() {
        drop(tpm.flush_context(handle));
    }
}

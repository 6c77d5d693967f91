//! The attester's side of a session as a test drives it: blocking, one connection at a time, over
//! the TPM of a guest or a software TPM of the host.
//!
//! It attests honestly. What lies is what a test puts under it (the TPM's transport) or around it
//! (another connection); for that its steps can be called one by one. Nothing here is linked into a
//! product.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use attested_tls::{
    ActivatedSecret, Attestation, AttesterProgress, AttesterSession, AttesterTerms,
    EvidenceRequest, RpcClient, SealError, SealingKey, SealingPublicKey, SessionError, SetupError,
    Start, TlsEnd,
};
use evidence::{
    AdmissionPath, AttesterClaim, Binding, Evidence, TpmChallenge, TpmEvidence, TpmIdentity,
};
use owner::OwnerFingerprint;
use platform::random::{self, RandomError};
use platform::sev_guest::{SevGuest, SevGuestError};
use platform::tpm::{TpmAttester, TpmError};

/// A whole handshake, and one call after it.
const LIMIT: Duration = Duration::from_secs(30);

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The admitter wants no proof of where the attestation key lives.
    #[error("the admitter sent no challenge")]
    NoChallenge,
    /// No connection, or it broke off.
    #[error("connection")]
    Connection(#[from] io::Error),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The session ended without a channel.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// No TLS end.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The SNP firmware gave no report.
    #[error(transparent)]
    SevGuest(#[from] SevGuestError),
    /// The TPM did not do what it was asked.
    #[error(transparent)]
    Tpm(#[from] TpmError),
}

/// One boot of an SNP guest: its firmware, another sealing key than the agent's, an owner to obey.
#[derive(Debug)]
pub struct SnpBoot {
    guest: SevGuest,
    sealing_key: SealingKey,
    owner: OwnerFingerprint,
}

impl SnpBoot {
    /// A boot as a process in it sees it.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn new(guest: SevGuest, owner: OwnerFingerprint) -> Result<Self, SealError> {
        let sealing_key = SealingKey::generate()?;
        Ok(Self {
            guest,
            sealing_key,
            owner,
        })
    }

    /// Dials a join service and attests.
    ///
    /// # Errors
    /// [`DialError`]
    pub fn dial(
        &mut self,
        address: SocketAddr,
        path: AdmissionPath,
    ) -> Result<RpcClient, DialError> {
        let terms = AttesterTerms {
            owner: self.owner,
            claim: AttesterClaim::SevSnp,
            sealing_key: self.sealing_key.public_key(),
        };
        converse(address, path, terms, |request| {
            let report = self.guest.report(&request.binding)?;
            Ok(Attestation {
                activated: None,
                evidence: Evidence::SevSnp(report),
            })
        })
    }
}

/// One boot of a node: its TPM, the sealing key of this boot, the owner that it obeys.
#[derive(Debug)]
pub struct Boot {
    tpm: TpmAttester,
    sealing_key: SealingKey,
    owner: OwnerFingerprint,
}

impl Boot {
    /// A boot that begins now.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn new(tpm: TpmAttester, owner: OwnerFingerprint) -> Result<Self, SealError> {
        let sealing_key = SealingKey::generate()?;
        Ok(Self {
            tpm,
            sealing_key,
            owner,
        })
    }

    /// The next boot begins: another sealing key.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn reboot(&mut self) -> Result<(), SealError> {
        self.sealing_key = SealingKey::generate()?;
        Ok(())
    }

    /// What the TPM claims to be.
    #[must_use]
    pub const fn identity(&self) -> &TpmIdentity {
        self.tpm.identity()
    }

    /// The sealing key's public half.
    #[must_use]
    pub const fn sealing_key(&self) -> SealingPublicKey {
        self.sealing_key.public_key()
    }

    /// The TPM.
    pub const fn tpm(&mut self) -> &mut TpmAttester {
        &mut self.tpm
    }

    /// Evidence for one session.
    ///
    /// # Errors
    /// If the TPM fails, as with a challenge for another one.
    pub fn attest(
        &mut self,
        challenge: &TpmChallenge,
        binding: &Binding,
        pcrs: &[u32],
    ) -> Result<(ActivatedSecret, TpmEvidence), TpmError> {
        let secret = self.tpm.activate(challenge)?;
        let activated = ActivatedSecret::try_fill(|bytes| {
            bytes.copy_from_slice(secret.as_slice());
            Ok::<_, TpmError>(())
        })?;
        let quote = self.tpm.quote(&binding.qualifying_data(), pcrs)?;
        Ok((activated, quote))
    }

    /// Dials a join service and attests.
    ///
    /// # Errors
    /// [`DialError`]
    pub fn dial(
        &mut self,
        address: SocketAddr,
        path: AdmissionPath,
    ) -> Result<RpcClient, DialError> {
        let terms = AttesterTerms {
            owner: self.owner,
            claim: AttesterClaim::Tpm(self.identity().clone()),
            sealing_key: self.sealing_key(),
        };
        converse(address, path, terms, |request| {
            let challenge = request.challenge.ok_or(DialError::NoChallenge)?;
            let (activated, quote) = self.attest(&challenge, &request.binding, &request.pcrs)?;
            Ok(Attestation {
                activated: Some(activated),
                evidence: Evidence::Tpm(quote),
            })
        })
    }
}

/// A whole handshake, with the evidence that `attest` makes.
fn converse(
    address: SocketAddr,
    path: AdmissionPath,
    terms: AttesterTerms,
    mut attest: impl FnMut(EvidenceRequest) -> Result<Attestation, DialError>,
) -> Result<RpcClient, DialError> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let start = Start {
        nonce: random::array()?,
        deadline: LIMIT,
    };
    let end = TlsEnd::generate()?;
    let mut session = AttesterSession::connect(&end, start, terms, path)?;
    let begun = Instant::now();
    loop {
        let progress = session.step(begun.elapsed());
        while session.wants_write() {
            session.write_tls(&mut stream)?;
        }
        match progress? {
            AttesterProgress::Established => break,
            AttesterProgress::NeedEvidence(request) => {
                let attestation = attest(request)?;
                session.supply_evidence(Ok(attestation))?;
            }
            AttesterProgress::Pending => {
                session.read_tls(&mut stream)?;
            }
        }
    }
    Ok(RpcClient::new(session.into_channel()?, stream, LIMIT))
}

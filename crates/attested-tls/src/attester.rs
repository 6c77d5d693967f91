//! The attester's session: the agent, dialling (join, rejoin) or dialled (init, recover).

mod client;
mod server;

use evidence::{AdmissionPath, AttesterClaim, Binding, Evidence, Side, TpmChallenge};
use owner::{OwnerFingerprint, OwnerProof, OwnerProofError, ProvenOwner};
use std::time::Duration;

use api::{Class, Malformed, atls};

use crate::{
    ActivatedSecret, Channel, FrameError, ProvenAdmitter, Refusal, SealingPublicKey, SessionError,
    Start, TlsEnd,
    session::{self, Flow, Given, Session, States, tls_io},
    wire::Wire,
};

/// What an attester is and whom it obeys; the same for every session of a boot.
#[derive(Clone, Debug)]
pub struct AttesterTerms {
    /// The owner on the measured command line.
    pub owner: OwnerFingerprint,
    /// What this attester claims to be.
    pub claim: AttesterClaim,
    /// Where secrets are sealed to.
    pub sealing_key: SealingPublicKey,
}

/// What the driver must make evidence of.
#[derive(Debug)]
pub struct EvidenceRequest {
    /// The path of the session.
    pub path: AdmissionPath,
    /// What the evidence is bound to.
    pub binding: Binding,
    /// What the TPM must activate; exactly for a claim that needs a challenge.
    pub challenge: Option<TpmChallenge>,
    /// The SHA-256 PCRs to quote, ascending, each below 24; empty for a kind without a quote.
    pub pcrs: Vec<u32>,
}

/// What the driver makes of an [`EvidenceRequest`].
#[derive(Debug)]
pub struct Attestation {
    /// What the TPM made of the challenge, where there was one.
    pub activated: Option<ActivatedSecret>,
    /// The evidence, of the kind that was claimed.
    pub evidence: Evidence,
}

/// Where a session stands after a step.
#[derive(Debug)]
#[must_use]
pub enum AttesterProgress {
    /// Both verdicts were accepting: [`AttesterSession::into_channel`].
    Established,
    /// Answer with [`AttesterSession::supply_evidence`]; asked once.
    NeedEvidence(EvidenceRequest),
    /// Waits for bytes, to be read or to be written, or for the driver's answer.
    Pending,
}

/// One session of an attester.
pub struct AttesterSession {
    session: Session<State>,
}

type Attester = Given<AttesterTerms>;

/// One struct for each state; docs/protocol.md draws them.
enum State {
    // As TLS client.
    ClientGreeting(client::Greeting),
    AwaitServerHello(client::AwaitServerHello),
    ClientChallenged(client::Challenged),
    AwaitServerAdmission(client::AwaitServerAdmission),
    // As TLS server.
    AwaitClientHello(server::AwaitClientHello),
    AwaitClientAdmission(server::AwaitClientAdmission),
    ServerChallenged(server::Challenged),
    AwaitClientVerdict(server::AwaitClientVerdict),
    // Either.
    Established(ProvenAdmitter),
}

type Turn = session::Turn<State>;

impl States for State {
    const ATTESTS: bool = true;
    type Terms = AttesterTerms;
    type Progress = AttesterProgress;
    type Peer = ProvenAdmitter;

    fn advance(self, wire: &mut Wire, party: &Attester) -> Turn {
        match self {
            Self::ClientGreeting(state) => state.advance(wire, party),
            Self::AwaitServerHello(state) => state.advance(wire, party),
            Self::AwaitServerAdmission(state) => state.advance(wire, party),
            Self::AwaitClientHello(state) => state.advance(wire, party),
            Self::AwaitClientAdmission(state) => state.advance(wire, party),
            Self::AwaitClientVerdict(state) => state.advance(wire),
            Self::ClientChallenged(_) | Self::ServerChallenged(_) => {
                wire.expect_silence()?;
                Ok((self, Flow::Wait))
            }
            Self::Established(_) => Ok((self, Flow::Report(AttesterProgress::Established))),
        }
    }

    fn into_peer(self) -> Option<ProvenAdmitter> {
        match self {
            Self::Established(peer) => Some(peer),
            _ => None,
        }
    }
}

impl AttesterSession {
    /// A session over a connection that this side dialled, on `path`: join or rejoin.
    ///
    /// # Errors
    /// [`SessionError::Path`] for another path.
    pub fn connect(
        end: &TlsEnd,
        start: Start,
        terms: AttesterTerms,
        path: AdmissionPath,
    ) -> Result<Self, SessionError> {
        let state = State::ClientGreeting(client::Greeting { path });
        let session = Session::new(end, start, terms, (Side::Client, &[path]), state)?;
        Ok(Self { session })
    }

    /// A session over a connection that this side accepted, where the peer may choose among
    /// `paths`: init and recover.
    ///
    /// # Errors
    /// [`SessionError::Path`] if one of them is another path.
    pub fn accept(
        end: &TlsEnd,
        start: Start,
        terms: AttesterTerms,
        paths: &[AdmissionPath],
    ) -> Result<Self, SessionError> {
        let state = State::AwaitClientHello(server::AwaitClientHello {
            paths: paths.to_vec(),
        });
        let session = Session::new(end, start, terms, (Side::Server, paths), state)?;
        Ok(Self { session })
    }

    tls_io!();

    /// Moves on as far as the bytes read so far allow; `now` is on the clock of the deadline.
    ///
    /// # Errors
    /// [`SessionError`]: the session is over. Write what [`Self::wants_write`] asks for, close.
    pub fn step(&mut self, now: Duration) -> Result<AttesterProgress, SessionError> {
        let progress = self.session.step(now)?;
        Ok(progress.unwrap_or(AttesterProgress::Pending))
    }

    /// Answers [`AttesterProgress::NeedEvidence`]; then `step`. A driver that cannot make evidence
    /// says with which class: the peer is told if it proved itself, and the session is over.
    ///
    /// # Errors
    /// [`SessionError::RefusedPeer`] after a refusal; [`SessionError::Internal`] if it was not asked.
    pub fn supply_evidence(
        &mut self,
        evidence: Result<Attestation, Class>,
    ) -> Result<(), SessionError> {
        let evidence = evidence.map(message);
        let Session { wire, state, .. } = &mut self.session;
        *state = Some(match state.take() {
            Some(State::ClientChallenged(state)) => state.supply(wire, evidence)?,
            Some(State::ServerChallenged(state)) => state.supply(wire, evidence)?,
            other => return self.session.not_asked(other),
        });
        Ok(())
    }

    /// The channel of an established session.
    ///
    /// # Errors
    /// [`SessionError::Internal`] if the session is not established.
    pub fn into_channel(self) -> Result<Channel<ProvenAdmitter>, SessionError> {
        self.session.into_channel()
    }
}

impl std::fmt::Debug for AttesterSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AttesterSession(..)")
    }
}

/// What the driver said, ready to be sent.
type SuppliedEvidence = Result<atls::Evidence, Class>;

fn message(attestation: Attestation) -> atls::Evidence {
    let activated = attestation.activated;
    atls::Evidence {
        activated_secret: activated.map_or_else(Vec::new, |secret| secret.expose_secret().to_vec()),
        kind: Some(attestation.evidence.into()),
    }
}

/// Evidence that the session can send, or the end of it.
fn sendable(evidence: SuppliedEvidence) -> Result<atls::Evidence, SessionError> {
    evidence.map_err(|class| SessionError::RefusedPeer(Refusal::of(class)))
}

/// Why an admitter did not prove itself.
enum Unproven {
    Malformed(FrameError),
    Owner(OwnerProofError),
}

impl Attester {
    /// Verifies the peer's owner proof for this channel.
    fn verify(
        &self,
        proof: Option<atls::OwnerProof>,
        signer: Side,
        binding: &Binding,
    ) -> Result<ProvenOwner, Unproven> {
        let proof = proof
            .ok_or(Malformed::Missing {
                field: "owner_proof",
            })
            .and_then(OwnerProof::try_from)
            .map_err(|malformed| Unproven::Malformed(malformed.into()))?;
        proof
            .verify(&self.terms.owner, signer, binding)
            .map_err(Unproven::Owner)
    }
}

impl Unproven {
    fn in_frame(self, number: u8) -> SessionError {
        match self {
            Self::Malformed(source) => SessionError::Frame { number, source },
            Self::Owner(error) => SessionError::Owner(error),
        }
    }
}

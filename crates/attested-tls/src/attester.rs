//! The attester's session: the agent, dialling (join, rejoin) or dialled (init, recover).

mod client;
mod server;

use evidence::{AdmissionPath, AttesterClaim, Binding, Evidence, Side, TpmChallenge};
use owner::{OwnerFingerprint, OwnerProof, OwnerProofError, ProvenOwner};
use std::{mem, time::Duration};

use api::{Class, Malformed, atls};

use crate::{
    ActivatedSecret, Channel, FrameError, ProvenAdmitter, Refusal, SealingPublicKey, SessionError,
    Start, TlsEnd,
    wire::{Wire, tls_io},
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
    wire: Wire,
    party: Attester,
    state: State,
}

/// What all states of a session share.
struct Attester {
    terms: AttesterTerms,
    nonce: [u8; 32],
}

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
    Over,
}

/// What a state's step leads to.
type Turn = Result<(State, Flow), SessionError>;

enum Flow {
    Continue,
    Report(AttesterProgress),
    Wait,
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
        Self::new(end, start, terms, (Side::Client, &[path]), state)
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
        Self::new(end, start, terms, (Side::Server, paths), state)
    }

    tls_io!();

    /// Moves on as far as the bytes read so far allow; `now` is on the clock of the deadline.
    ///
    /// # Errors
    /// [`SessionError`]: the session is over. Write what [`Self::wants_write`] asks for, close.
    pub fn step(&mut self, now: Duration) -> Result<AttesterProgress, SessionError> {
        if matches!(self.state, State::Over) {
            return Err(OVER);
        }
        let ready = self
            .wire
            .process(now)
            .inspect_err(|_| self.state = State::Over)?;
        if !ready {
            return Ok(AttesterProgress::Pending);
        }
        loop {
            let (wire, party) = (&mut self.wire, &self.party);
            // An error leaves `Over` behind.
            let (state, flow) = match mem::replace(&mut self.state, State::Over) {
                State::ClientGreeting(state) => state.advance(wire, party)?,
                State::AwaitServerHello(state) => state.advance(wire, party)?,
                State::ClientChallenged(state) => state.wait(wire)?,
                State::AwaitServerAdmission(state) => state.advance(wire, party)?,
                State::AwaitClientHello(state) => state.advance(wire, party)?,
                State::AwaitClientAdmission(state) => state.advance(wire, party)?,
                State::ServerChallenged(state) => state.wait(wire)?,
                State::AwaitClientVerdict(state) => state.advance(wire)?,
                State::Established(peer) => (
                    State::Established(peer),
                    Flow::Report(AttesterProgress::Established),
                ),
                State::Over => return Err(OVER),
            };
            self.state = state;
            match flow {
                Flow::Continue => {}
                Flow::Report(progress) => return Ok(progress),
                Flow::Wait => return Ok(AttesterProgress::Pending),
            }
        }
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
        self.state = match mem::replace(&mut self.state, State::Over) {
            State::ClientChallenged(state) => state.supply(&mut self.wire, evidence)?,
            State::ServerChallenged(state) => state.supply(&mut self.wire, evidence)?,
            other => {
                self.state = other;
                return Err(SessionError::Internal {
                    what: "evidence was not asked for",
                });
            }
        };
        Ok(())
    }

    /// The channel of an established session.
    ///
    /// # Errors
    /// [`SessionError::Internal`] if the session is not established.
    pub fn into_channel(self) -> Result<Channel<ProvenAdmitter>, SessionError> {
        match self.state {
            State::Established(peer) => Ok(Channel::new(self.wire.into_connection(), peer)),
            _ => Err(SessionError::Internal {
                what: "session is not established",
            }),
        }
    }

    fn new(
        end: &TlsEnd,
        start: Start,
        terms: AttesterTerms,
        (side, paths): (Side, &[AdmissionPath]),
        state: State,
    ) -> Result<Self, SessionError> {
        if let Some(&path) = paths.iter().find(|path| path.attester() != side) {
            return Err(SessionError::Path { path });
        }
        Ok(Self {
            wire: Wire::new(end, side, &start)?,
            party: Attester {
                terms,
                nonce: start.nonce,
            },
            state,
        })
    }
}

impl std::fmt::Debug for AttesterSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AttesterSession(..)")
    }
}

const OVER: SessionError = SessionError::Internal {
    what: "session is over",
};

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

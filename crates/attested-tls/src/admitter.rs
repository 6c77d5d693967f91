//! The admitter's session: the join service, dialled (join, rejoin), or the operator's CLI, dialling
//! (init, recover).

mod client;
mod server;

use evidence::{
    AdmissionPath, AttesterClaim, Binding, Evidence, EvidenceKind, Requirement, Side, TpmChallenge,
};
use owner::OwnerProof;
use std::{mem, time::Duration};

use api::{Malformed, atls};

use crate::{
    AcceptedAttester, ActivatedSecret, Channel, FrameError, Refusal, SealingPublicKey,
    SessionError, Start, TlsEnd,
    wire::{Wire, tls_io},
};

/// What an admitter demands of an attester.
#[derive(Clone, Debug)]
pub struct AdmitterTerms {
    /// The evidence that is accepted, each kind once.
    pub accepted: Vec<Requirement>,
}

/// Whose claim the driver must judge, and challenge where its kind needs that.
#[derive(Debug)]
pub struct ChallengeRequest {
    /// The path of the session.
    pub path: AdmissionPath,
    /// What the peer claims to be.
    pub claim: AttesterClaim,
    /// What this session's hello asks for, from the [`AdmitterTerms`] it began with. A driver whose
    /// rules want something else by now must not go on: the peer would be refused for obeying.
    pub requirement: Requirement,
    /// The peer's sealing key, for claims and logs.
    pub sealing_key: SealingPublicKey,
}

/// What the driver must sign for the owner.
#[derive(Debug)]
pub struct OwnerProofRequest {
    /// This side, the signer's.
    pub side: Side,
    /// What is signed.
    pub binding: Binding,
}

/// What the driver must appraise.
#[derive(Debug)]
pub struct AppraisalRequest {
    /// The path of the session.
    pub path: AdmissionPath,
    /// What the evidence must be bound to.
    pub binding: Binding,
    /// What the peer's TPM made of the challenge, as the peer says; exactly where there was one.
    pub activated: Option<ActivatedSecret>,
    /// The evidence, of the kind that was claimed.
    pub evidence: Evidence,
}

/// Where a session stands after a step. Every request is made once.
#[derive(Debug)]
#[must_use]
pub enum AdmitterProgress {
    /// Both verdicts were accepting: [`AdmitterSession::into_channel`].
    Established,
    /// Answer with [`AdmitterSession::supply_appraisal`].
    NeedAppraisal(AppraisalRequest),
    /// Answer with [`AdmitterSession::supply_challenge`].
    NeedChallenge(ChallengeRequest),
    /// Answer with [`AdmitterSession::supply_owner_proof`].
    NeedOwnerProof(OwnerProofRequest),
    /// Waits for bytes, to be read or to be written, or for the driver's answer.
    Pending,
}

/// One session of an admitter; `A` is what its driver's appraisal results in.
pub struct AdmitterSession<A> {
    wire: Wire,
    party: Admitter,
    state: State<A>,
}

/// What all states of a session share.
struct Admitter {
    terms: AdmitterTerms,
    nonce: [u8; 32],
}

/// What is known of the peer once both hellos are exchanged.
struct Hellos {
    path: AdmissionPath,
    kind: EvidenceKind,
    binding: Binding,
    sealing_key: SealingPublicKey,
}

/// One struct for each state; docs/protocol.md draws them.
enum State<A> {
    // As TLS client.
    ClientGreeting(client::Greeting),
    AwaitServerHello(client::AwaitServerHello),
    ClientChallenging(client::Challenging),
    ClientProving(client::Proving),
    AwaitServerEvidence(client::AwaitServerEvidence),
    ClientAppraising(client::Appraising),
    // As TLS server.
    AwaitClientHello(server::AwaitClientHello),
    ServerChallenging(server::Challenging),
    AwaitClientEvidence(server::AwaitClientEvidence),
    ServerAppraising(server::Appraising),
    ServerProving(server::Proving<A>),
    AwaitClientVerdict(server::AwaitClientVerdict<A>),
    // Either.
    Established(AcceptedAttester<A>),
    Over,
}

/// What a state's step leads to.
type Turn<A> = Result<(State<A>, Flow), SessionError>;

#[expect(
    clippy::large_enum_variant,
    reason = "moved once, from a state's step to its caller"
)]
enum Flow {
    Continue,
    Report(AdmitterProgress),
    Wait,
}

impl<A> AdmitterSession<A> {
    /// A session over a connection that this side dialled, on `path`: init or recover.
    ///
    /// # Errors
    /// [`SessionError::Path`] for another path.
    pub fn connect(
        end: &TlsEnd,
        start: Start,
        terms: AdmitterTerms,
        path: AdmissionPath,
    ) -> Result<Self, SessionError> {
        let state = State::ClientGreeting(client::Greeting { path });
        Self::new(end, start, terms, (Side::Client, &[path]), state)
    }

    /// A session over a connection that this side accepted, where the peer may choose among
    /// `paths`: join and rejoin.
    ///
    /// # Errors
    /// [`SessionError::Path`] if one of them is another path.
    pub fn accept(
        end: &TlsEnd,
        start: Start,
        terms: AdmitterTerms,
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
    pub fn step(&mut self, now: Duration) -> Result<AdmitterProgress, SessionError> {
        if matches!(self.state, State::Over) {
            return Err(OVER);
        }
        let ready = self
            .wire
            .process(now)
            .inspect_err(|_| self.state = State::Over)?;
        if !ready {
            return Ok(AdmitterProgress::Pending);
        }
        loop {
            let (wire, party) = (&mut self.wire, &self.party);
            // An error leaves `Over` behind.
            let (state, flow) = match mem::replace(&mut self.state, State::Over) {
                State::ClientGreeting(state) => state.advance(wire, party)?,
                State::AwaitServerHello(state) => state.advance(wire, party)?,
                State::ClientProving(state) => state.advance(wire)?,
                State::AwaitServerEvidence(state) => state.advance(wire)?,
                State::AwaitClientHello(state) => state.advance(wire, party)?,
                State::AwaitClientEvidence(state) => state.advance(wire)?,
                State::ServerProving(state) => state.advance(wire)?,
                State::AwaitClientVerdict(state) => state.advance(wire)?,
                State::Established(peer) => (
                    State::Established(peer),
                    Flow::Report(AdmitterProgress::Established),
                ),
                State::Over => return Err(OVER),
                waiting @ (State::ClientChallenging(_)
                | State::ClientAppraising(_)
                | State::ServerChallenging(_)
                | State::ServerAppraising(_)) => {
                    wire.expect_silence()?;
                    (waiting, Flow::Wait)
                }
            };
            self.state = state;
            match flow {
                Flow::Continue => {}
                Flow::Report(progress) => return Ok(progress),
                Flow::Wait => return Ok(AdmitterProgress::Pending),
            }
        }
    }

    /// Answers [`AdmitterProgress::NeedChallenge`]: a challenge for the peer's attestation key, none for
    /// a kind that needs none, or a refusal of its claim. Then `step`.
    ///
    /// # Errors
    /// [`SessionError::Internal`] if it was not asked, or not for this.
    pub fn supply_challenge(
        &mut self,
        challenge: Result<Option<TpmChallenge>, Refusal>,
    ) -> Result<(), SessionError> {
        self.state = match mem::replace(&mut self.state, State::Over) {
            State::ClientChallenging(state) => State::ClientProving(state.supply(challenge)?),
            State::ServerChallenging(state) => {
                state.supply(&mut self.wire, &self.party, challenge)?
            }
            other => return self.not_asked(other),
        };
        Ok(())
    }

    /// Answers [`AdmitterProgress::NeedAppraisal`] with the appraisal's result; then `step`.
    ///
    /// # Errors
    /// [`SessionError::RefusedPeer`] where this side has proven itself before, the refusal being
    /// queued; [`SessionError::Internal`] if it was not asked.
    pub fn supply_appraisal(&mut self, appraised: Result<A, Refusal>) -> Result<(), SessionError> {
        self.state = match mem::replace(&mut self.state, State::Over) {
            State::ClientAppraising(state) => {
                State::Established(state.supply(&mut self.wire, appraised)?)
            }
            State::ServerAppraising(state) => State::ServerProving(state.supply(appraised)),
            other => return self.not_asked(other),
        };
        Ok(())
    }

    /// Answers [`AdmitterProgress::NeedOwnerProof`]; then `step`. A driver without a proof drops the
    /// session: a verdict without one would be worth nothing.
    ///
    /// # Errors
    /// [`SessionError::RefusedPeer`] after a refusal, which is queued together with the proof;
    /// [`SessionError::Internal`] if it was not asked.
    pub fn supply_owner_proof(&mut self, proof: OwnerProof) -> Result<(), SessionError> {
        self.state = match mem::replace(&mut self.state, State::Over) {
            State::ClientProving(state) => {
                State::AwaitServerEvidence(state.supply(&mut self.wire, proof)?)
            }
            State::ServerProving(state) => {
                State::AwaitClientVerdict(state.supply(&mut self.wire, proof)?)
            }
            other => return self.not_asked(other),
        };
        Ok(())
    }

    /// The channel of an established session.
    ///
    /// # Errors
    /// [`SessionError::Internal`] if the session is not established.
    pub fn into_channel(self) -> Result<Channel<AcceptedAttester<A>>, SessionError> {
        match self.state {
            State::Established(peer) => Ok(Channel::new(self.wire.into_connection(), peer)),
            _ => Err(SessionError::Internal {
                what: "session is not established",
            }),
        }
    }

    fn not_asked(&mut self, state: State<A>) -> Result<(), SessionError> {
        self.state = state;
        Err(SessionError::Internal {
            what: "this answer was not asked for",
        })
    }

    fn new(
        end: &TlsEnd,
        start: Start,
        terms: AdmitterTerms,
        (side, paths): (Side, &[AdmissionPath]),
        state: State<A>,
    ) -> Result<Self, SessionError> {
        if let Some(&path) = paths.iter().find(|path| path.attester() == side) {
            return Err(SessionError::Path { path });
        }
        Ok(Self {
            wire: Wire::new(end, side, &start)?,
            party: Admitter {
                terms,
                nonce: start.nonce,
            },
            state,
        })
    }
}

impl<A> std::fmt::Debug for AdmitterSession<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdmitterSession(..)")
    }
}

const OVER: SessionError = SessionError::Internal {
    what: "session is over",
};

impl Hellos {
    fn accept<A>(self, appraised: A) -> AcceptedAttester<A> {
        AcceptedAttester::new(self.path, self.binding, self.sealing_key, appraised)
    }
}

/// Whether the peer's kind of evidence is accepted: then what is asked of it, else its refusal.
fn requirement_for(claim: &AttesterClaim, terms: &AdmitterTerms) -> Result<Requirement, Refusal> {
    let kind = claim.kind();
    let accepted = terms.accepted.iter();
    let found = accepted
        .clone()
        .find(|requirement| requirement.kind == kind);
    found.cloned().ok_or_else(|| {
        let kinds: Vec<&str> = accepted.map(|wanted| wanted.kind.as_str()).collect();
        Refusal::for_check("evidence kind", kinds.join(" or "), kind)
    })
}

/// The driver's challenge comes exactly with a kind that needs one.
fn fitting(
    kind: EvidenceKind,
    challenge: Result<Option<TpmChallenge>, Refusal>,
) -> Result<Result<Option<TpmChallenge>, Refusal>, SessionError> {
    match &challenge {
        Ok(given) if given.is_some() != kind.needs_challenge() => Err(SessionError::Internal {
            what: "the challenge does not fit the kind of evidence",
        }),
        _ => Ok(challenge),
    }
}

/// The attester's evidence, out of its frame.
fn parse_evidence(
    message: Option<atls::Evidence>,
    hellos: Hellos,
) -> Result<(AppraisalRequest, Hellos), FrameError> {
    let mut message = message.ok_or(Malformed::Missing { field: "evidence" })?;
    let activated = parse_activated(hellos.kind, &message.activated_secret)?;
    let kind = message.kind.take().ok_or(Malformed::Missing {
        field: "evidence.kind",
    })?;
    let evidence = Evidence::try_from(kind)?;
    if evidence.kind() != hellos.kind {
        return Err(FrameError::Contradiction {
            field: "evidence.kind",
            expected: hellos.kind.to_string(),
            got: evidence.kind().to_string(),
        });
    }
    let request = AppraisalRequest {
        path: hellos.path,
        binding: hellos.binding.clone(),
        activated,
        evidence,
    };
    Ok((request, hellos))
}

/// The activated secret comes exactly with a kind that was challenged.
fn parse_activated(
    kind: EvidenceKind,
    secret: &[u8],
) -> Result<Option<ActivatedSecret>, Malformed> {
    const FIELD: &str = "evidence.activated_secret";
    match (kind.needs_challenge(), secret) {
        (false, []) => Ok(None),
        (false, _) => Err(Malformed::Unexpected { field: FIELD }),
        (true, secret) => match ActivatedSecret::from_slice(secret) {
            Some(secret) => Ok(Some(secret)),
            None => Err(Malformed::Length {
                field: FIELD,
                expected: ActivatedSecret::LEN,
                got: secret.len(),
            }),
        },
    }
}

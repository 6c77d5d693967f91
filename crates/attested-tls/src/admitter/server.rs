//! The admitter as TLS server: join and rejoin.

use api::atls;
use evidence::{AdmissionPath, EvidenceKind, Side, TpmChallenge};
use owner::OwnerProof;

use super::{
    Admitter, AdmitterProgress, Flow, Hellos, State, Turn, ask_for_proof, challenge_request,
    fitting, parse_evidence,
};
use crate::{
    Refusal, SealingPublicKey, SessionError,
    frame::Payload,
    hello::{self, Hello},
    refusal::{parse_verdict, verdict},
    wire::{Wire, in_frame},
};

/// Waits for frame 1.
pub(super) struct AwaitClientHello {
    pub(super) paths: Vec<AdmissionPath>,
}

impl AwaitClientHello {
    pub(super) fn advance<A>(self, wire: &mut Wire, party: &Admitter) -> Turn<A> {
        let Some(client_hello) = wire.receive_payload(1)? else {
            return Ok((State::AwaitClientHello(self), Flow::Wait));
        };
        wire.expect_silence()?;
        let (path, attester) = Hello::parse_attester(&client_hello).map_err(in_frame(1))?;
        if !self.paths.contains(&path) {
            return Err(SessionError::Path { path });
        }
        let next = Challenging {
            path,
            kind: attester.claim.kind(),
            client_hello,
            sealing_key: attester.sealing_key,
        };
        match challenge_request(path, attester, &party.terms) {
            Ok(request) => Ok((
                State::ServerChallenging(next),
                Flow::Report(AdmitterProgress::NeedChallenge(request)),
            )),
            Err(refusal) => Ok((next.supply(wire, party, Err(refusal))?, Flow::Continue)),
        }
    }
}

/// Waits for the driver's challenge; then frame 2 goes out.
pub(super) struct Challenging {
    path: AdmissionPath,
    kind: EvidenceKind,
    client_hello: Payload,
    sealing_key: SealingPublicKey,
}

impl Challenging {
    /// A refusal skips the attester's turn: frame 2 accepts nothing, frame 4 follows it.
    pub(super) fn supply<A>(
        self,
        wire: &mut Wire,
        party: &Admitter,
        challenge: Result<Option<TpmChallenge>, Refusal>,
    ) -> Result<State<A>, SessionError> {
        let (accepted, challenge, refusal) = match fitting(self.kind, challenge)? {
            Ok(challenge) => (party.terms.accepted.as_slice(), challenge, None),
            Err(refusal) => (&[][..], None, Some(refusal)),
        };
        let hello = hello::admitter_hello(party.nonce, self.path, accepted, challenge);
        let server_hello = wire.send(&hello)?;
        let hellos = Hellos {
            path: self.path,
            kind: self.kind,
            binding: wire.binding(Side::Client, &self.client_hello, &server_hello)?,
            sealing_key: self.sealing_key,
        };
        Ok(match refusal {
            None => State::AwaitClientEvidence(AwaitClientEvidence { hellos }),
            Some(refusal) => State::ServerProving(Appraising { hellos }.supply(Err(refusal))),
        })
    }
}

/// Waits for frame 3.
pub(super) struct AwaitClientEvidence {
    hellos: Hellos,
}

impl AwaitClientEvidence {
    pub(super) fn advance<A>(self, wire: &mut Wire) -> Turn<A> {
        let Some(message) = wire.receive::<atls::ClientEvidence>(3)? else {
            return Ok((State::AwaitClientEvidence(self), Flow::Wait));
        };
        wire.expect_silence()?;
        let (request, hellos) =
            parse_evidence(message.evidence, self.hellos).map_err(in_frame(3))?;
        Ok((
            State::ServerAppraising(Appraising { hellos }),
            Flow::Report(AdmitterProgress::NeedAppraisal(request)),
        ))
    }
}

/// Waits for the driver's appraisal.
pub(super) struct Appraising {
    hellos: Hellos,
}

impl Appraising {
    pub(super) fn supply<A>(self, appraised: Result<A, Refusal>) -> Proving<A> {
        Proving {
            hellos: self.hellos,
            appraised,
            asked: false,
        }
    }
}

/// Asks the driver for the owner proof, then waits for it.
pub(super) struct Proving<A> {
    hellos: Hellos,
    appraised: Result<A, Refusal>,
    asked: bool,
}

impl<A> Proving<A> {
    pub(super) fn advance(mut self, wire: &mut Wire) -> Turn<A> {
        wire.expect_silence()?;
        let flow = ask_for_proof(&mut self.asked, Side::Server, &self.hellos);
        Ok((State::ServerProving(self), flow))
    }

    pub(super) fn supply(
        self,
        wire: &mut Wire,
        proof: OwnerProof,
    ) -> Result<AwaitClientVerdict<A>, SessionError> {
        let refusal = self.appraised.as_ref().err().map(Refusal::class_only);
        wire.send(&atls::ServerAdmission {
            owner_proof: Some(proof.into()),
            verdict: Some(verdict(refusal)),
        })?;
        Ok(AwaitClientVerdict {
            hellos: self.hellos,
            appraised: self.appraised.map_err(SessionError::RefusedPeer)?,
        })
    }
}

/// Waits for frame 5.
pub(super) struct AwaitClientVerdict<A> {
    hellos: Hellos,
    appraised: A,
}

impl<A> AwaitClientVerdict<A> {
    pub(super) fn advance(self, wire: &mut Wire) -> Turn<A> {
        // What follows frame 5 may be the first request already.
        let Some(message) = wire.receive::<atls::ClientVerdict>(5)? else {
            return Ok((State::AwaitClientVerdict(self), Flow::Wait));
        };
        match parse_verdict(message.verdict).map_err(|e| in_frame(5)(e.into()))? {
            Some(refusal) => Err(SessionError::RefusedByAttester(refusal)),
            None => {
                let peer = self.hellos.accept(self.appraised);
                Ok((State::Established(peer), Flow::Continue))
            }
        }
    }
}

//! The admitter as TLS client: init and recover.

use api::atls;
use evidence::{AdmissionPath, Side, TpmChallenge};
use owner::OwnerProof;

use super::{
    Admitter, AdmitterProgress, Flow, Hellos, State, Turn, ask_for_proof, challenge_request,
    fitting, parse_evidence,
};
use crate::{
    AcceptedAttester, Refusal, SessionError,
    frame::Payload,
    hello::{self, Hello},
    refusal::{parse_verdict, verdict},
    wire::{Wire, in_frame},
};

/// TLS is up; frame 1 goes out.
pub(super) struct Greeting {
    pub(super) path: AdmissionPath,
}

impl Greeting {
    pub(super) fn advance<A>(self, wire: &mut Wire, party: &Admitter) -> Turn<A> {
        wire.expect_silence()?;
        let hello = hello::admitter_hello(party.nonce, self.path, &party.terms.accepted, None);
        let next = AwaitServerHello {
            path: self.path,
            client_hello: wire.send(&hello)?,
        };
        Ok((State::AwaitServerHello(next), Flow::Continue))
    }
}

/// Waits for frame 2.
pub(super) struct AwaitServerHello {
    path: AdmissionPath,
    client_hello: Payload,
}

impl AwaitServerHello {
    pub(super) fn advance<A>(self, wire: &mut Wire, party: &Admitter) -> Turn<A> {
        let Some(server_hello) = wire.receive_payload(2)? else {
            return Ok((State::AwaitServerHello(self), Flow::Wait));
        };
        wire.expect_silence()?;
        let (path, attester) = Hello::parse_attester(&server_hello).map_err(in_frame(2))?;
        hello::same_path(self.path, path).map_err(in_frame(2))?;
        let hellos = Hellos {
            path,
            kind: attester.claim.kind(),
            binding: wire.binding(Side::Server, &self.client_hello, &server_hello)?,
            sealing_key: attester.sealing_key,
        };
        match challenge_request(path, attester, &party.terms) {
            Ok(request) => Ok((
                State::ClientChallenging(Challenging { hellos }),
                Flow::Report(AdmitterProgress::NeedChallenge(request)),
            )),
            Err(refusal) => {
                let next = Challenging { hellos }.supply(Err(refusal))?;
                Ok((State::ClientProving(next), Flow::Continue))
            }
        }
    }
}

/// Waits for the driver's challenge.
pub(super) struct Challenging {
    hellos: Hellos,
}

impl Challenging {
    pub(super) fn supply(
        self,
        challenge: Result<Option<TpmChallenge>, Refusal>,
    ) -> Result<Proving, SessionError> {
        Ok(Proving {
            challenge: fitting(self.hellos.kind, challenge)?,
            hellos: self.hellos,
            asked: false,
        })
    }
}

/// Asks the driver for the owner proof, then waits for it.
pub(super) struct Proving {
    hellos: Hellos,
    challenge: Result<Option<TpmChallenge>, Refusal>,
    asked: bool,
}

impl Proving {
    pub(super) fn advance<A>(mut self, wire: &mut Wire) -> Turn<A> {
        wire.expect_silence()?;
        let flow = ask_for_proof(&mut self.asked, Side::Client, &self.hellos);
        Ok((State::ClientProving(self), flow))
    }

    pub(super) fn supply(
        self,
        wire: &mut Wire,
        proof: OwnerProof,
    ) -> Result<AwaitServerEvidence, SessionError> {
        use atls::client_admission::Answer;
        let (answer, refusal) = match self.challenge {
            Ok(Some(challenge)) => (Answer::Challenge(challenge.into()), None),
            Ok(None) => (Answer::Unchallenged(atls::Accepted {}), None),
            Err(refusal) => (Answer::Refusal(refusal.class_only()), Some(refusal)),
        };
        wire.send(&atls::ClientAdmission {
            answer: Some(answer),
            owner_proof: Some(proof.into()),
        })?;
        match refusal {
            None => Ok(AwaitServerEvidence {
                hellos: self.hellos,
            }),
            Some(refusal) => Err(SessionError::RefusedPeer(refusal)),
        }
    }
}

/// Waits for frame 4.
pub(super) struct AwaitServerEvidence {
    hellos: Hellos,
}

impl AwaitServerEvidence {
    pub(super) fn advance<A>(self, wire: &mut Wire) -> Turn<A> {
        let Some(message) = wire.receive::<atls::ServerEvidence>(4)? else {
            return Ok((State::AwaitServerEvidence(self), Flow::Wait));
        };
        wire.expect_silence()?;
        if let Some(refusal) = parse_verdict(message.verdict).map_err(|e| in_frame(4)(e.into()))? {
            return Err(SessionError::RefusedByAttester(refusal));
        }
        let (request, hellos) =
            parse_evidence(message.evidence, self.hellos).map_err(in_frame(4))?;
        Ok((
            State::ClientAppraising(Appraising { hellos }),
            Flow::Report(AdmitterProgress::NeedAppraisal(request)),
        ))
    }
}

/// Waits for the driver's appraisal.
pub(super) struct Appraising {
    hellos: Hellos,
}

impl Appraising {
    pub(super) fn supply<A>(
        self,
        wire: &mut Wire,
        appraised: Result<A, Refusal>,
    ) -> Result<AcceptedAttester<A>, SessionError> {
        let refusal = appraised.as_ref().err().map(Refusal::class_only);
        wire.send(&atls::ClientVerdict {
            verdict: Some(verdict(refusal)),
        })?;
        let appraised = appraised.map_err(SessionError::RefusedPeer)?;
        Ok(self.hellos.accept(appraised))
    }
}

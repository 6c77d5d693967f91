//! The attester as TLS server: init and recover.

use api::{Class, Malformed, atls};
use evidence::{AdmissionPath, Binding, Side};
use owner::ProvenOwner;

use super::{
    Attester, AttesterProgress, EvidenceRequest, Flow, State, SuppliedEvidence, Turn, sendable,
};
use crate::{
    FrameError, ProvenAdmitter, Refusal, SessionError,
    hello::{self, Hello},
    refusal::{parse_verdict, verdict},
    wire::{Wire, in_frame},
};

/// Waits for frame 1.
pub(super) struct AwaitClientHello {
    pub(super) paths: Vec<AdmissionPath>,
}

impl AwaitClientHello {
    pub(super) fn advance(self, wire: &mut Wire, party: &Attester) -> Turn {
        let Some(client_hello) = wire.receive_payload(1)? else {
            return Ok((State::AwaitClientHello(self), Flow::Wait));
        };
        let (path, admitter) = Hello::parse_admitter(&client_hello).map_err(in_frame(1))?;
        if !self.paths.contains(&path) {
            return Err(SessionError::Path { path });
        }
        if admitter.challenge.is_some() {
            return Err(in_frame(1)(FrameError::Contradiction {
                field: "hello.challenge",
                expected: "none in frame 1".to_owned(),
                got: "one".to_owned(),
            }));
        }
        wire.expect_silence()?;
        let server_hello = wire.send(&hello::attester_hello(party.nonce, path, &party.terms))?;
        let next = AwaitClientAdmission {
            path,
            binding: wire.binding(Side::Server, &client_hello, &server_hello)?,
            pcrs: admitter.pcrs_of(party.terms.claim.kind()),
        };
        Ok((State::AwaitClientAdmission(next), Flow::Continue))
    }
}

/// Waits for frame 3.
pub(super) struct AwaitClientAdmission {
    path: AdmissionPath,
    binding: Binding,
    /// What to quote; `None` where frame 1 does not accept this kind of evidence, and frame 3 can only
    /// be a refusal.
    pcrs: Option<Vec<u32>>,
}

impl AwaitClientAdmission {
    pub(super) fn advance(self, wire: &mut Wire, party: &Attester) -> Turn {
        let Some(message) = wire.receive::<atls::ClientAdmission>(3)? else {
            return Ok((State::AwaitClientAdmission(self), Flow::Wait));
        };
        wire.expect_silence()?;
        let answer = parse_answer(message.answer).map_err(in_frame(3))?;
        let proven = party.verify(message.owner_proof, Side::Client, &self.binding);
        match (answer, proven) {
            (Err(refusal), Ok(_)) => Err(SessionError::RefusedByOwner(refusal)),
            (Err(refusal), Err(_)) => Err(SessionError::RefusedWithoutProof {
                class: refusal.class,
            }),
            (Ok(_), Err(unproven)) => {
                send_refusal(wire, Refusal::of(Class::Refused).class_only())?;
                Err(unproven.in_frame(3))
            }
            (Ok(challenge), Ok(owner)) => {
                let kind = party.terms.claim.kind();
                let pcrs = self.pcrs.ok_or_else(|| {
                    in_frame(3)(FrameError::Contradiction {
                        field: "client_admission.answer",
                        expected: format!("a refusal of {kind}, which frame 1 does not accept"),
                        got: "none".to_owned(),
                    })
                })?;
                hello::check_challenge("client_admission.challenge", kind, challenge.as_ref())
                    .map_err(in_frame(3))?;
                let request = EvidenceRequest {
                    path: self.path,
                    binding: self.binding.clone(),
                    challenge,
                    pcrs,
                };
                let next = Challenged {
                    path: self.path,
                    binding: self.binding,
                    owner,
                };
                Ok((
                    State::ServerChallenged(next),
                    Flow::Report(AttesterProgress::NeedEvidence(request)),
                ))
            }
        }
    }
}

/// Waits for the driver's evidence.
pub(super) struct Challenged {
    path: AdmissionPath,
    binding: Binding,
    owner: ProvenOwner,
}

impl Challenged {
    pub(super) fn supply(
        self,
        wire: &mut Wire,
        evidence: SuppliedEvidence,
    ) -> Result<State, SessionError> {
        let evidence = sendable(evidence).inspect_err(|error| {
            // The peer proved to act for our owner: it may know. Failing to tell it changes nothing.
            if let SessionError::RefusedPeer(refusal) = error {
                drop(send_refusal(wire, refusal.with_checks()));
            }
        })?;
        wire.send(&atls::ServerEvidence {
            verdict: Some(verdict(None)),
            evidence: Some(evidence),
        })?;
        Ok(State::AwaitClientVerdict(AwaitClientVerdict {
            path: self.path,
            binding: self.binding,
            owner: self.owner,
        }))
    }
}

/// Waits for frame 5.
pub(super) struct AwaitClientVerdict {
    path: AdmissionPath,
    binding: Binding,
    owner: ProvenOwner,
}

impl AwaitClientVerdict {
    pub(super) fn advance(self, wire: &mut Wire) -> Turn {
        let Some(message) = wire.receive::<atls::ClientVerdict>(5)? else {
            return Ok((State::AwaitClientVerdict(self), Flow::Wait));
        };
        match parse_verdict(message.verdict).map_err(|e| in_frame(5)(e.into()))? {
            Some(refusal) => Err(SessionError::RefusedByOwner(refusal)),
            None => {
                let peer = ProvenAdmitter::new(self.path, self.binding, self.owner);
                Ok((State::Established(peer), Flow::Continue))
            }
        }
    }
}

/// The challenge, if there is one, or the admitter's refusal of the claim.
fn parse_answer(
    answer: Option<atls::client_admission::Answer>,
) -> Result<Result<Option<evidence::TpmChallenge>, Refusal>, FrameError> {
    use atls::client_admission::Answer;
    match answer {
        None => Err(Malformed::Missing {
            field: "client_admission.answer",
        }
        .into()),
        Some(Answer::Challenge(challenge)) => Ok(Ok(Some(challenge.try_into()?))),
        Some(Answer::Unchallenged(atls::Accepted {})) => Ok(Ok(None)),
        Some(Answer::Refusal(refusal)) => Ok(Err(refusal.try_into()?)),
    }
}

fn send_refusal(wire: &mut Wire, refusal: atls::Refusal) -> Result<(), SessionError> {
    let message = atls::ServerEvidence {
        verdict: Some(verdict(Some(refusal))),
        evidence: None,
    };
    wire.send(&message).map(|_| ())
}

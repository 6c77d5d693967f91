//! The attester as TLS client: join and rejoin.

use api::{Class, Malformed, atls};
use evidence::{AdmissionPath, Binding, Side};

use super::{
    Attester, AttesterProgress, EvidenceRequest, Flow, State, SuppliedEvidence, Turn, sendable,
};
use crate::{
    ProvenAdmitter, Refusal, SessionError,
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
    pub(super) fn advance(self, wire: &mut Wire, party: &Attester) -> Turn {
        wire.expect_silence()?;
        let client_hello =
            wire.send(&hello::attester_hello(party.nonce, self.path, &party.terms))?;
        let next = AwaitServerHello {
            path: self.path,
            client_hello,
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
    pub(super) fn advance(self, wire: &mut Wire, party: &Attester) -> Turn {
        let Some(server_hello) = wire.receive_payload(2)? else {
            return Ok((State::AwaitServerHello(self), Flow::Wait));
        };
        let (path, admitter) = Hello::parse_admitter(&server_hello).map_err(in_frame(2))?;
        hello::same_path(self.path, path).map_err(in_frame(2))?;
        let binding = wire.binding(Side::Client, &self.client_hello, &server_hello)?;
        let kind = party.terms.claim.kind();
        let Some(pcrs) = admitter.pcrs_of(kind) else {
            // Not to be accepted announces a refusal in frame 4.
            let next = AwaitServerAdmission {
                path,
                binding,
                evidence_sent: false,
            };
            return Ok((State::AwaitServerAdmission(next), Flow::Continue));
        };
        hello::check_challenge("hello.challenge", kind, admitter.challenge.as_ref())
            .map_err(in_frame(2))?;
        wire.expect_silence()?;
        let request = EvidenceRequest {
            path,
            binding: binding.clone(),
            challenge: admitter.challenge,
            pcrs,
        };
        Ok((
            State::ClientChallenged(Challenged { path, binding }),
            Flow::Report(AttesterProgress::NeedEvidence(request)),
        ))
    }
}

/// Waits for the driver's evidence.
pub(super) struct Challenged {
    path: AdmissionPath,
    binding: Binding,
}

impl Challenged {
    pub(super) fn supply(
        self,
        wire: &mut Wire,
        evidence: SuppliedEvidence,
    ) -> Result<State, SessionError> {
        // The peer proved nothing yet, so without evidence it is told nothing.
        let evidence = Some(sendable(evidence)?);
        wire.send(&atls::ClientEvidence { evidence })?;
        Ok(State::AwaitServerAdmission(AwaitServerAdmission {
            path: self.path,
            binding: self.binding,
            evidence_sent: true,
        }))
    }
}

/// Waits for frame 4.
pub(super) struct AwaitServerAdmission {
    path: AdmissionPath,
    binding: Binding,
    evidence_sent: bool,
}

impl AwaitServerAdmission {
    pub(super) fn advance(self, wire: &mut Wire, party: &Attester) -> Turn {
        let Some(message) = wire.receive::<atls::ServerAdmission>(4)? else {
            return Ok((State::AwaitServerAdmission(self), Flow::Wait));
        };
        let refusal = parse_verdict(message.verdict).map_err(|e| in_frame(4)(e.into()))?;
        let proven = party.verify(message.owner_proof, Side::Server, &self.binding);
        match (refusal, proven) {
            (Some(refusal), Ok(_)) => Err(SessionError::RefusedByOwner(refusal)),
            (Some(refusal), Err(_)) => Err(SessionError::RefusedWithoutProof {
                class: refusal.class,
            }),
            (None, Err(unproven)) => {
                send_verdict(wire, Some(&Refusal::of(Class::Refused)))?;
                Err(unproven.in_frame(4))
            }
            (None, Ok(_)) if !self.evidence_sent => Err(in_frame(4)(
                Malformed::Missing {
                    field: "server_admission.verdict.refusal",
                }
                .into(),
            )),
            (None, Ok(owner)) => {
                wire.expect_silence()?;
                send_verdict(wire, None)?;
                let peer = ProvenAdmitter::new(self.path, self.binding, owner);
                Ok((State::Established(peer), Flow::Continue))
            }
        }
    }
}

fn send_verdict(wire: &mut Wire, refusal: Option<&Refusal>) -> Result<(), SessionError> {
    let verdict = Some(verdict(refusal.map(Refusal::class_only)));
    wire.send(&atls::ClientVerdict { verdict }).map(|_| ())
}

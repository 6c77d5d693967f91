//! A peer that does TLS by the book and everything inside it by hand.
//!
//! Its four scripts are a second implementation of the protocol, written from docs/protocol.md with
//! the messages alone. A tamper function sees every frame before it is sent.

use api::atls;
use evidence::{
    AdmissionPath, Binding, Channel, EXPORTER_LABEL, Side, TpmChallenge, exporter_context,
};
use prost::Message;
use rustls::Connection;
use std::io::{Read, Write};

use super::parties::*;
use crate::{TlsEnd, tls};

/// Changes the bytes of frame `n`, its length prefix included.
pub(super) type Tamper<'a> = &'a dyn Fn(u8, Vec<u8>) -> Vec<u8>;

pub(super) fn untouched(_frame: u8, bytes: Vec<u8>) -> Vec<u8> {
    bytes
}

pub(super) fn framed(payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap();
    [&len.to_be_bytes(), payload].concat()
}

/// The hand-written peer, and the honest party on the other end of its cable.
pub(super) struct Raw<P> {
    pub(super) subject: P,
    pub(super) connection: Connection,
    side: Side,
    own_spki: Vec<u8>,
    to_subject: Vec<u8>,
    from_subject: Vec<u8>,
}

impl<P: Party> Raw<P> {
    /// A hand-written peer on `side`, with TLS set up.
    pub(super) fn against(subject: P, side: Side) -> Self {
        let end = TlsEnd::generate().unwrap();
        let mut raw = Self {
            subject,
            connection: end.connection(side).unwrap(),
            side,
            own_spki: end.spki().to_vec(),
            to_subject: Vec::new(),
            from_subject: Vec::new(),
        };
        raw.pump();
        raw
    }

    /// Moves bytes until nobody has any.
    pub(super) fn pump(&mut self) {
        loop {
            let before = self.to_subject.len();
            while self.connection.wants_write() {
                self.connection.write_tls(&mut self.to_subject).unwrap();
            }
            let sent = self.to_subject.len() > before;
            let answer = self.subject.turn(&mut self.to_subject);
            let answered = !answer.is_empty();
            self.from_subject.extend(answer);
            while !self.from_subject.is_empty() && self.connection.wants_read() {
                let mut unread = self.from_subject.as_slice();
                let got = self.connection.read_tls(&mut unread).unwrap();
                self.from_subject.drain(..got);
                if self.connection.process_new_packets().is_err() {
                    return;
                }
            }
            if !sent && !answered {
                return;
            }
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        // Over 64 KiB may be on its way: as much as fits at a time.
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = self.connection.writer().write(rest).unwrap();
            rest = &rest[written..];
            self.pump();
        }
    }

    /// The next frame's payload, or what is left when there is none.
    pub(super) fn receive(&mut self) -> Option<Vec<u8>> {
        self.pump();
        let mut header = [0; 4];
        self.connection.reader().read_exact(&mut header).ok()?;
        let mut payload = vec![0; u32::from_be_bytes(header) as usize];
        self.connection.reader().read_exact(&mut payload).ok()?;
        Some(payload)
    }

    pub(super) fn binding(&self, attester: Side, hellos: (&[u8], &[u8])) -> Binding {
        let peer = self.connection.peer_certificates().unwrap();
        let peer_spki = tls::spki(&peer[0]).unwrap();
        let (client_spki, server_spki) = match self.side {
            Side::Client => (&self.own_spki, &peer_spki),
            Side::Server => (&peer_spki, &self.own_spki),
        };
        let context = exporter_context(hellos.0, hellos.1);
        let exporter = self
            .connection
            .export_keying_material([0; 32], EXPORTER_LABEL, Some(&context))
            .unwrap();
        Binding::compute(&Channel {
            attester,
            client_hello: hellos.0,
            server_hello: hellos.1,
            client_spki,
            server_spki,
            exporter: &exporter,
        })
    }
}

pub(super) fn attester_hello(path: AdmissionPath) -> atls::Hello {
    atls::Hello {
        version: 1,
        nonce: vec![3; 32],
        path: atls::AdmissionPath::from(path).into(),
        side: Some(atls::hello::Side::Attester(atls::Attester {
            offered: atls::EvidenceKind::Tpm.into(),
            sealing_key: SEALING_KEY.as_bytes().to_vec(),
            tpm: Some(identity().into()),
            vtpm_ak_public: Vec::new(),
        })),
    }
}

pub(super) fn admitter_hello(path: AdmissionPath, challenge: Option<TpmChallenge>) -> atls::Hello {
    atls::Hello {
        version: 1,
        nonce: vec![4; 32],
        path: atls::AdmissionPath::from(path).into(),
        side: Some(atls::hello::Side::Admitter(atls::Admitter {
            accepted: admitter_terms()
                .accepted
                .into_iter()
                .map(Into::into)
                .collect(),
            challenge: challenge.map(Into::into),
        })),
    }
}

pub(super) fn accepted() -> Option<atls::Verdict> {
    Some(atls::Verdict {
        verdict: Some(atls::verdict::Verdict::Accepted(atls::Accepted {})),
    })
}

pub(super) fn evidence(challenge: &TpmChallenge, binding: &Binding) -> Option<atls::Evidence> {
    let evidence = quote(binding, &PCRS);
    Some(atls::Evidence {
        activated_secret: activate(challenge).expose_secret().to_vec(),
        kind: Some(evidence.into()),
    })
}

fn send<P: Party>(
    raw: &mut Raw<P>,
    frame: u8,
    message: &impl Message,
    tamper: Tamper<'_>,
) -> Vec<u8> {
    let payload = message.encode_to_vec();
    raw.send(&tamper(frame, framed(&payload)));
    payload
}

fn send_verdict<P: Party>(raw: &mut Raw<P>, tamper: Tamper<'_>) {
    let verdict = accepted();
    send(raw, 5, &atls::ClientVerdict { verdict }, tamper);
}

/// A node that dials an admitter; stops where the admitter does.
pub(super) fn dialling_attester(
    raw: &mut Raw<Office>,
    path: AdmissionPath,
    tamper: Tamper<'_>,
) -> Option<()> {
    let client_hello = send(raw, 1, &attester_hello(path), tamper);
    let server_hello = raw.receive()?;
    let hello = atls::Hello::decode(server_hello.as_slice()).unwrap();
    let Some(atls::hello::Side::Admitter(admitter)) = hello.side else {
        panic!("not an admitter: {hello:?}")
    };
    let challenge = admitter.challenge?.try_into().unwrap();
    let binding = raw.binding(Side::Client, (&client_hello, &server_hello));
    let evidence = evidence(&challenge, &binding);
    send(raw, 3, &atls::ClientEvidence { evidence }, tamper);
    raw.receive()?;
    send_verdict(raw, tamper);
    Some(())
}

/// An admitter that is dialled by a node.
pub(super) fn dialled_admitter(
    raw: &mut Raw<Node>,
    path: AdmissionPath,
    tamper: Tamper<'_>,
) -> Option<()> {
    let client_hello = raw.receive()?;
    let server_hello = send(raw, 2, &admitter_hello(path, Some(challenge())), tamper);
    raw.receive()?;
    let binding = raw.binding(Side::Client, (&client_hello, &server_hello));
    let admission = atls::ServerAdmission {
        owner_proof: Some(owner(1).prove(Side::Server, &binding).into()),
        verdict: accepted(),
    };
    send(raw, 4, &admission, tamper);
    raw.receive().map(drop)
}

/// An admitter that dials a node.
pub(super) fn dialling_admitter(
    raw: &mut Raw<Node>,
    path: AdmissionPath,
    tamper: Tamper<'_>,
) -> Option<()> {
    let client_hello = send(raw, 1, &admitter_hello(path, None), tamper);
    let server_hello = raw.receive()?;
    let binding = raw.binding(Side::Server, (&client_hello, &server_hello));
    let admission = atls::ClientAdmission {
        answer: Some(atls::client_admission::Answer::Challenge(
            challenge().into(),
        )),
        owner_proof: Some(owner(1).prove(Side::Client, &binding).into()),
    };
    send(raw, 3, &admission, tamper);
    raw.receive()?;
    send_verdict(raw, tamper);
    Some(())
}

/// A node that is dialled by an admitter.
pub(super) fn dialled_attester(
    raw: &mut Raw<Office>,
    path: AdmissionPath,
    tamper: Tamper<'_>,
) -> Option<()> {
    let client_hello = raw.receive()?;
    let server_hello = send(raw, 2, &attester_hello(path), tamper);
    let admission = atls::ClientAdmission::decode(raw.receive()?.as_slice()).unwrap();
    let Some(atls::client_admission::Answer::Challenge(challenge)) = admission.answer else {
        panic!("no challenge: {admission:?}")
    };
    let binding = raw.binding(Side::Server, (&client_hello, &server_hello));
    let answer = atls::ServerEvidence {
        verdict: accepted(),
        evidence: evidence(&challenge.try_into().unwrap(), &binding),
    };
    send(raw, 4, &answer, tamper);
    raw.receive().map(drop)
}

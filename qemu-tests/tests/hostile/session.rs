//! An attester's session by hand, step by step, so that each step can lie.

use anyhow::{Context as _, Result, bail, ensure};
use api::{Class, atls};
use evidence::{Binding, Evidence, Side, TpmChallenge, TpmEvidence, TpmIdentity};
use guest_attester::Boot;
use owner::{OwnerFingerprint, OwnerProof};
use prost::Message as _;

use crate::raw::Raw;
use std::net::SocketAddr;

/// How the join service ended a session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Let in.
    Accepted,
    /// Nothing was said.
    Closed,
    /// Refused with the owner's proof, and with nothing but the class.
    Refused(Class),
}

/// The words of this session: hellos are exchanged.
pub(crate) struct Session {
    pub(crate) raw: Raw,
    pub(crate) binding: Binding,
    /// None: refused already.
    pub(crate) challenge: Option<TpmChallenge>,
    pub(crate) pcrs: Vec<u32>,
    /// Frame 2 as it came.
    pub(crate) server_hello: Vec<u8>,
}

/// Frame 1 of an honest node that joins.
pub(crate) fn hello(boot: &Boot) -> atls::Hello {
    hello_of(boot, boot.identity().clone())
}

/// The same with another identity claimed.
pub(crate) fn hello_of(boot: &Boot, identity: TpmIdentity) -> atls::Hello {
    atls::Hello {
        version: 1,
        nonce: vec![3; 32],
        path: atls::AdmissionPath::Join.into(),
        side: Some(atls::hello::Side::Attester(atls::Attester {
            offered: atls::EvidenceKind::Tpm.into(),
            sealing_key: boot.sealing_key().as_bytes().to_vec(),
            tpm: Some(identity.into()),
            vtpm_ak_public: Vec::new(),
        })),
    }
}

/// A frame 3.
pub(crate) fn evidence(activated: &[u8], quote: TpmEvidence) -> Result<atls::ClientEvidence> {
    Ok(atls::ClientEvidence {
        evidence: Some(atls::Evidence {
            activated_secret: activated.to_vec(),
            kind: Some(Evidence::Tpm(quote).into()),
        }),
    })
}

/// An accepting frame 5.
pub(crate) fn accepted() -> atls::ClientVerdict {
    atls::ClientVerdict {
        verdict: Some(atls::Verdict {
            verdict: Some(atls::verdict::Verdict::Accepted(atls::Accepted {})),
        }),
    }
}

impl Session {
    /// Dials, sends this frame 1, receives frame 2.
    pub(crate) fn open(address: SocketAddr, hello: &atls::Hello) -> Result<Self> {
        let mut raw = Raw::dial(address)?;
        let client_hello = raw.send_message(hello)?;
        let server_hello = raw.receive()?.context("no frame 2")?;
        let message = atls::Hello::decode(server_hello.as_slice())?;
        let Some(atls::hello::Side::Admitter(admitter)) = message.side else {
            bail!("not an admitter's hello: {message:?}");
        };
        Ok(Self {
            binding: raw.binding(&client_hello, &server_hello)?,
            challenge: admitter.challenge.map(TryInto::try_into).transpose()?,
            // An admitter that refuses accepts nothing.
            pcrs: admitter
                .accepted
                .into_iter()
                .next()
                .map_or_else(Vec::new, |requirement| requirement.pcrs),
            raw,
            server_hello,
        })
    }

    /// Honest evidence for this session.
    pub(crate) fn attest(&self, boot: &mut Boot) -> Result<(Vec<u8>, TpmEvidence)> {
        let challenge = self.challenge()?;
        let (activated, quote) = boot.attest(challenge, &self.binding, &self.pcrs)?;
        Ok((activated.expose_secret().to_vec(), quote))
    }

    /// What the node's TPM must activate.
    pub(crate) fn challenge(&self) -> Result<&TpmChallenge> {
        self.challenge.as_ref().context("refused without challenge")
    }

    /// Sends this frame 3 and understands frame 4.
    pub(crate) fn show(
        mut self,
        evidence: &atls::ClientEvidence,
        owner: &OwnerFingerprint,
    ) -> Result<Answer> {
        self.raw.send_message(evidence)?;
        self.answer(owner)
    }

    /// Understands frame 4.
    pub(crate) fn answer(&mut self, owner: &OwnerFingerprint) -> Result<Answer> {
        let Some(frame) = self.raw.receive()? else {
            return Ok(Answer::Closed);
        };
        let message = atls::ServerAdmission::decode(frame.as_slice())?;
        let proof = OwnerProof::try_from(message.owner_proof.context("no owner proof")?)?;
        let _proven = proof.verify(owner, Side::Server, &self.binding)?;
        match message.verdict.and_then(|verdict| verdict.verdict) {
            Some(atls::verdict::Verdict::Accepted(_)) => Ok(Answer::Accepted),
            Some(atls::verdict::Verdict::Refusal(refusal)) => {
                ensure!(
                    refusal.checks.is_empty(),
                    "more than the class: {refusal:?}"
                );
                Ok(Answer::Refused(refusal.class().try_into()?))
            }
            None => bail!("no verdict"),
        }
    }
}

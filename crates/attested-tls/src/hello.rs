//! Frames 1 and 2.

use api::{Malformed, atls};
use evidence::{AdmissionPath, AttesterClaim, EvidenceKind, Requirement, TpmChallenge};

use crate::{FrameError, SealingPublicKey, attester::AttesterTerms, frame};

/// The version of the protocol in `Hello.version`.
const VERSION: u32 = 1;

/// A hello as received, well-formed and no more.
pub(crate) struct Hello {
    pub(crate) path: AdmissionPath,
    pub(crate) party: Party,
}

/// What the sender says it is.
pub(crate) enum Party {
    Admitter(AdmitterHello),
    Attester(AttesterHello),
}

pub(crate) struct AdmitterHello {
    pub(crate) accepted: Vec<Requirement>,
    pub(crate) challenge: Option<TpmChallenge>,
}

pub(crate) struct AttesterHello {
    pub(crate) sealing_key: SealingPublicKey,
    pub(crate) claim: AttesterClaim,
}

impl Hello {
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, FrameError> {
        let message: atls::Hello = frame::decode(payload)?;
        if message.version != VERSION {
            return Err(FrameError::Contradiction {
                field: "hello.version",
                expected: VERSION.to_string(),
                got: message.version.to_string(),
            });
        }
        if message.nonce.len() != 32 {
            return Err(FrameError::Field(Malformed::Length {
                field: "hello.nonce",
                expected: 32,
                got: message.nonce.len(),
            }));
        }
        let path = atls::AdmissionPath::try_from(message.path).map_err(|_| Malformed::Unknown {
            field: "hello.path",
            got: message.path,
        })?;
        let party = match message.side {
            None => {
                return Err(Malformed::Missing {
                    field: "hello.side",
                }
                .into());
            }
            Some(atls::hello::Side::Admitter(admitter)) => {
                Party::Admitter(AdmitterHello::parse(admitter)?)
            }
            Some(atls::hello::Side::Attester(attester)) => {
                Party::Attester(AttesterHello::parse(attester)?)
            }
        };
        Ok(Self {
            path: path.try_into()?,
            party,
        })
    }

    /// The hello of a peer that must be the admitter on a given path.
    pub(crate) fn parse_admitter(
        payload: &[u8],
    ) -> Result<(AdmissionPath, AdmitterHello), FrameError> {
        let hello = Self::parse(payload)?;
        match hello.party {
            Party::Admitter(admitter) => Ok((hello.path, admitter)),
            Party::Attester(_) => Err(wrong_side("admitter", "attester")),
        }
    }

    /// The hello of a peer that must be the attester.
    pub(crate) fn parse_attester(
        payload: &[u8],
    ) -> Result<(AdmissionPath, AttesterHello), FrameError> {
        let hello = Self::parse(payload)?;
        match hello.party {
            Party::Attester(attester) => Ok((hello.path, attester)),
            Party::Admitter(_) => Err(wrong_side("attester", "admitter")),
        }
    }
}

/// Frame 2 must answer the path of frame 1.
pub(crate) fn same_path(expected: AdmissionPath, got: AdmissionPath) -> Result<(), FrameError> {
    if expected == got {
        return Ok(());
    }
    Err(FrameError::Contradiction {
        field: "hello.path",
        expected: expected.to_string(),
        got: got.to_string(),
    })
}

fn wrong_side(expected: &str, got: &str) -> FrameError {
    FrameError::Contradiction {
        field: "hello.side",
        expected: expected.to_owned(),
        got: got.to_owned(),
    }
}

impl AdmitterHello {
    fn parse(message: atls::Admitter) -> Result<Self, FrameError> {
        Ok(Self {
            accepted: message.parse_accepted()?,
            challenge: message.challenge.map(TpmChallenge::try_from).transpose()?,
        })
    }

    /// The PCRs that this admitter wants quoted for evidence of `kind`, if it accepts that.
    pub(crate) fn pcrs_of(&self, kind: EvidenceKind) -> Option<Vec<u32>> {
        self.accepted
            .iter()
            .find(|requirement| requirement.kind == kind)
            .map(|requirement| requirement.pcrs.clone())
    }
}

impl AttesterHello {
    fn parse(message: atls::Attester) -> Result<Self, FrameError> {
        let sealing_key = message.sealing_key.as_slice();
        let sealing_key = sealing_key.try_into().map_err(|_| Malformed::Length {
            field: "hello.sealing_key",
            expected: 32,
            got: sealing_key.len(),
        })?;
        Ok(Self {
            sealing_key: SealingPublicKey::from_bytes(sealing_key),
            claim: message.parse_claim()?,
        })
    }
}

/// A challenge comes exactly with a kind that needs one.
pub(crate) fn check_challenge(
    field: &'static str,
    kind: EvidenceKind,
    challenge: Option<&TpmChallenge>,
) -> Result<(), FrameError> {
    if kind.needs_challenge() == challenge.is_some() {
        return Ok(());
    }
    let words = |there| if there { "one" } else { "none" };
    Err(FrameError::Contradiction {
        field,
        expected: format!("{} for {kind}", words(kind.needs_challenge())),
        got: words(challenge.is_some()).to_owned(),
    })
}

pub(crate) fn attester_hello(
    nonce: [u8; 32],
    path: AdmissionPath,
    terms: &AttesterTerms,
) -> atls::Hello {
    let attester = atls::Attester::new(terms.claim.clone(), terms.sealing_key.as_bytes());
    hello(nonce, path, atls::hello::Side::Attester(attester))
}

pub(crate) fn admitter_hello(
    nonce: [u8; 32],
    path: AdmissionPath,
    accepted: &[Requirement],
    challenge: Option<TpmChallenge>,
) -> atls::Hello {
    let admitter = atls::Admitter {
        accepted: accepted.iter().cloned().map(Into::into).collect(),
        challenge: challenge.map(Into::into),
    };
    hello(nonce, path, atls::hello::Side::Admitter(admitter))
}

fn hello(nonce: [u8; 32], path: AdmissionPath, side: atls::hello::Side) -> atls::Hello {
    atls::Hello {
        version: VERSION,
        nonce: nonce.to_vec(),
        path: atls::AdmissionPath::from(path).into(),
        side: Some(side),
    }
}

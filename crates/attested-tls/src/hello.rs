//! Frames 1 and 2.

use api::{Malformed, atls};
use evidence::{AdmissionPath, EvidenceKind, TpmChallenge, TpmIdentity};

use crate::{
    FrameError, SealingPublicKey, admitter::AdmitterTerms, attester::AttesterTerms, frame,
};

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
    pub(crate) pcrs: Vec<u32>,
    pub(crate) challenge: Option<TpmChallenge>,
}

pub(crate) struct AttesterHello {
    pub(crate) sealing_key: SealingPublicKey,
    pub(crate) identity: AttesterIdentity,
}

pub(crate) enum AttesterIdentity {
    Tpm(TpmIdentity),
    Other(EvidenceKind),
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
        let required = kind("hello.required", message.required)?;
        if required != EvidenceKind::Tpm {
            return Err(FrameError::Contradiction {
                field: "hello.required",
                expected: EvidenceKind::Tpm.to_string(),
                got: required.to_string(),
            });
        }
        Ok(Self {
            pcrs: message.parse_pcrs()?,
            challenge: message.challenge.map(TpmChallenge::try_from).transpose()?,
        })
    }
}

impl AttesterHello {
    fn parse(message: atls::Attester) -> Result<Self, FrameError> {
        let offered = kind("hello.offered", message.offered)?;
        let sealing_key = message.sealing_key.as_slice();
        let sealing_key = sealing_key.try_into().map_err(|_| Malformed::Length {
            field: "hello.sealing_key",
            expected: 32,
            got: sealing_key.len(),
        })?;
        let identity = match (offered, message.tpm) {
            (EvidenceKind::Tpm, Some(tpm)) => AttesterIdentity::Tpm(tpm.try_into()?),
            (EvidenceKind::Tpm, None) => {
                return Err(Malformed::Missing { field: "hello.tpm" }.into());
            }
            (other, None) => AttesterIdentity::Other(other),
            (other, Some(_)) => {
                return Err(FrameError::Contradiction {
                    field: "hello.tpm",
                    expected: format!("no TPM identity with evidence kind {other}"),
                    got: "one".to_owned(),
                });
            }
        };
        Ok(Self {
            sealing_key: SealingPublicKey::from_bytes(sealing_key),
            identity,
        })
    }
}

fn kind(field: &'static str, got: i32) -> Result<EvidenceKind, Malformed> {
    atls::EvidenceKind::try_from(got)
        .map_err(|_| Malformed::Unknown { field, got })?
        .try_into()
}

pub(crate) fn attester_hello(
    nonce: [u8; 32],
    path: AdmissionPath,
    terms: &AttesterTerms,
) -> atls::Hello {
    let attester = atls::Attester {
        offered: atls::EvidenceKind::Tpm.into(),
        sealing_key: terms.sealing_key.as_bytes().to_vec(),
        tpm: Some(terms.identity.clone().into()),
    };
    hello(nonce, path, atls::hello::Side::Attester(attester))
}

pub(crate) fn admitter_hello(
    nonce: [u8; 32],
    path: AdmissionPath,
    terms: &AdmitterTerms,
    challenge: Option<TpmChallenge>,
) -> atls::Hello {
    let admitter = atls::Admitter {
        required: atls::EvidenceKind::Tpm.into(),
        pcrs: terms.pcrs.clone(),
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

//! Why a session ended without a channel.

use api::Class;
use evidence::AdmissionPath;
use owner::OwnerProofError;

use crate::{FrameError, Refusal};

/// Why a session ended. After one, the driver writes what `wants_write` still asks for, as a
/// courtesy to the peer, and closes the connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The peer negotiated another application protocol or none.
    #[error("peer did not select ALPN protocol `catls/1`")]
    Alpn,
    /// The connection ended before both verdicts.
    #[error("peer closed the connection before both verdicts")]
    Closed,
    /// The driver's deadline passed.
    #[error("deadline passed before both verdicts")]
    Deadline,
    /// Bytes arrived when it was this side's turn.
    #[error("peer sent data out of turn, before both verdicts")]
    EarlyData,
    /// A frame is not what the protocol wants.
    #[error("frame {number}")]
    Frame {
        /// The frame's number, 1 to 5.
        number: u8,
        /// What is wrong with it.
        #[source]
        source: FrameError,
    },
    /// The driver answered what was not asked, or something of ours does not fit a frame.
    #[error("internal: {what}")]
    Internal {
        /// What went wrong.
        what: &'static str,
    },
    /// The admitter is of another owner, or its proof is not for this channel.
    #[error("peer does not act for the owner of this image")]
    Owner(#[source] OwnerProofError),
    /// This TLS side cannot take this path, or was not offered it by its driver.
    #[error("path {path} is not for this side")]
    Path {
        /// The path.
        path: AdmissionPath,
    },
    /// The attester refused, after the admitter proved itself or before.
    #[error("refused by the attester: {}", .0.class)]
    RefusedByAttester(Refusal),
    /// The admitter refused and proved that it acts for the owner.
    #[error("refused by the owner: {}", .0.class)]
    RefusedByOwner(Refusal),
    /// The admitter refused without a valid owner proof; anybody could have said so.
    #[error("refused without owner proof: {class}")]
    RefusedWithoutProof {
        /// The class the peer gave, worth nothing.
        class: Class,
    },
    /// This side refused the peer.
    #[error("refused: {}", .0.class)]
    RefusedPeer(Refusal),
    /// TLS failed.
    #[error("TLS")]
    Tls(#[source] rustls::Error),
    /// The peer sent more than a whole session needs.
    #[error("peer sent more than {max} bytes before both verdicts")]
    TooMuch {
        /// The bound in bytes.
        max: usize,
    },
}

impl SessionError {
    /// The class of this end, for logs and metrics.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Alpn
            | Self::EarlyData
            | Self::Frame { .. }
            | Self::Path { .. }
            | Self::Tls(_)
            | Self::TooMuch { .. } => Class::Malformed,
            Self::Closed | Self::Deadline | Self::RefusedWithoutProof { .. } => Class::Unavailable,
            Self::Internal { .. } => Class::Internal,
            Self::Owner(_) => Class::Refused,
            Self::RefusedByAttester(refusal)
            | Self::RefusedByOwner(refusal)
            | Self::RefusedPeer(refusal) => refusal.class,
        }
    }

    /// Whether an attester must not try again in this boot: only its owner can tell it so.
    #[must_use]
    pub const fn is_final_for_attester(&self) -> bool {
        match self {
            Self::RefusedByOwner(refusal) => {
                matches!(refusal.class, Class::Malformed | Class::Refused)
            }
            _ => false,
        }
    }
}

//! What a session becomes: a TLS connection together with what was proven about its peer.

use evidence::{AdmissionPath, Binding};
use owner::{OwnerFingerprint, ProvenOwner};
use rustls::Connection;

use crate::SealingPublicKey;

/// An established channel: both verdicts were accepting. `P` is [`AcceptedAttester`] on the
/// admitter's side and [`ProvenAdmitter`] on the attester's.
///
/// The connection may hold queued bytes (the last frame) and received ones (the peer's first
/// request); a stream over it must write and read those first.
pub struct Channel<P> {
    connection: Connection,
    peer: P,
}

impl<P> Channel<P> {
    pub(crate) fn new(connection: Connection, peer: P) -> Self {
        Self { connection, peer }
    }

    /// What was proven about the peer.
    #[must_use]
    pub const fn peer(&self) -> &P {
        &self.peer
    }

    /// The TLS connection and what was proven about the peer.
    #[must_use]
    pub fn into_parts(self) -> (Connection, P) {
        (self.connection, self.peer)
    }
}

impl<P: std::fmt::Debug> std::fmt::Debug for Channel<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// An attester that was accepted, by an appraisal whose result is `A`, and that accepted us. Only
/// a session makes one.
#[derive(Debug)]
pub struct AcceptedAttester<A> {
    path: AdmissionPath,
    binding: Binding,
    sealing_key: SealingPublicKey,
    appraised: A,
}

impl<A> AcceptedAttester<A> {
    pub(crate) const fn new(
        path: AdmissionPath,
        binding: Binding,
        sealing_key: SealingPublicKey,
        appraised: A,
    ) -> Self {
        Self {
            path,
            binding,
            sealing_key,
            appraised,
        }
    }

    /// The path it was accepted on.
    #[must_use]
    pub const fn path(&self) -> AdmissionPath {
        self.path
    }

    /// The channel's binding: HPKE's info for secrets sealed to this peer.
    #[must_use]
    pub const fn binding(&self) -> &Binding {
        &self.binding
    }

    /// The key that secrets for this peer are sealed to; covered by the binding.
    #[must_use]
    pub const fn sealing_key(&self) -> SealingPublicKey {
        self.sealing_key
    }

    /// The result of the appraisal.
    #[must_use]
    pub const fn appraised(&self) -> &A {
        &self.appraised
    }
}

/// An admitter that proved to act for the owner of this image, and that accepted us. Only a session
/// makes one.
#[derive(Debug)]
pub struct ProvenAdmitter {
    path: AdmissionPath,
    binding: Binding,
    owner: ProvenOwner,
}

impl ProvenAdmitter {
    pub(crate) const fn new(path: AdmissionPath, binding: Binding, owner: ProvenOwner) -> Self {
        Self {
            path,
            binding,
            owner,
        }
    }

    /// The path we were accepted on.
    #[must_use]
    pub const fn path(&self) -> AdmissionPath {
        self.path
    }

    /// The channel's binding: HPKE's info for secrets that this peer seals.
    #[must_use]
    pub const fn binding(&self) -> &Binding {
        &self.binding
    }

    /// The owner it acts for.
    #[must_use]
    pub const fn owner(&self) -> &OwnerFingerprint {
        self.owner.fingerprint()
    }
}

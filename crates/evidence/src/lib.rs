//! What an attester sends, and the binding that ties it to one channel.
//!
//! Everything here is untrusted: an [`Evidence`] value says that bytes were framed correctly, never
//! that they are true. `appraisal` turns it into facts. The one computation is what evidence is made
//! for: [`Binding`], which makes it useless outside one TLS session, and [`StatementBinding`], which
//! makes it useless outside the answer to one question.
#![no_std]

extern crate alloc;

use alloc::{collections::BTreeMap, vec::Vec};
use aws_lc_rs::digest;
use core::fmt;

mod bound;
mod kind;
mod statement;

pub use bound::Bound;
pub use kind::{EvidenceKind, Requirement, UnknownKind};
pub use statement::{Nonce, StatementBinding, Subject};

/// The four ways a node gets its disk key (docs/protocol.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AdmissionPath {
    /// The operator's CLI initialises the first node.
    Init,
    /// A new node with a blank disk asks the join service.
    Join,
    /// A known disk boots again.
    Rejoin,
    /// The operator's CLI unlocks a known disk when no join service answers.
    Recover,
}

impl AdmissionPath {
    /// The TLS side of the node. The other side admits.
    #[must_use]
    pub const fn attester(self) -> Side {
        match self {
            Self::Join | Self::Rejoin => Side::Client,
            Self::Init | Self::Recover => Side::Server,
        }
    }
}

impl fmt::Display for AdmissionPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Init => "init",
            Self::Join => "join",
            Self::Rejoin => "rejoin",
            Self::Recover => "recover",
        })
    }
}

/// A side of the TLS connection. The byte value goes into the binding and into owner proofs, so
/// that a message cannot be reflected to the side that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    /// Who dialled.
    Client = 1,
    /// Who was dialled.
    Server = 2,
}

impl Side {
    /// The other side.
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What a channel is, as both of its ends see it; input of [`Binding::compute`].
#[derive(Debug, Clone, Copy)]
pub struct Channel<'a> {
    /// The side whose evidence is bound.
    pub attester: Side,
    /// Frame 1 as sent, without its length prefix.
    pub client_hello: &'a [u8],
    /// Frame 2 as sent, without its length prefix.
    pub server_hello: &'a [u8],
    /// SubjectPublicKeyInfo of the client's TLS certificate, DER.
    pub client_spki: &'a [u8],
    /// SubjectPublicKeyInfo of the server's TLS certificate, DER.
    pub server_spki: &'a [u8],
    /// `exporter(32, EXPORTER_LABEL, hello_context(..))` of the TLS session (RFC 8446, section 7.5).
    pub exporter: &'a [u8; 32],
}

/// Label of the TLS exporter that goes into the binding.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-constellation-attestation";

/// Context of the TLS exporter: the digests of both hello frames.
#[must_use]
pub fn exporter_context(client_hello: &[u8], server_hello: &[u8]) -> [u8; 64] {
    let mut context = [0; 64];
    context[..32].copy_from_slice(digest::digest(&digest::SHA256, client_hello).as_ref());
    context[32..].copy_from_slice(digest::digest(&digest::SHA256, server_hello).as_ref());
    context
}

/// Ties evidence, owner proof and sealed secrets to one TLS session and one attester side.
#[derive(Clone, PartialEq, Eq)]
pub struct Binding([u8; 64]);

impl Binding {
    pub(crate) const LABEL: &[u8] = b"constellation-atls-v1\0";

    /// `SHA-512(label || side || SHA-256 of each hello || SHA-256 of each SPKI || exporter)`; every
    /// part has a fixed length, so the encoding is injective (docs/protocol.md, "Binding").
    #[must_use]
    pub fn compute(channel: &Channel<'_>) -> Self {
        let mut hash = digest::Context::new(&digest::SHA512);
        hash.update(Self::LABEL);
        hash.update(&[channel.attester as u8]);
        hash.update(&exporter_context(
            channel.client_hello,
            channel.server_hello,
        ));
        hash.update(digest::digest(&digest::SHA256, channel.client_spki).as_ref());
        hash.update(digest::digest(&digest::SHA256, channel.server_spki).as_ref());
        hash.update(channel.exporter);
        let mut binding = [0; 64];
        binding.copy_from_slice(hash.finish().as_ref());
        Self(binding)
    }

    /// All 64 bytes: `REPORT_DATA` of an SNP report, HPKE's `info`.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// The 32 bytes that a TPM quote carries as `qualifyingData`.
    #[must_use]
    pub fn qualifying_data(&self) -> [u8; 32] {
        Bound::qualifying_data(self)
    }
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Binding({:02x}{:02x}{:02x}{:02x}..)",
            self.0[0], self.0[1], self.0[2], self.0[3]
        )
    }
}

/// Evidence as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// An HCL report and a quote by the key that it vouches for.
    AzureSevSnp(AzureSnpEvidence),
    /// An SNP report.
    SevSnp(SnpEvidence),
    /// An SNP report and a quote of a vTPM beside the guest.
    SevSnpVtpm(SnpVtpmEvidence),
    /// A TPM quote.
    Tpm(TpmEvidence),
}

impl Evidence {
    /// The kind of this evidence.
    #[must_use]
    pub const fn kind(&self) -> EvidenceKind {
        match self {
            Self::AzureSevSnp(_) => EvidenceKind::AzureSevSnp,
            Self::SevSnp(_) => EvidenceKind::SevSnp,
            Self::SevSnpVtpm(_) => EvidenceKind::SevSnpVtpm,
            Self::Tpm(_) => EvidenceKind::Tpm,
        }
    }
}

/// A report of the AMD secure processor, whose `REPORT_DATA` is the binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnpEvidence {
    /// `ATTESTATION_REPORT` as the firmware gave it.
    pub report: Vec<u8>,
    /// The certificate table that the host handed out beside it; empty where it has none. The host's
    /// bytes: they may hold the right certificates and prove nothing by themselves.
    pub certificates: Vec<u8>,
}

/// Evidence of a guest under Azure's paravisor (HCL), which runs its vTPM at VMPL 0. The report is
/// as old as the boot; the quote makes it fresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureSnpEvidence {
    /// The blob in the vTPM's NV index 0x01400001: the report and the runtime data that its
    /// `REPORT_DATA` is the hash of, the attestation key among it.
    pub hcl_report: Vec<u8>,
    /// A quote by that attestation key, bound to the channel.
    pub quote: TpmEvidence,
}

/// A bare report, and what a vTPM beside the guest says. The host runs such a vTPM: its PCRs are
/// shown to the operator and trusted for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnpVtpmEvidence {
    /// The report; all rules for bare reports apply.
    pub snp: SnpEvidence,
    /// The quote of the vTPM, by the attestation key in the attester's hello.
    pub quote: TpmEvidence,
}

/// A quote and what it is over. The attestation and signature stay the bytes the TPM returned;
/// nothing is ever re-encoded to check a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmEvidence {
    /// `TPMS_ATTEST` as signed.
    pub attestation: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// Claimed PCR values of the SHA-256 bank; only the quote makes them true.
    pub pcrs: BTreeMap<u32, [u8; 32]>,
    /// TCG event log; explains a mismatch, decides nothing. Empty where the platform has none.
    pub event_log: Vec<u8>,
}

/// What an attester claims to be, in its hello; nothing of it is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttesterClaim {
    /// A guest under Azure's paravisor. Its evidence brings the attestation key.
    AzureSevSnp,
    /// A bare SEV-SNP guest.
    SevSnp,
    /// A SEV-SNP guest with a vTPM beside it.
    SevSnpVtpm {
        /// `TPMT_PUBLIC` of the vTPM's attestation key, bound to the channel by being in the hello.
        ak_public: Vec<u8>,
    },
    /// A machine with this TPM.
    Tpm(TpmIdentity),
}

impl AttesterClaim {
    /// The kind of evidence that is offered.
    #[must_use]
    pub const fn kind(&self) -> EvidenceKind {
        match self {
            Self::AzureSevSnp => EvidenceKind::AzureSevSnp,
            Self::SevSnp => EvidenceKind::SevSnp,
            Self::SevSnpVtpm { .. } => EvidenceKind::SevSnpVtpm,
            Self::Tpm(_) => EvidenceKind::Tpm,
        }
    }
}

/// The TPM that an attester claims to be, sent in its hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmIdentity {
    /// Endorsement key certificate, X.509 DER.
    pub ek_certificate: Vec<u8>,
    /// `TPMT_PUBLIC` of the endorsement key.
    pub ek_public: Vec<u8>,
    /// `TPMT_PUBLIC` of the attestation key, fresh for each boot.
    pub ak_public: Vec<u8>,
}

/// What a verifier sends so that an attester can prove where its attestation key lives
/// (TPM 2.0 Part 1, section 24, credential protection).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmChallenge {
    /// `TPM2B_ID_OBJECT`.
    pub credential_blob: Vec<u8>,
    /// `TPM2B_ENCRYPTED_SECRET`.
    pub encrypted_secret: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNEL: Channel<'_> = Channel {
        attester: Side::Client,
        client_hello: b"one",
        server_hello: b"two",
        client_spki: b"three",
        server_spki: b"four",
        exporter: &[5; 32],
    };

    #[test]
    fn every_part_of_the_channel_changes_the_binding() {
        let base = Binding::compute(&CHANNEL);
        let others = [
            Channel {
                attester: Side::Server,
                ..CHANNEL
            },
            Channel {
                client_hello: b"One",
                ..CHANNEL
            },
            Channel {
                server_hello: b"Two",
                ..CHANNEL
            },
            Channel {
                client_hello: b"two",
                server_hello: b"one",
                ..CHANNEL
            },
            Channel {
                client_spki: b"Three",
                ..CHANNEL
            },
            Channel {
                server_spki: b"Four",
                ..CHANNEL
            },
            Channel {
                exporter: &[6; 32],
                ..CHANNEL
            },
        ];
        for other in others {
            assert_ne!(Binding::compute(&other), base, "{other:?}");
        }
        assert_eq!(Binding::compute(&CHANNEL), base);
    }

    /// Computed with Python's hashlib from the definition in docs/protocol.md.
    #[test]
    fn known_answer() {
        let binding = Binding::compute(&CHANNEL);
        assert_eq!(
            hex(binding.as_bytes()),
            include_str!("../tests/fixtures/binding.hex").trim()
        );
        assert_eq!(
            hex(&binding.qualifying_data()),
            include_str!("../tests/fixtures/qualifying-data.hex").trim()
        );
    }

    fn hex(bytes: &[u8]) -> alloc::string::String {
        bytes.iter().map(|b| alloc::format!("{b:02x}")).collect()
    }
}

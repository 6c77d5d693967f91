//! A running node, judged by what it states (docs/verify.md).
//!
//! The rules are those of an admission but for two: the evidence is bound to the verifier's question
//! and no channel, and where a latch counts it must have the value that this cluster's id gives it.
//! Nobody is given a key for the result: it is no [`Appraised`](crate::Appraised).

use crate::{
    appraised::{AttesterIdentity, Claims, Facts},
    appraiser::{Appraiser, Challenged, Endorsements, Signer},
    asked::Asked,
    document::PcrValue,
    ek::AuthenticatedEk,
    error::AppraisalError,
};
use alloc::string::ToString as _;
use aws_lc_rs::digest;
use evidence::{AttesterClaim, Evidence, EvidenceKind, StatementBinding, Subject};
use identity::{ClusterId, Role};
use owner::{AkCertificate, OwnerFingerprint};

/// A node's answer, and the question as the verifier asked it.
#[derive(Clone, Copy, Debug)]
pub struct Statement<'a> {
    /// What was asked: the verifier's own nonce and cluster id, never received ones; the node's name as
    /// the verifier knows it, or as the node states it.
    pub subject: &'a Subject<'a>,
    /// The evidence.
    pub evidence: &'a Evidence,
    /// What vouches for the evidence beside what it brings itself.
    pub endorsements: Endorsements<'a>,
    /// Seconds since 1970 by the verifier's clock.
    pub now: u64,
}

/// What ties a running node to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// PCR 15: in this boot the measured agent unlocked a disk of this cluster, and no other.
    Latched,
    /// The node's word. Bare SEV-SNP has no register that says more.
    Stated,
}

/// By which way it is known that the key which signed is the machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyProof {
    /// Its TPM activated a challenge for this question.
    Activated,
    /// Its TPM activated one at the node's admission, and whoever admitted it certified that.
    Certified,
    /// A report names it.
    Report,
    /// The report itself is what counts, signed by the processor's key.
    Processor,
}

/// A running node that keeps every rule, its attestation key proven or vouched for. No key is released
/// for it. Only [`Appraiser::verify`] and [`Appraiser::verify_certified`] make one.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified(Facts, KeyProof);

/// A statement that keeps every rule, whoever made it: nobody proved that a TPM which the policy trusts
/// holds the key that signed. Only [`Appraiser::read`] makes one.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stated(Facts);

impl Appraiser {
    /// Step 2 for a running node: `challenged` is of [`Appraiser::challenge`], with what the node states
    /// it is; `activated` what its TPM made of the challenge, where there was one.
    ///
    /// # Errors
    /// If the statement does not prove what the policy and the reference values ask for.
    pub fn verify(
        &self,
        challenged: Challenged,
        activated: Option<&[u8]>,
        statement: &Statement<'_>,
    ) -> Result<Verified, AppraisalError> {
        let binding = StatementBinding::compute(statement.subject);
        let signer = challenged.prove(activated)?;
        self.judge_claim(&signer, &Asked::of_running(statement, &binding))
            .map(|facts| Verified::of(facts, KeyProof::Activated))
    }

    /// The same for a TPM that cannot be challenged, because its statement was saved: `claim` is what the
    /// node states it is, and the certificate of an admission by `owner` stands for the challenge.
    ///
    /// # Errors
    /// As for [`Appraiser::verify`]; a claim of another kind than a TPM's is refused, since nothing is
    /// certified there.
    pub fn verify_certified(
        &self,
        claim: &AttesterClaim,
        (certificate, owner): (&AkCertificate, &OwnerFingerprint),
        statement: &Statement<'_>,
    ) -> Result<Verified, AppraisalError> {
        let AttesterClaim::Tpm(claimed) = claim else {
            return Err(AppraisalError::Kind {
                expected: EvidenceKind::Tpm.to_string(),
                got: claim.kind(),
            });
        };
        self.accept_kind(EvidenceKind::Tpm)?;
        let policy = self.rules(self.policy().tpm.as_ref(), EvidenceKind::Tpm)?;
        let ek = AuthenticatedEk::authenticate(claimed, policy)?;
        let (ak, identity) = ek.certified(certificate, owner, statement.subject)?;
        let binding = StatementBinding::compute(statement.subject);
        let signer = Signer::Tpm(ak, identity);
        self.judge_claim(&signer, &Asked::of_running(statement, &binding))
            .map(|facts| Verified::of(facts, KeyProof::Certified))
    }

    /// Judges a statement whose maker cannot be challenged: it was saved, or came by a way with one
    /// question and one answer.
    ///
    /// # Errors
    /// As for [`Appraiser::verify`].
    pub fn read(
        &self,
        challenged: Challenged,
        statement: &Statement<'_>,
    ) -> Result<Stated, AppraisalError> {
        let binding = StatementBinding::compute(statement.subject);
        let signer = challenged.unproven();
        self.judge_claim(&signer, &Asked::of_running(statement, &binding))
            .map(Stated)
    }
}

impl Verified {
    /// `tpm` is how a TPM's key was proven; the other kinds have one way each.
    const fn of(facts: Facts, tpm: KeyProof) -> Self {
        let proof = match facts.kind {
            EvidenceKind::Tpm => tpm,
            EvidenceKind::AzureSevSnp => KeyProof::Report,
            EvidenceKind::SevSnp | EvidenceKind::SevSnpVtpm => KeyProof::Processor,
        };
        Self(facts, proof)
    }

    /// How the key that signed is known.
    #[must_use]
    pub const fn key_proof(&self) -> KeyProof {
        self.1
    }

    /// The machine.
    #[must_use]
    pub const fn identity(&self) -> &AttesterIdentity {
        &self.0.identity
    }

    /// Name of the image in the reference values.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.0.image
    }

    /// Roles that the image may take.
    #[must_use]
    pub fn roles(&self) -> &[Role] {
        &self.0.roles
    }

    /// What vouches for the node.
    #[must_use]
    pub const fn evidence_kind(&self) -> EvidenceKind {
        self.0.kind
    }

    /// What ties the node to the cluster.
    #[must_use]
    pub const fn membership(&self) -> Membership {
        membership(self.0.kind)
    }

    /// Signed facts that were not judged.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.0.claims
    }
}

impl Stated {
    /// The machine that is claimed.
    #[must_use]
    pub const fn claimed_identity(&self) -> &AttesterIdentity {
        &self.0.identity
    }

    /// Name of the image in the reference values.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.0.image
    }

    /// The kind of evidence.
    #[must_use]
    pub const fn evidence_kind(&self) -> EvidenceKind {
        self.0.kind
    }
}

const fn membership(kind: EvidenceKind) -> Membership {
    if kind.has_latch() {
        Membership::Latched
    } else {
        Membership::Stated
    }
}

/// PCR 15 of a node that unlocked a disk of `cluster`: extended from zero, once, with the cluster's id
/// (docs/protocol.md, "The node"). The image masks the units that would extend it as well.
pub(crate) fn latched(cluster: &ClusterId) -> PcrValue {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&PcrValue::ZERO.0);
    context.update(cluster.as_bytes());
    let mut value = [0; 32];
    value.copy_from_slice(context.finish().as_ref());
    PcrValue(value)
}

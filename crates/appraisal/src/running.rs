//! A running node, judged by what it states (docs/verify.md).
//!
//! The rules are those of an admission but for two: the evidence is bound to the verifier's question
//! and no channel, and where a latch counts it must have the value that this cluster's id gives it.
//! Nobody is given a key for the result: it is no [`Appraised`](crate::Appraised).

use crate::{
    appraised::{AttesterIdentity, Claims, Facts},
    appraiser::{Appraiser, Challenged, Endorsements},
    asked::Asked,
    document::PcrValue,
    error::AppraisalError,
};
use aws_lc_rs::digest;
use evidence::{Evidence, EvidenceKind, StatementBinding, Subject};
use identity::{ClusterId, Role};

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

/// A running node that keeps every rule, its attestation key proven or vouched for. No key is released
/// for it. Only [`Appraiser::verify`] makes one.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified(Facts);

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
            .map(Verified)
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

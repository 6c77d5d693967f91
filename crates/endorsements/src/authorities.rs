//! Whose certificates are kept.

use crate::EndorsementId;
use appraisal::Policy;
use snp::{
    Authorities, AuthorityError, KeyKind, Leaf, LeafError, Product, RevocationError,
    RevocationList, UnixTime,
};
use thiserror::Error;

/// Why a certificate is not kept. Class: refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RejectedLeaf {
    /// No authority here vouches for it, or it does not parse.
    #[error("no authority vouches for the certificate")]
    Authority(#[source] LeafError),
    /// It is a genuine certificate, of something else.
    #[error(transparent)]
    Mismatch(#[from] Box<Mismatch>),
    /// There is no authority of its product line here.
    #[error("no authority for {0} here")]
    NoAuthority(Product),
}

/// A genuine certificate that is not the one asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected the certificate of {expected}, got that of {got}")]
pub struct Mismatch {
    /// What was asked for.
    pub expected: EndorsementId,
    /// What the certificate says.
    pub got: EndorsementId,
}

/// The authorities whose certificates may be kept: AMD's, and a development root where the operator
/// names one. Several may be of one product line.
#[derive(Clone, Debug)]
pub struct AuthoritySet(Vec<Authorities>);

impl AuthoritySet {
    /// AMD's, of all product lines.
    ///
    /// # Errors
    /// None, unless the pinned certificates are broken.
    pub fn amd() -> Result<Self, AuthorityError> {
        let all = Product::ALL.into_iter().map(Authorities::amd);
        all.collect::<Result<_, _>>().map(Self)
    }

    /// AMD's, and the development roots that a policy names.
    ///
    /// # Errors
    /// As [`AuthoritySet::amd`].
    pub fn amd_and(policy: &Policy) -> Result<Self, AuthorityError> {
        let mut all = Self::amd()?;
        all.0.extend(policy.authorities().cloned());
        Ok(all)
    }

    /// Only these.
    #[must_use]
    pub fn new(authorities: Vec<Authorities>) -> Self {
        Self(authorities)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Authorities> {
        self.0.iter()
    }

    /// What a certificate is, if one of the authorities vouches for it at `now`.
    ///
    /// # Errors
    /// [`RejectedLeaf`].
    pub fn authenticate(
        &self,
        kind: KeyKind,
        der: &[u8],
        now: UnixTime,
    ) -> Result<EndorsementId, RejectedLeaf> {
        let leaf = Leaf::parse(kind, der).map_err(RejectedLeaf::Authority)?;
        let mut refused = RejectedLeaf::NoAuthority(leaf.product());
        for authorities in self.of(leaf.product()) {
            match authorities.authenticate_leaf(kind, der, None, now) {
                Ok(leaf) => return Ok(EndorsementId::of_leaf(leaf.leaf())),
                Err(error) => refused = RejectedLeaf::Authority(error),
            }
        }
        Err(refused)
    }

    /// Accepts a certificate if it is the one asked for, and an authority vouches for it at `now`.
    ///
    /// # Errors
    /// [`RejectedLeaf`].
    pub fn check(
        &self,
        expected: &EndorsementId,
        der: &[u8],
        now: UnixTime,
    ) -> Result<(), RejectedLeaf> {
        let got = self.authenticate(expected.kind(), der, now)?;
        if got != *expected {
            let expected = *expected;
            return Err(Box::new(Mismatch { expected, got }).into());
        }
        Ok(())
    }

    /// The authorities whose root signed a revocation list, if it is in force at `now`.
    ///
    /// # Errors
    /// Why it is none of theirs.
    pub fn of_list(
        &self,
        product: Product,
        der: &[u8],
        now: UnixTime,
    ) -> Result<(&Authorities, RevocationList), RevocationError> {
        let mut refused = RevocationError::Untrusted(product);
        for authorities in self.of(product) {
            match RevocationList::authenticate(der, authorities, now) {
                Ok(list) => return Ok((authorities, list)),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn of(&self, product: Product) -> impl Iterator<Item = &Authorities> {
        self.iter().filter(move |it| it.product() == product)
    }
}

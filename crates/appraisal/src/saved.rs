//! A report that was saved, judged offline.

use crate::{
    appraised::SnpClaims,
    appraiser::{Appraiser, Endorsements},
    error::AppraisalError,
    reference_values::Image,
};
use evidence::{EvidenceKind, SnpEvidence};

/// A bare report that was saved, and what it should say.
#[derive(Clone, Copy, Debug)]
pub struct SavedReport<'a> {
    /// The report, and the host's certificates where they were saved too.
    pub evidence: &'a SnpEvidence,
    /// The `REPORT_DATA` that it was asked for with.
    pub report_data: &'a [u8; 64],
    /// What vouches for it beside what it brings itself.
    pub endorsements: Endorsements<'a>,
    /// The moment by which it is judged, in seconds since 1970.
    pub now: u64,
}

/// A saved report that keeps every rule. It is on no channel, so that nobody is given anything for
/// it: no [`Appraised`](crate::Appraised) is made.
#[must_use]
#[derive(Debug)]
pub struct Judged<'p> {
    image: &'p Image,
    claims: SnpClaims,
}

impl Judged<'_> {
    /// The image whose reference values fit.
    #[must_use]
    pub const fn image(&self) -> &Image {
        self.image
    }

    /// What the report says that no rule judges.
    #[must_use]
    pub const fn claims(&self) -> &SnpClaims {
        &self.claims
    }
}

impl Appraiser {
    /// Applies to a saved report every rule that a bare report of an attester has to keep.
    ///
    /// # Errors
    /// What would refuse the attester.
    pub fn judge(&self, saved: &SavedReport<'_>) -> Result<Judged<'_>, AppraisalError> {
        let kind = EvidenceKind::SevSnp;
        self.accept_kind(kind)?;
        let (image, accepted) = self.bare_report(kind, saved)?;
        let claims = accepted.into_claims();
        Ok(Judged { image, claims })
    }
}

//! Certificate revocation lists of the roots (RFC 5280, section 5).
//!
//! A list of a root speaks of what that root issued: ASK, ASVK and itself. It does not speak of leaf
//! certificates. AMD gives all of them the serial number 0, so that an entry with that number would
//! name either none of them or every chip ever made; a leaf is never looked up. A list that wants to
//! speak of another issuer's certificates (an indirect one) says so in a critical extension, and a
//! list with any critical extension is refused whole, as the RFC demands of who does not know it.

use crate::{
    Authorities, OutOfDate, Period, Product, UnixTime, authorities::Authority, pss::is_pss,
};
use alloc::vec::Vec;
use x509::{
    signed_part,
    x509_cert::{
        crl::{CertificateList, RevokedCert},
        der::Decode,
        ext::Extensions,
    },
};

/// The largest list parsed, in bytes. A root issues two certificates; AMD's lists are below 2 KiB.
pub const MAX_REVOCATION_LIST: usize = 64 * 1024;

/// Why a revocation list refuses, or is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationError {
    /// It has a critical extension.
    #[error("revocation list has a critical extension")]
    CriticalExtension,
    /// It is not one DER revocation list.
    #[error("malformed revocation list")]
    Malformed,
    /// It says nothing about when the next one comes.
    #[error("revocation list has no next update")]
    NoNextUpdate,
    /// It is of another root than the authorities.
    #[error("revocation list is of another root")]
    OtherRoot,
    /// It is not in force now.
    #[error("revocation list is out of date")]
    OutOfDate(#[source] OutOfDate),
    /// It lists an authority.
    #[error("an authority of {0} was revoked")]
    Revoked(Product),
    /// The root did not sign it.
    #[error("revocation list is not signed by the root of {0}")]
    Untrusted(Product),
}

/// A revocation list that its root signed.
#[derive(Clone, Debug)]
pub struct RevocationList {
    root: [u8; 32],
    period: Period,
    serials: Vec<Vec<u8>>,
}

impl RevocationList {
    /// Accepts a DER revocation list: the root of `authorities` signed it and it is in force at
    /// `now`, which is from its update to the next one and never after.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn authenticate(
        der: &[u8],
        authorities: &Authorities,
        now: UnixTime,
    ) -> Result<Self, RevocationError> {
        if der.len() > MAX_REVOCATION_LIST {
            return Err(RevocationError::Malformed);
        }
        let list: CertificateList =
            CertificateList::from_der(der).map_err(|_| RevocationError::Malformed)?;
        if !is_signed(&list, der, authorities) {
            return Err(RevocationError::Untrusted(authorities.product()));
        }
        let fields = list.tbs_cert_list;
        let revoked = fields.revoked_certificates.unwrap_or_default();
        let entries = revoked.iter().map(|entry| &entry.crl_entry_extensions);
        if entries.chain([&fields.crl_extensions]).any(is_critical) {
            return Err(RevocationError::CriticalExtension);
        }
        let next = fields.next_update.ok_or(RevocationError::NoNextUpdate)?;
        let period = Period {
            from: fields.this_update.into(),
            until: next.into(),
        };
        period.check(now).map_err(RevocationError::OutOfDate)?;
        Ok(Self {
            root: *authorities.root(),
            period,
            serials: revoked.iter().map(serial).collect(),
        })
    }

    /// When it is in force.
    #[must_use]
    pub fn period(&self) -> Period {
        self.period
    }

    /// Refuses an authority, or the root over it, that is listed; and a list that is no longer in
    /// force, or of another root.
    pub(crate) fn check(
        &self,
        authorities: &Authorities,
        authority: &Authority,
        now: UnixTime,
    ) -> Result<(), RevocationError> {
        if self.root != *authorities.root() {
            return Err(RevocationError::OtherRoot);
        }
        self.period.check(now).map_err(RevocationError::OutOfDate)?;
        let listed = |authority: &Authority| self.serials.contains(&authority.serial);
        if listed(authority) || listed(&authorities.ark) {
            return Err(RevocationError::Revoked(authorities.product()));
        }
        Ok(())
    }
}

fn is_signed(list: &CertificateList, der: &[u8], authorities: &Authorities) -> bool {
    let (Some(signed), Some(signature)) = (signed_part(der), list.signature.as_bytes()) else {
        return false;
    };
    is_pss(&list.signature_algorithm)
        && list.signature_algorithm == list.tbs_cert_list.signature
        && authorities.ark.key.verify_sig(signed, signature).is_ok()
}

fn is_critical(extensions: &Option<Extensions>) -> bool {
    let mut all = extensions.iter().flatten();
    all.any(|extension| extension.critical)
}

fn serial(entry: &RevokedCert) -> Vec<u8> {
    entry.serial_number.as_bytes().to_vec()
}

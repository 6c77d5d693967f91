//! Who signs the certificates of signing keys: a product line's root and its two intermediates.

use crate::{
    KeyKind, Leaf, LeafError, OutOfDate, Period, Product, RevocationList, UnixTime,
    chain::AuthenticatedLeaf,
    pss::{authority_key, is_signed_by},
};
use alloc::vec::Vec;
use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::ParsedPublicKey,
};
use x509::{Certificate, Malformed};

/// The certificates of a root and its intermediates, DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthorityCertificates<'a> {
    /// AMD root key, or a development root in its place.
    pub ark: &'a [u8],
    /// AMD SEV key: signs VCEKs.
    pub ask: &'a [u8],
    /// AMD SEV VLEK key: signs VLEKs.
    pub asvk: &'a [u8],
}

impl AuthorityCertificates<'static> {
    /// AMD's own, as shipped with this crate (`src/roots/README.md` says where from).
    #[must_use]
    pub fn amd(product: Product) -> Self {
        macro_rules! pinned {
            ($line:literal) => {
                Self {
                    ark: include_bytes!(concat!("roots/", $line, "-ark.der")),
                    ask: include_bytes!(concat!("roots/", $line, "-ask.der")),
                    asvk: include_bytes!(concat!("roots/", $line, "-asvk.der")),
                }
            };
        }
        match product {
            Product::Milan => pinned!("milan"),
            Product::Genoa => pinned!("genoa"),
            Product::Turin => pinned!("turin"),
        }
    }
}

/// Why certificates are not a root and its intermediates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// It may not sign what it would have to.
    #[error("{0} is not an authority's certificate, or has a key other than RSA of 4096 bits")]
    NotAuthority(&'static str),
    /// It does not parse.
    #[error("{name}")]
    Malformed {
        /// Which one.
        name: &'static str,
        /// What is wrong.
        #[source]
        source: Malformed,
    },
    /// The root did not sign it.
    #[error("{0} is not signed by the root by RSASSA-PSS with SHA-384")]
    Unsigned(&'static str),
}

/// Whose authorities they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// AMD's, pinned in this crate.
    Amd,
    /// Somebody's who makes reports without a processor, for development.
    Development,
}

/// The authorities of a product line. Their own chain was verified when this was made, so that
/// only the leaf's signature is left to verify.
#[derive(Clone, Debug)]
pub struct Authorities {
    product: Product,
    origin: Origin,
    pub(crate) ark: Authority,
    ask: Authority,
    asvk: Authority,
}

impl Authorities {
    /// AMD's authorities for `product`.
    ///
    /// # Errors
    /// None, unless the pinned certificates are broken.
    pub fn amd(product: Product) -> Result<Self, AuthorityError> {
        Self::new(product, Origin::Amd, &AuthorityCertificates::amd(product))
    }

    /// Authorities that are not AMD's: whoever has their keys can make any report. The caller has
    /// the owner's explicit word that this is wanted.
    ///
    /// # Errors
    /// The certificates are not those of a root and its two intermediates.
    pub fn development(
        product: Product,
        certificates: &AuthorityCertificates<'_>,
    ) -> Result<Self, AuthorityError> {
        Self::new(product, Origin::Development, certificates)
    }

    fn new(
        product: Product,
        origin: Origin,
        certificates: &AuthorityCertificates<'_>,
    ) -> Result<Self, AuthorityError> {
        let ark = Authority::parse("ARK", certificates.ark, 1)?;
        let issued = |name, der| {
            let authority = Authority::parse(name, der, 0)?;
            authority.check_signed_by(name, &ark)?;
            Ok(authority)
        };
        let ask = issued("ASK", certificates.ask)?;
        let asvk = issued("ASVK", certificates.asvk)?;
        ark.check_signed_by("ARK", &ark)?;
        Ok(Self {
            product,
            origin,
            ark,
            ask,
            asvk,
        })
    }

    /// The product line.
    #[must_use]
    pub fn product(&self) -> Product {
        self.product
    }

    /// Whose they are.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// SHA-256 of the root's certificate.
    #[must_use]
    pub fn root(&self) -> &[u8; 32] {
        &self.ark.digest
    }

    /// Accepts the DER certificate of a signing key as one of the kind that the policy asks for:
    /// the authority for that kind and product line signed it, it is valid at `now`, and so are the
    /// authorities, which `revocations` does not list.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn authenticate_leaf(
        &self,
        kind: KeyKind,
        der: &[u8],
        revocations: Option<&RevocationList>,
        now: UnixTime,
    ) -> Result<AuthenticatedLeaf, LeafError> {
        let leaf = Leaf::parse(kind, der)?;
        if leaf.product() != self.product {
            return Err(LeafError::Product {
                expected: self.product,
                got: leaf.product(),
            });
        }
        let (name, authority) = self.of(kind);
        self.check_dates(authority, &leaf, now)
            .map_err(LeafError::OutOfDate)?;
        if let Some(revocations) = revocations {
            revocations
                .check(self, authority, now)
                .map_err(LeafError::Revoked)?;
        }
        if !is_signed_by(&leaf.certificate, &authority.key) {
            return Err(LeafError::Untrusted {
                authority: name,
                product: self.product,
            });
        }
        Ok(AuthenticatedLeaf::new(leaf, self.origin))
    }

    /// The one authority whose signature counts for a kind.
    fn of(&self, kind: KeyKind) -> (&'static str, &Authority) {
        match kind {
            KeyKind::Vcek => ("ASK", &self.ask),
            KeyKind::Vlek => ("ASVK", &self.asvk),
        }
    }

    fn check_dates(
        &self,
        authority: &Authority,
        leaf: &Leaf,
        now: UnixTime,
    ) -> Result<(), OutOfDate> {
        self.ark.validity.check(now)?;
        authority.validity.check(now)?;
        leaf.validity().check(now)
    }
}

/// One authority.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    certificate: Certificate,
    digest: [u8; 32],
    validity: Period,
    pub(crate) key: ParsedPublicKey,
    pub(crate) serial: Vec<u8>,
}

impl Authority {
    /// Parses an authority that may have `below` intermediates under it.
    fn parse(name: &'static str, der: &[u8], below: usize) -> Result<Self, AuthorityError> {
        let malformed = |source| AuthorityError::Malformed { name, source };
        let certificate = Certificate::parse(der).map_err(malformed)?;
        let key = authority_key(&certificate);
        let (Some(key), true) = (key, certificate.is_authority(below).map_err(malformed)?) else {
            return Err(AuthorityError::NotAuthority(name));
        };
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, der).as_ref());
        Ok(Self {
            digest: sha256,
            validity: Period::of(certificate.fields().validity()),
            serial: certificate.fields().serial_number().as_bytes().to_vec(),
            key,
            certificate,
        })
    }

    fn check_signed_by(&self, name: &'static str, issuer: &Self) -> Result<(), AuthorityError> {
        if is_signed_by(&self.certificate, &issuer.key) {
            return Ok(());
        }
        Err(AuthorityError::Unsigned(name))
    }
}

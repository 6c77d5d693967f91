//! The certificate of a signing key, VCEK or VLEK: "VCEK Certificate and KDS Interface
//! Specification" (AMD 57230), and the same for the VLEK.

mod extensions;

pub use extensions::ExtensionFault;

use crate::{ChipId, KeyKind, OutOfDate, Period, Product, Tcb, pss::is_pss, signature::p384_key};
use alloc::string::String;
use aws_lc_rs::signature::ParsedPublicKey;
use extensions::Extensions;
use x509::{
    Certificate, Malformed, UnknownExtension,
    x509_cert::{
        Version,
        der::oid::{AssociatedOid, ObjectIdentifier},
        ext::pkix::{BasicConstraints, KeyUsage},
    },
};

/// `id-ecPublicKey` and `secp384r1` (RFC 5480, sections 2.1.1 and 2.1.1.1).
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// Critical extensions whose meaning is checked: a leaf is no authority.
const KNOWN: [ObjectIdentifier; 2] = [BasicConstraints::OID, KeyUsage::OID];

/// Why a certificate is not one of a signing key, or not an acceptable one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeafError {
    /// It is an authority's.
    #[error("certificate is an authority's, not a signing key's")]
    Authority,
    /// An extension of AMD's is missing, malformed or out of place.
    #[error("extension {name} of the certificate")]
    Extension {
        /// AMD's name for it.
        name: &'static str,
        /// What is wrong.
        #[source]
        fault: ExtensionFault,
    },
    /// The key is not of P-384.
    #[error("certificate is not for a key of P-384")]
    Key,
    /// It does not parse.
    #[error("certificate of the signing key")]
    Malformed(#[source] Malformed),
    /// Its dates do not fit.
    #[error("certificate of the signing key is out of date")]
    OutOfDate(#[source] OutOfDate),
    /// It is of another product line than the authorities.
    #[error("certificate is of {got}, authorities are of {expected}")]
    Product {
        /// The authorities'.
        expected: Product,
        /// Its own.
        got: Product,
    },
    /// A certificate of the chain was revoked.
    #[error("chain of the certificate")]
    Revoked(#[source] crate::RevocationError),
    /// Its signature algorithm is not AMD's.
    #[error("certificate is not signed by RSASSA-PSS with SHA-384")]
    SignatureAlgorithm,
    /// It has a critical extension that is not known here.
    #[error("certificate of the signing key")]
    UnknownExtension(#[source] UnknownExtension),
    /// The authority for its kind did not sign it.
    #[error("certificate is not signed by the {authority} for {product}")]
    Untrusted {
        /// Which authority would have had to.
        authority: &'static str,
        /// Of which product line.
        product: Product,
    },
}

/// A parsed certificate of a signing key. Nobody vouches for it yet:
/// [`crate::Authorities::authenticate_leaf`] does.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub(crate) certificate: Certificate,
    pub(crate) key: ParsedPublicKey,
    kind: KeyKind,
    product: Product,
    tcb: Tcb,
    chip_id: Option<ChipId>,
    csp_id: Option<String>,
}

impl Leaf {
    /// Parses the DER certificate of a signing key of the kind `kind`: what a certificate says of
    /// itself does not decide what it is taken for.
    ///
    /// # Errors
    /// What is wrong with it, see [`LeafError`].
    pub fn parse(kind: KeyKind, der: &[u8]) -> Result<Self, LeafError> {
        let certificate = Certificate::parse(der).map_err(LeafError::Malformed)?;
        if certificate.fields().version() != Version::V3 {
            return Err(LeafError::Malformed(Malformed("version is not 3")));
        }
        if !is_pss(certificate.algorithm()) {
            return Err(LeafError::SignatureAlgorithm);
        }
        check_usage(&certificate)?;
        let key = key(&certificate).ok_or(LeafError::Key)?;
        let extensions = Extensions(certificate.extensions());
        let product = extensions.product()?;
        Ok(Self {
            kind,
            product,
            tcb: extensions.tcb(product)?,
            chip_id: extensions.chip_id(kind, product)?,
            csp_id: extensions.csp_id(kind)?,
            key,
            certificate,
        })
    }

    /// Which kind of key it was parsed as.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The product line it names.
    #[must_use]
    pub fn product(&self) -> Product {
        self.product
    }

    /// The TCB that the key was derived from.
    #[must_use]
    pub fn tcb(&self) -> Tcb {
        self.tcb
    }

    /// The chip whose key it is; a VCEK has one, a VLEK none.
    #[must_use]
    pub fn chip_id(&self) -> Option<ChipId> {
        self.chip_id
    }

    /// The provider whose key it is; a VLEK has one, a VCEK none.
    #[must_use]
    pub fn csp_id(&self) -> Option<&str> {
        self.csp_id.as_deref()
    }

    /// When it is valid.
    #[must_use]
    pub fn validity(&self) -> Period {
        Period::of(self.certificate.fields().validity())
    }
}

fn check_usage(certificate: &Certificate) -> Result<(), LeafError> {
    certificate
        .check_critical(&KNOWN)
        .map_err(LeafError::UnknownExtension)?;
    let constraints = certificate
        .extension::<BasicConstraints>("basic constraints")
        .map_err(LeafError::Malformed)?;
    if constraints.is_some_and(|constraints| constraints.ca) {
        return Err(LeafError::Authority);
    }
    Ok(())
}

fn key(certificate: &Certificate) -> Option<ParsedPublicKey> {
    if certificate.key_algorithm().oid != EC || certificate.curve() != Some(P384) {
        return None;
    }
    p384_key(certificate.public_key()?)
}

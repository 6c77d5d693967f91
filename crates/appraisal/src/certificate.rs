//! Endorsement key certificates and the chain to an authority of the policy.
//!
//! No validity date is checked. A certificate here says "this key is in such a TPM", which does not
//! become false with time, and the only clock there is belongs to the host. An authority is
//! revoked by taking it out of the policy, a single TPM by not admitting its identity.

use alloc::vec::Vec;
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use tpm::{Curve, PublicKey};
use x509::x509_cert::{
    der::{
        Decode,
        asn1::UintRef,
        oid::{AssociatedOid, ObjectIdentifier},
    },
    ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages},
};

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

/// Signature algorithms (RFC 4055, section 5; RFC 5758, section 3.2).
const SHA256_RSA: ObjectIdentifier = oid("1.2.840.113549.1.1.11");
const SHA384_RSA: ObjectIdentifier = oid("1.2.840.113549.1.1.12");
const SHA512_RSA: ObjectIdentifier = oid("1.2.840.113549.1.1.13");
const ECDSA_SHA256: ObjectIdentifier = oid("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = oid("1.2.840.10045.4.3.3");
const ECDSA_SHA512: ObjectIdentifier = oid("1.2.840.10045.4.3.4");
/// Key types (RFC 3279, section 2.3; RFC 4055, section 1.2; RFC 5480, section 2.1.1).
const RSA: ObjectIdentifier = oid("1.2.840.113549.1.1.1");
const RSAES_OAEP: ObjectIdentifier = oid("1.2.840.113549.1.1.7");
const EC: ObjectIdentifier = oid("1.2.840.10045.2.1");
const P256: ObjectIdentifier = oid("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = oid("1.3.132.0.34");
const P521: ObjectIdentifier = oid("1.3.132.0.35");
/// `tcg-kp-EKCertificate` (EK Credential Profile 2.5, section 3.2.16).
const EK_CERTIFICATE: ObjectIdentifier = oid("2.23.133.8.1");

/// Extensions whose meaning is checked below, or that only describe (RFC 5280, section 4.2;
/// EK Credential Profile 2.5, section 3.2): subject directory attributes, subject key id, key
/// usage, subject alternative name (TPM manufacturer, model, version), basic constraints, CRL
/// distribution points, certificate policies, authority key id, extended key usage, authority
/// information access. Any other critical one, name constraints too, refuses.
const KNOWN: [ObjectIdentifier; 10] = [
    oid("2.5.29.9"),
    oid("2.5.29.14"),
    KeyUsage::OID,
    oid("2.5.29.17"),
    BasicConstraints::OID,
    oid("2.5.29.31"),
    oid("2.5.29.32"),
    oid("2.5.29.35"),
    ExtendedKeyUsage::OID,
    oid("1.3.6.1.5.5.7.1.1"),
];

/// The most certificates above an endorsement key's, the authority's included.
const MAX_DEPTH: usize = 3;

/// Why a certificate is not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// It is no authority: basic constraints or key usage say so.
    #[error("certificate is not a certificate authority's")]
    NotAuthority,
    /// It is not for an endorsement key: basic constraints, key usage or extended key usage say so.
    #[error("certificate is not for an endorsement key: {0} does not allow it")]
    NotEndorsementKey(&'static str),
    /// It is for another key than the one sent.
    #[error("certificate is for another key than the endorsement key sent")]
    OtherKey,
    /// It does not parse.
    #[error("malformed certificate: {0}")]
    Malformed(&'static str),
    /// It has a critical extension that is not understood.
    #[error("certificate has an unknown critical extension {0}")]
    UnknownExtension(ObjectIdentifier),
    /// No authority of the policy vouches for it.
    #[error("certificate has no valid chain to an authority of the policy")]
    Untrusted,
}

impl From<x509::Malformed> for CertificateError {
    fn from(x509::Malformed(what): x509::Malformed) -> Self {
        Self::Malformed(what)
    }
}

impl From<x509::UnknownExtension> for CertificateError {
    fn from(x509::UnknownExtension(extension): x509::UnknownExtension) -> Self {
        Self::UnknownExtension(extension)
    }
}

/// Whoever may sign the certificate of an endorsement key: the authorities, and the intermediates
/// with a chain to one. The chains were verified, once for all endorsement keys.
#[derive(Clone, Debug)]
pub(crate) struct Issuers(Vec<Certificate>);

impl Issuers {
    /// An intermediate without a chain is left out: it is trusted for nothing by itself.
    pub(crate) fn authenticate(
        authorities: Vec<Certificate>,
        intermediates: &[Certificate],
    ) -> Self {
        let chained = intermediates
            .iter()
            .filter(|issuer| {
                issuer.0.is_authority(0) == Ok(true)
                    && issuer.has_chain(&authorities, intermediates, 1)
            })
            .cloned()
            .collect();
        Self([authorities, chained].concat())
    }

    /// Nobody: no certificate of an endorsement key counts.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A certificate in the chain of an endorsement key. Its critical extensions are known.
#[derive(Clone, Debug)]
pub(crate) struct Certificate(x509::Certificate);

impl Certificate {
    /// Parses one DER certificate, nothing after it.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        Self::known(x509::Certificate::parse(der)?)
    }

    /// Parses one PEM certificate that may sign others.
    pub(crate) fn parse_authority(pem: &str) -> Result<Self, CertificateError> {
        let certificate = Self::known(x509::Certificate::parse_pem(pem)?)?;
        if !certificate.0.is_authority(0)? {
            return Err(CertificateError::NotAuthority);
        }
        Ok(certificate)
    }

    fn known(certificate: x509::Certificate) -> Result<Self, CertificateError> {
        certificate.check_critical(&KNOWN)?;
        Ok(Self(certificate))
    }

    /// Accepts this certificate as the one of endorsement key `key`, vouched for by an authority.
    pub(crate) fn authenticate_ek(
        &self,
        key: &PublicKey,
        issuers: &Issuers,
    ) -> Result<(), CertificateError> {
        self.check_ek_usage(key)?;
        if !self.is_for(key) {
            return Err(CertificateError::OtherKey);
        }
        if issuers.0.iter().any(|issuer| issuer.signed(self)) {
            return Ok(());
        }
        Err(CertificateError::Untrusted)
    }

    /// Whether an authority signed this certificate, or an intermediate that itself has a chain.
    /// `below` counts the intermediates between here and the endorsement key.
    fn has_chain(&self, authorities: &[Self], intermediates: &[Self], below: usize) -> bool {
        let signs =
            |issuer: &&Self| issuer.0.is_authority(below) == Ok(true) && issuer.signed(self);
        if authorities.iter().any(|authority| signs(&authority)) {
            return true;
        }
        below + 1 < MAX_DEPTH
            && intermediates
                .iter()
                .filter(signs)
                .any(|issuer| issuer.has_chain(authorities, intermediates, below + 1))
    }

    /// The rules of EK Credential Profile 2.5, section 3.2, for extensions that are present. One that
    /// names a use must be: else any other certificate of the authority would do, with its key in
    /// software.
    fn check_ek_usage(&self, key: &PublicKey) -> Result<(), CertificateError> {
        let refused = |what| Err(CertificateError::NotEndorsementKey(what));
        let constraints = self.0.extension::<BasicConstraints>("basic constraints")?;
        if constraints.is_some_and(|constraints| constraints.ca) {
            return refused("basic constraints");
        }
        let needed = match key {
            PublicKey::Rsa { .. } => KeyUsages::KeyEncipherment,
            PublicKey::Ecc { .. } => KeyUsages::KeyAgreement,
        };
        let usage = self.0.extension::<KeyUsage>("key usage")?;
        let purposes = self.0.extension::<ExtendedKeyUsage>("extended key usage")?;
        if usage.is_none() && purposes.is_none() {
            return refused("key usage");
        }
        if usage.is_some_and(|usage| !usage.0.contains(needed)) {
            return refused("key usage");
        }
        if purposes.is_some_and(|purposes| !purposes.0.contains(&EK_CERTIFICATE)) {
            return refused("extended key usage");
        }
        Ok(())
    }

    /// Whether the certificate's public key is `key`.
    fn is_for(&self, key: &PublicKey) -> bool {
        let Some(bits) = self.0.public_key() else {
            return false;
        };
        let algorithm = self.0.key_algorithm().oid;
        match key {
            PublicKey::Rsa { modulus, exponent } => {
                // RSAPublicKey (RFC 8017, appendix A.1.1).
                let numbers = Vec::<UintRef<'_>>::from_der(bits).unwrap_or_default();
                let [n, e] = numbers.as_slice() else {
                    return false;
                };
                let zeros = exponent.leading_zeros() as usize / 8;
                matches!(algorithm, RSA | RSAES_OAEP)
                    && n.as_bytes() == modulus
                    && Some(e.as_bytes()) == exponent.to_be_bytes().get(zeros..)
            }
            PublicKey::Ecc { curve, point } => {
                let named = match curve {
                    Curve::P256 => P256,
                    Curve::P384 => P384,
                };
                algorithm == EC && self.0.curve() == Some(named) && bits == point.as_slice()
            }
        }
    }

    /// Whether this certificate's subject and key issued `child`.
    fn signed(&self, child: &Self) -> bool {
        let (Some(key), Some(signature), Some(algorithm)) = (
            self.0.public_key(),
            child.0.signature(),
            self.algorithm(child.0.algorithm().oid),
        ) else {
            return false;
        };
        child.0.fields().issuer() == self.0.fields().subject()
            && UnparsedPublicKey::new(algorithm, key)
                .verify(child.0.signed(), signature)
                .is_ok()
    }

    /// The verification algorithm for a signature by this certificate's key.
    fn algorithm(&self, signature: ObjectIdentifier) -> Option<&'static dyn VerificationAlgorithm> {
        match (self.0.key_algorithm().oid, signature) {
            (RSA, SHA256_RSA) => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
            (RSA, SHA384_RSA) => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
            (RSA, SHA512_RSA) => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
            (EC, hash) => ecdsa(self.0.curve()?, hash),
            _ => None,
        }
    }
}

fn ecdsa(
    curve: ObjectIdentifier,
    hash: ObjectIdentifier,
) -> Option<&'static dyn VerificationAlgorithm> {
    match (curve, hash) {
        (P256, ECDSA_SHA256) => Some(&signature::ECDSA_P256_SHA256_ASN1),
        (P256, ECDSA_SHA384) => Some(&signature::ECDSA_P256_SHA384_ASN1),
        (P384, ECDSA_SHA256) => Some(&signature::ECDSA_P384_SHA256_ASN1),
        (P384, ECDSA_SHA384) => Some(&signature::ECDSA_P384_SHA384_ASN1),
        (P384, ECDSA_SHA512) => Some(&signature::ECDSA_P384_SHA512_ASN1),
        (P521, ECDSA_SHA256) => Some(&signature::ECDSA_P521_SHA256_ASN1),
        (P521, ECDSA_SHA384) => Some(&signature::ECDSA_P521_SHA384_ASN1),
        (P521, ECDSA_SHA512) => Some(&signature::ECDSA_P521_SHA512_ASN1),
        _ => None,
    }
}

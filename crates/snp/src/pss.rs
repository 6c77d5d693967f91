//! Signatures of AMD's authorities: RSASSA-PSS with SHA-384 and RSA keys of 4096 bits.

use alloc::vec::Vec;
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PSS_2048_8192_SHA384};
use x509::{
    Certificate,
    x509_cert::{
        der::{Decode, asn1::UintRef, oid::ObjectIdentifier},
        spki::AlgorithmIdentifierOwned,
    },
};

/// `id-RSASSA-PSS` (RFC 4055, section 3.1).
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
/// `rsaEncryption` (RFC 4055, section 1.2).
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// Length of the modulus of an authority's key, in bytes.
const MODULUS_LEN: usize = 512;

/// `RSASSA-PSS-params` (RFC 4055, section 3.1): SHA-384, MGF1 with SHA-384, 48 bytes of salt.
const PARAMETERS: [u8; 52] = [
    0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05,
    0x00, 0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08,
    0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0xa2,
    0x03, 0x02, 0x01, 0x30,
];
/// `trailerField` 1: the default, which DER leaves out, and many of AMD's certificates do not.
const TRAILER: [u8; 5] = [0xa3, 0x03, 0x02, 0x01, 0x01];

/// Whether a signature algorithm is the one of AMD's authorities.
pub(crate) fn is_pss(algorithm: &AlgorithmIdentifierOwned) -> bool {
    let parameters = algorithm.parameters.as_ref();
    let rest = parameters.and_then(|any| any.value().strip_prefix(&PARAMETERS));
    algorithm.oid == RSASSA_PSS && rest.is_some_and(|rest| rest.is_empty() || *rest == TRAILER)
}

/// The key of an authority; `None` if it is not RSA of 4096 bits.
pub(crate) fn authority_key(certificate: &Certificate) -> Option<ParsedPublicKey> {
    let bytes = certificate.public_key()?;
    // RSAPublicKey (RFC 8017, appendix A.1.1): modulus, exponent.
    let numbers = Vec::<UintRef<'_>>::from_der(bytes).ok()?;
    let [modulus, _] = numbers.as_slice() else {
        return None;
    };
    let fits = certificate.key_algorithm().oid == RSA_ENCRYPTION
        && modulus.as_bytes().len() == MODULUS_LEN;
    fits.then(|| ParsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, bytes).ok())?
}

/// Whether `key` signed `certificate`. Names are not looked at: the key says who it was.
pub(crate) fn is_signed_by(certificate: &Certificate, key: &ParsedPublicKey) -> bool {
    let signature = certificate.signature();
    is_pss(certificate.algorithm())
        && signature.is_some_and(|bytes| key.verify_sig(certificate.signed(), bytes).is_ok())
}

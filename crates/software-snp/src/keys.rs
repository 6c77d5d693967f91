//! The two kinds of keys: RSA 4096 for authorities, P-384 for what signs reports.

use aws_lc_rs::{
    digest,
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PSS_SHA384},
};
use std::io;

use crate::der;

/// rsaEncryption (RFC 8017, appendix A.1).
const RSA_ENCRYPTION: [u64; 7] = [1, 2, 840, 113_549, 1, 1, 1];
/// id-RSASSA-PSS and id-mgf1 (RFC 8017, appendix A.2).
const RSASSA_PSS: [u64; 7] = [1, 2, 840, 113_549, 1, 1, 10];
const MGF1: [u64; 7] = [1, 2, 840, 113_549, 1, 1, 8];
/// id-sha384 (RFC 5754, section 2).
const SHA384: [u64; 9] = [2, 16, 840, 1, 101, 3, 4, 2, 2];
/// id-ecPublicKey and secp384r1 (RFC 5480, section 2.1).
const EC_PUBLIC_KEY: [u64; 6] = [1, 2, 840, 10_045, 2, 1];
const SECP384R1: [u64; 5] = [1, 3, 132, 0, 34];

/// An authority's key. Making one takes seconds.
#[derive(Debug)]
pub(crate) struct AuthorityKey {
    pair: RsaKeyPair,
    pkcs8: Vec<u8>,
}

impl AuthorityKey {
    pub(crate) fn generate() -> io::Result<Self> {
        let pair = RsaKeyPair::generate(KeySize::Rsa4096).map_err(io::Error::other)?;
        let pkcs8 = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).map_err(io::Error::other)?;
        Self::from_pkcs8(pkcs8.as_ref().to_vec())
    }

    pub(crate) fn from_pkcs8(pkcs8: Vec<u8>) -> io::Result<Self> {
        let pair = RsaKeyPair::from_pkcs8(&pkcs8).map_err(io::Error::other)?;
        Ok(Self { pair, pkcs8 })
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// `SubjectPublicKeyInfo`.
    pub(crate) fn public_key_info(&self) -> Vec<u8> {
        let algorithm = der::sequence(&[der::object_identifier(&RSA_ENCRYPTION), der::null()]);
        der::sequence(&[algorithm, der::bit_string(self.pair.public_key().as_ref())])
    }

    /// What names the key in certificates (RFC 7093, section 2, method 1).
    pub(crate) fn identifier(&self) -> Vec<u8> {
        let digest = digest::digest(&digest::SHA256, self.pair.public_key().as_ref());
        digest.as_ref().iter().take(20).copied().collect()
    }

    /// Signs the inner structure of a certificate or revocation list, and puts all together.
    pub(crate) fn seal(&self, inner: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(
                &RSA_PSS_SHA384,
                &SystemRandom::new(),
                &inner,
                &mut signature,
            )
            .map_err(io::Error::other)?;
        Ok(der::sequence(&[
            inner,
            pss_algorithm(),
            der::bit_string(&signature),
        ]))
    }
}

/// RSASSA-PSS with SHA-384, MGF1 with SHA-384 and a salt of 48 bytes, as AMD's certificates say.
pub(crate) fn pss_algorithm() -> Vec<u8> {
    let hash = der::sequence(&[der::object_identifier(&SHA384), der::null()]);
    let mask = der::sequence(&[der::object_identifier(&MGF1), hash.clone()]);
    let parameters = der::sequence(&[
        der::context(0, &hash),
        der::context(1, &mask),
        der::context(2, &der::integer(48)),
    ]);
    der::sequence(&[der::object_identifier(&RSASSA_PSS), parameters])
}

/// A key that signs reports.
#[derive(Debug)]
pub(crate) struct ReportKey {
    pair: EcdsaKeyPair,
    pkcs8: Vec<u8>,
}

impl ReportKey {
    pub(crate) fn generate() -> io::Result<Self> {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new());
        Self::from_pkcs8(pkcs8.map_err(io::Error::other)?.as_ref().to_vec())
    }

    pub(crate) fn from_pkcs8(pkcs8: Vec<u8>) -> io::Result<Self> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &pkcs8);
        Ok(Self {
            pair: pair.map_err(io::Error::other)?,
            pkcs8,
        })
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// `SubjectPublicKeyInfo`.
    pub(crate) fn public_key_info(&self) -> Vec<u8> {
        let algorithm = der::sequence(&[
            der::object_identifier(&EC_PUBLIC_KEY),
            der::object_identifier(&SECP384R1),
        ]);
        der::sequence(&[algorithm, der::bit_string(self.pair.public_key().as_ref())])
    }

    /// The halves of an ECDSA signature with SHA-384, each 48 bytes, big-endian.
    pub(crate) fn sign(&self, message: &[u8]) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        let signature = signature.map_err(io::Error::other)?;
        let (r, s) = signature.as_ref().split_at(48);
        Ok((r.to_vec(), s.to_vec()))
    }
}

//! The keys of a TPM without the TPM: a P-256 endorsement key with a certificate, an attestation
//! key, quotes over given PCR values. Fast, deterministic in its PCRs, and able to lie.

use aws_lc_rs::{
    agreement, cipher, digest,
    encoding::{AsBigEndian, EcPublicKeyUncompressedBin},
    error::Unspecified,
    hmac,
    iv::FixedLength,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use evidence::{TpmChallenge, TpmEvidence, TpmIdentity};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm,
};
use std::{collections::BTreeMap, io};
use tpm::{AttestationKey, EkKind, PcrSet, composite_digest, constants};

/// A self-signed authority for endorsement key certificates.
#[derive(Debug)]
pub struct KeyAuthority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl KeyAuthority {
    /// A new authority.
    ///
    /// # Errors
    /// If the library fails.
    pub fn new(name: &str) -> io::Result<Self> {
        Self::with(name, |_| {})
    }

    /// A new authority whose certificate is changed by `edit`.
    ///
    /// # Errors
    /// If the library fails.
    pub fn with(name: &str, edit: impl FnOnce(&mut CertificateParams)) -> io::Result<Self> {
        let params = authority_params(name, edit);
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.self_signed(&key).map_err(io::Error::other)?;
        Ok(Self {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// An authority under this one.
    ///
    /// # Errors
    /// If the library fails.
    pub fn intermediate(
        &self,
        name: &str,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> io::Result<Self> {
        let params = authority_params(name, edit);
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.signed_by(&key, &self.issuer);
        Ok(Self {
            pem: certificate.map_err(io::Error::other)?.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// A self-signed certificate of this authority's key under another name, PEM.
    ///
    /// # Errors
    /// If the library fails.
    pub fn renamed_pem(&self, name: &str) -> io::Result<String> {
        let params = authority_params(name, |_| {});
        let certificate = params.self_signed(self.issuer.key());
        Ok(certificate.map_err(io::Error::other)?.pem())
    }

    /// The certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A TPM with a certificate of this authority.
    ///
    /// # Errors
    /// If the library fails.
    pub fn manufacture(&self) -> io::Result<KeyTpm> {
        self.manufacture_with(|_| {})
    }

    /// A TPM with a certificate of this authority that is changed by `edit`.
    ///
    /// # Errors
    /// If the library fails.
    pub fn manufacture_with(
        &self,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> io::Result<KeyTpm> {
        let mut tpm = KeyTpm::new().map_err(io::Error::other)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        edit(&mut params);
        let key = EccKey(tpm.ek_point.clone());
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(io::Error::other)?;
        tpm.identity.ek_certificate = certificate.der().to_vec();
        Ok(tpm)
    }
}

fn authority_params(name: &str, edit: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    edit(&mut params);
    params
}

/// An endorsement key as the certificate maker takes it.
struct EccKey(Vec<u8>);

impl PublicKeyData for EccKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// The keys and PCRs of a TPM.
#[derive(Debug)]
pub struct KeyTpm {
    ek: agreement::PrivateKey,
    ek_point: Vec<u8>,
    ak: EcdsaKeyPair,
    identity: TpmIdentity,
    /// PCR values of the SHA-256 bank; one that is missing is zero.
    pub pcrs: BTreeMap<u32, [u8; 32]>,
    /// The event log that goes with a quote.
    pub event_log: Vec<u8>,
}

impl KeyTpm {
    fn new() -> Result<Self, Unspecified> {
        let ek = agreement::PrivateKey::generate(&agreement::ECDH_P256)?;
        let public = ek.compute_public_key()?;
        let point: EcPublicKeyUncompressedBin<'_> = public.as_be_bytes()?;
        let ek_point = point.as_ref().to_vec();
        let ak = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        let identity = TpmIdentity {
            ek_certificate: Vec::new(),
            ek_public: with_point(EkKind::EccP256.template(), 68, &ek_point),
            ak_public: with_point(
                AttestationKey::template(EkKind::EccP256, &[0; 32]),
                36,
                ak.public_key().as_ref(),
            ),
        };
        Ok(Self {
            ek,
            ek_point,
            ak,
            identity,
            pcrs: BTreeMap::new(),
            event_log: Vec::new(),
        })
    }

    /// What it claims to be.
    #[must_use]
    pub const fn identity(&self) -> &TpmIdentity {
        &self.identity
    }

    /// From here on a TPM that stores no certificate.
    pub fn forget_certificate(&mut self) {
        self.identity.ek_certificate.clear();
    }

    /// `TPM2_ActivateCredential`: `None` if the credential is for another key pair. Written from
    /// the specification (Part 1, section 24) independently of crate `tpm`.
    #[must_use]
    pub fn activate(&self, challenge: &TpmChallenge) -> Option<[u8; 32]> {
        let point = challenge.encrypted_secret.get(2..)?;
        let (x, y) = (point.get(2..34)?, point.get(36..68)?);
        let peer = [&[4][..], x, y].concat();
        let peer = agreement::UnparsedPublicKey::new(&agreement::ECDH_P256, peer);
        let own_x = self.ek_point.get(1..33)?;
        let seed = agreement::agree(&self.ek, peer, (), |z| {
            Ok(sha256(&[&[0, 0, 0, 1], z, b"IDENTITY\0", x, own_x]))
        });
        let seed = seed.ok()?;
        let mut name = vec![0, 0x0b];
        name.extend(sha256(&[&self.identity.ak_public]));
        let mac = challenge.credential_blob.get(4..36)?;
        let mut encrypted = challenge.credential_blob.get(36..)?.to_vec();
        let key = hmac(&seed, &[&[0, 0, 0, 1], b"INTEGRITY\0", &[0, 0, 1, 0]]);
        if hmac(&key, &[&encrypted, &name]) != mac {
            return None;
        }
        let key = hmac(
            &seed,
            &[&[0, 0, 0, 1], b"STORAGE\0", &name, &[0, 0, 0, 128]],
        );
        let key = cipher::UnboundCipherKey::new(&cipher::AES_128, key.get(..16)?).ok()?;
        let iv = cipher::DecryptionContext::Iv128(FixedLength::from([0; 16]));
        let key = cipher::DecryptingKey::cfb128(key).ok()?;
        let secret = key.decrypt(&mut encrypted, iv).ok()?;
        secret.get(2..)?.try_into().ok()
    }

    /// `TPM2_Quote` over PCRs of the SHA-256 bank. `None` if the selection is none.
    #[must_use]
    pub fn quote(&self, qualifying_data: &[u8; 32], pcrs: &[u32]) -> Option<TpmEvidence> {
        let selection = PcrSet::new(pcrs.iter().copied())?.encode();
        let value = |pcr: &u32| (*pcr, self.pcrs.get(pcr).copied().unwrap_or_default());
        let pcrs: BTreeMap<u32, [u8; 32]> = pcrs.iter().map(value).collect();
        let attestation = attestation(qualifying_data, &selection, &composite_digest(&pcrs));
        Some(TpmEvidence {
            signature: self.sign(&attestation)?,
            attestation,
            pcrs,
            event_log: self.event_log.clone(),
        })
    }

    /// Signs anything, as no restricted key would; gives a `TPMT_SIGNATURE`.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let signature = self.ak.sign(&SystemRandom::new(), message).ok()?;
        let (r, s) = signature.as_ref().split_at_checked(32)?;
        let mut out = vec![0x00, 0x18, 0x00, 0x0b];
        for number in [r, s] {
            out.extend([0, 32]);
            out.extend(number);
        }
        Some(out)
    }
}

/// A `TPMS_ATTEST` of type quote with made-up clock and signer.
#[must_use]
pub fn attestation(extra_data: &[u8], selection: &[u8], pcr_digest: &[u8; 32]) -> Vec<u8> {
    let extra_len = u16::try_from(extra_data.len()).unwrap_or(u16::MAX);
    [
        &constants::GENERATED.to_be_bytes()[..],
        &constants::ST_ATTEST_QUOTE.to_be_bytes(),
        &[0, 0],
        &extra_len.to_be_bytes(),
        extra_data,
        &1234_u64.to_be_bytes(),
        &5_u32.to_be_bytes(),
        &6_u32.to_be_bytes(),
        &[1],
        &0x2026_u64.to_be_bytes(),
        selection,
        &[0, 32],
        pcr_digest,
    ]
    .concat()
}

/// The template with its last `unique` bytes replaced by the coordinates of a SEC 1 point.
fn with_point(mut template: Vec<u8>, unique: usize, point: &[u8]) -> Vec<u8> {
    template.truncate(template.len() - unique);
    for coordinate in point.get(1..).unwrap_or_default().chunks(32) {
        template.extend([0, 32]);
        template.extend(coordinate);
    }
    template
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, &parts.concat());
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, &parts.concat()).as_ref().to_vec()
}

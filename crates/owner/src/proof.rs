//! The owner proof: what an admitter signs inside an attested channel.

use alloc::vec::Vec;
use aws_lc_rs::digest;
use evidence::{Binding, Side};

use crate::{AdmissionKeyCertificate, KeyError, OwnerFingerprint, OwnerPublicKey, is_signed_by};

/// A proof as received: nothing in it is true until [`OwnerProof::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerProof {
    /// The owner the signer claims to act for.
    pub owner: OwnerPublicKey,
    /// The admission key that signed; `None` when the owner key itself did.
    pub admission_key: Option<AdmissionKeyCertificate>,
    /// Over the binding of the channel and the signer's side.
    pub signature: [u8; 64],
}

/// The result of a verified proof: the peer acts for this owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct ProvenOwner(OwnerFingerprint);

impl ProvenOwner {
    /// The owner, equal to the one that was expected.
    #[must_use]
    pub const fn fingerprint(&self) -> &OwnerFingerprint {
        &self.0
    }
}

/// Why a peer does not act for the expected owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OwnerProofError {
    /// The proof is by another owner.
    #[error("owner proof: expected owner {expected}, got {got}")]
    ForeignOwner {
        /// The fingerprint on the measured command line.
        expected: OwnerFingerprint,
        /// The fingerprint of the key in the proof.
        got: OwnerFingerprint,
    },
    /// The admission key is not certified by the owner.
    #[error("owner proof: admission key")]
    AdmissionKey(#[source] KeyError),
    /// The signature is not over this channel and side.
    #[error("owner proof: signature does not verify for this channel and side")]
    Signature,
}

impl OwnerProof {
    /// Verifies that the peer, which is `signer`'s side of the channel with `binding`, acts for
    /// `expected`.
    ///
    /// # Errors
    /// [`OwnerProofError`] names the first check that failed.
    pub fn verify(
        &self,
        expected: &OwnerFingerprint,
        signer: Side,
        binding: &Binding,
    ) -> Result<ProvenOwner, OwnerProofError> {
        verify_signer(
            (&self.owner, self.admission_key.as_ref()),
            expected,
            &message(signer, binding),
            &self.signature,
        )
        .map(ProvenOwner)
    }
}

/// Verifies that `signature` over `message` is by `owner`, which must be the expected one, or by an
/// admission key that it certified.
pub(crate) fn verify_signer(
    (owner, admission_key): (&OwnerPublicKey, Option<&AdmissionKeyCertificate>),
    expected: &OwnerFingerprint,
    message: &[u8],
    signature: &[u8; 64],
) -> Result<OwnerFingerprint, OwnerProofError> {
    let got = owner.fingerprint();
    if got != *expected {
        return Err(OwnerProofError::ForeignOwner {
            expected: *expected,
            got,
        });
    }
    let signing_key = match admission_key {
        None => &owner.0,
        Some(certificate) => {
            certificate
                .verify(owner)
                .map_err(OwnerProofError::AdmissionKey)?;
            &certificate.public_key
        }
    };
    if is_signed_by(signing_key, message, signature) {
        Ok(got)
    } else {
        Err(OwnerProofError::Signature)
    }
}

/// `"constellation-owner-v1" 0x00 || side || SHA-256(binding)`: the side keeps a proof from being
/// reflected to the one who made it.
pub(crate) fn message(signer: Side, binding: &Binding) -> Vec<u8> {
    let digest = digest::digest(&digest::SHA256, binding.as_bytes());
    [
        b"constellation-owner-v1\0".as_slice(),
        &[signer as u8],
        digest.as_ref(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AdmissionKey, OwnerKey, Seed};
    use alloc::string::ToString;
    use evidence::Channel;

    fn binding(exporter: u8) -> Binding {
        Binding::compute(&Channel {
            attester: Side::Client,
            client_hello: b"a",
            server_hello: b"b",
            client_spki: b"c",
            server_spki: b"d",
            exporter: &[exporter; 32],
        })
    }

    fn seed(byte: u8) -> Seed {
        Seed::from_slice(&[byte; 32]).unwrap()
    }

    fn owner(byte: u8) -> OwnerKey {
        OwnerKey::from_seed(&seed(byte)).unwrap()
    }

    fn admission_key(owner: &OwnerKey, byte: u8) -> AdmissionKey {
        let certificate = owner.certify(AdmissionKey::public_half(&seed(byte)).unwrap());
        AdmissionKey::new(&seed(byte), owner.public_key(), certificate).unwrap()
    }

    #[test]
    fn owner_and_admission_key_prove_the_owner() {
        let owner = owner(1);
        let fingerprint = owner.public_key().fingerprint();
        for proof in [
            owner.prove(Side::Server, &binding(1)),
            admission_key(&owner, 2).prove(Side::Server, &binding(1)),
        ] {
            let proven = proof
                .verify(&fingerprint, Side::Server, &binding(1))
                .unwrap();
            assert_eq!(proven.fingerprint(), &fingerprint);
        }
    }

    #[test]
    fn another_channel_side_or_owner_is_refused() {
        let owner = owner(1);
        let fingerprint = owner.public_key().fingerprint();
        let proof = owner.prove(Side::Server, &binding(1));
        assert_eq!(
            proof.verify(&fingerprint, Side::Server, &binding(2)),
            Err(OwnerProofError::Signature)
        );
        assert_eq!(
            proof.verify(&fingerprint, Side::Client, &binding(1)),
            Err(OwnerProofError::Signature)
        );
        let other = self::owner(9).public_key().fingerprint();
        assert!(matches!(
            proof.verify(&other, Side::Server, &binding(1)),
            Err(OwnerProofError::ForeignOwner { expected, got }) if expected == other && got == fingerprint
        ));
    }

    #[test]
    fn an_admission_key_of_another_owner_is_refused() {
        let (owner, foreign) = (owner(1), owner(9));
        let fingerprint = owner.public_key().fingerprint();
        let mut proof = admission_key(&foreign, 2).prove(Side::Server, &binding(1));
        proof.owner = owner.public_key();
        assert!(matches!(
            proof.verify(&fingerprint, Side::Server, &binding(1)),
            Err(OwnerProofError::AdmissionKey(KeyError::NotCertified { .. }))
        ));
    }

    #[test]
    fn every_flipped_bit_of_a_proof_is_refused() {
        let owner = owner(1);
        let fingerprint = owner.public_key().fingerprint();
        let proof = admission_key(&owner, 2).prove(Side::Server, &binding(1));
        for bit in 0..512 {
            let mut signature = proof.clone();
            signature.signature[bit / 8] ^= 1 << (bit % 8);
            let mut certificate = proof.clone();
            certificate.admission_key.as_mut().unwrap().signature[bit / 8] ^= 1 << (bit % 8);
            for bad in [signature, certificate] {
                assert!(
                    bad.verify(&fingerprint, Side::Server, &binding(1)).is_err(),
                    "bit {bit}"
                );
            }
        }
    }

    #[test]
    fn certificate_files_round_trip_and_refuse_changes() {
        let owner = owner(1);
        let certificate = owner.certify(AdmissionKey::public_half(&seed(2)).unwrap());
        let text = certificate.encode(&owner.public_key());
        let parsed = AdmissionKeyCertificate::parse(text.as_bytes()).unwrap();
        assert_eq!(parsed, (owner.public_key(), certificate));
        let foreign = text.replace(
            &owner.public_key().to_string(),
            &self::owner(9).public_key().to_string(),
        );
        for bad in [
            foreign.as_str(),
            "",
            "{}",
            &text.replace("signature", "signatur"),
        ] {
            assert!(
                AdmissionKeyCertificate::parse(bad.as_bytes()).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn an_admission_key_wants_its_own_certificate() {
        let owner = owner(1);
        let certificate = owner.certify(AdmissionKey::public_half(&seed(2)).unwrap());
        let error = AdmissionKey::new(&seed(3), owner.public_key(), certificate).unwrap_err();
        assert_eq!(error, KeyError::OtherKey);
    }
}

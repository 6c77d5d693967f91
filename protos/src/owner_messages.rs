//! Owner proofs to and from `owner`.

use owner::{AdmissionKeyCertificate, OwnerProof, OwnerPublicKey};

use crate::{Malformed, atls, malformed::fixed};

impl From<OwnerProof> for atls::OwnerProof {
    fn from(proof: OwnerProof) -> Self {
        let certificate = |certificate: AdmissionKeyCertificate| atls::AdmissionKeyCertificate {
            public_key: certificate.public_key.to_vec(),
            signature: certificate.signature.to_vec(),
        };
        Self {
            owner_public_key: proof.owner.0.to_vec(),
            admission_key: proof.admission_key.map(certificate),
            signature: proof.signature.to_vec(),
        }
    }
}

impl TryFrom<atls::OwnerProof> for OwnerProof {
    type Error = Malformed;

    fn try_from(message: atls::OwnerProof) -> Result<Self, Malformed> {
        let certificate = |message: atls::AdmissionKeyCertificate| {
            Ok(AdmissionKeyCertificate {
                public_key: fixed("admission_key.public_key", &message.public_key)?,
                signature: fixed("admission_key.signature", &message.signature)?,
            })
        };
        Ok(Self {
            owner: OwnerPublicKey(fixed(
                "owner_proof.owner_public_key",
                &message.owner_public_key,
            )?),
            admission_key: message.admission_key.map(certificate).transpose()?,
            signature: fixed("owner_proof.signature", &message.signature)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof() -> OwnerProof {
        OwnerProof {
            owner: OwnerPublicKey([1; 32]),
            admission_key: Some(AdmissionKeyCertificate {
                public_key: [2; 32],
                signature: [3; 64],
            }),
            signature: [4; 64],
        }
    }

    #[test]
    fn proofs_survive_the_round_trip() {
        for proof in [
            proof(),
            OwnerProof {
                admission_key: None,
                ..proof()
            },
        ] {
            let message = atls::OwnerProof::from(proof.clone());
            assert_eq!(OwnerProof::try_from(message), Ok(proof));
        }
    }

    #[test]
    fn every_field_has_its_length() {
        let flaws: [fn(&mut atls::OwnerProof); 4] = [
            |proof| proof.owner_public_key.push(0),
            |proof| proof.signature.truncate(63),
            |proof| proof.admission_key.as_mut().unwrap().public_key.clear(),
            |proof| proof.admission_key.as_mut().unwrap().signature.push(0),
        ];
        for flaw in flaws {
            let mut message = atls::OwnerProof::from(proof());
            flaw(&mut message);
            assert!(matches!(
                OwnerProof::try_from(message),
                Err(Malformed::Length { .. })
            ));
        }
    }
}

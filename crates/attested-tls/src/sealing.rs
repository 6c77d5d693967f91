//! HPKE: secrets in an admission, sealed to the attester's sealing key.
//!
//! Base mode of RFC 9180 with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM; info is the
//! binding of the channel, aad the name of the secret. So a sealed secret opens only in the process
//! that made the sealing key, and only as what it was sealed as, for the channel it was sealed for.

use api::SealedSecret;
use evidence::Binding;
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE,
    hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey},
};
use secret::DataKey;
use zeroize::Zeroizing;

/// aad of a state disk's data key.
const DATA_KEY: &[u8] = b"data-key";

/// aad of what the bootstrapper gets (crate `hand-off`).
const MATERIAL: &[u8] = b"material";

/// Why a secret could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// No key pair: the library failed.
    #[error("making the sealing key failed")]
    Generate(#[source] rustls::Error),
    /// What was sealed has another length than the secret it should be.
    #[error("sealed secret: expected {expected} bytes inside, got {got}")]
    Length {
        /// Length of the secret.
        expected: usize,
        /// Length found.
        got: usize,
    },
    /// Not sealed to this key, for this channel, under this name; or changed on the way.
    #[error("sealed secret does not open")]
    Open(#[source] rustls::Error),
    /// The recipient's public key is unusable.
    #[error("sealing failed")]
    Seal(#[source] rustls::Error),
}

/// The attester's private key for sealed secrets; one for each boot.
pub struct SealingKey {
    private: HpkePrivateKey,
    public: SealingPublicKey,
}

impl SealingKey {
    /// Makes a key from the library's random generator.
    ///
    /// # Errors
    /// [`SealError::Generate`].
    pub fn generate() -> Result<Self, SealError> {
        let (public, private) = SUITE.generate_key_pair().map_err(SealError::Generate)?;
        let public = public.0.as_slice().try_into().map_err(|_| {
            SealError::Generate(rustls::Error::General("public key length".to_owned()))
        })?;
        Ok(Self {
            private,
            public: SealingPublicKey(public),
        })
    }

    /// The public half, sent in the attester's hello.
    #[must_use]
    pub const fn public_key(&self) -> SealingPublicKey {
        self.public
    }

    /// Opens a state disk's data key that came over the channel with `binding`.
    ///
    /// # Errors
    /// [`SealError::Open`] or [`SealError::Length`].
    pub fn open_data_key(
        &self,
        sealed: &SealedSecret,
        binding: &Binding,
    ) -> Result<DataKey, SealError> {
        let opened = self.open(sealed, binding, DATA_KEY)?;
        DataKey::from_slice(&opened).ok_or(SealError::Length {
            expected: DataKey::LEN,
            got: opened.len(),
        })
    }

    /// Opens material for the bootstrapper that came over the channel with `binding`.
    ///
    /// # Errors
    /// [`SealError::Open`].
    pub fn open_material(
        &self,
        sealed: &SealedSecret,
        binding: &Binding,
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.open(sealed, binding, MATERIAL)
    }

    fn open(
        &self,
        sealed: &SealedSecret,
        binding: &Binding,
        name: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let encapsulated = EncapsulatedSecret(sealed.encapsulated_key.to_vec());
        SUITE
            .open(
                &encapsulated,
                binding.as_bytes(),
                name,
                &sealed.ciphertext,
                &self.private,
            )
            .map(Zeroizing::new)
            .map_err(SealError::Open)
    }
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey(..)")
    }
}

/// The attester's public key for sealed secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SealingPublicKey([u8; 32]);

impl SealingPublicKey {
    /// Wraps the 32 bytes of an X25519 public key (RFC 7748, section 5).
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Seals a state disk's data key for the channel with `binding`. The caller must have accepted
    /// the attester whose key this is: take it from its `AcceptedAttester`.
    ///
    /// # Errors
    /// [`SealError::Seal`], when the peer's key is no usable point.
    pub fn seal_data_key(
        &self,
        data_key: &DataKey,
        binding: &Binding,
    ) -> Result<SealedSecret, SealError> {
        self.seal(data_key.expose_secret(), binding, DATA_KEY)
    }

    /// Seals material for the bootstrapper, under the same terms as [`Self::seal_data_key`].
    ///
    /// # Errors
    /// [`SealError::Seal`].
    pub fn seal_material(
        &self,
        material: &[u8],
        binding: &Binding,
    ) -> Result<SealedSecret, SealError> {
        self.seal(material, binding, MATERIAL)
    }

    fn seal(
        &self,
        secret: &[u8],
        binding: &Binding,
        name: &[u8],
    ) -> Result<SealedSecret, SealError> {
        let recipient = HpkePublicKey(self.0.to_vec());
        let (encapsulated, ciphertext) = SUITE
            .seal(binding.as_bytes(), name, secret, &recipient)
            .map_err(SealError::Seal)?;
        let encapsulated_key = encapsulated.0.as_slice().try_into().map_err(|_| {
            SealError::Seal(rustls::Error::General("encapsulated key length".to_owned()))
        })?;
        Ok(SealedSecret {
            encapsulated_key,
            ciphertext,
        })
    }
}

#[cfg(test)]
mod tests;

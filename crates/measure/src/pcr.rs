//! One platform configuration register of the SHA-256 bank, computed instead of read.

use alloc::vec::Vec;
use aws_lc_rs::digest;
use core::fmt;

/// SHA-256 of `data`.
#[must_use]
pub fn sha256(data: &[u8]) -> [u8; 32] {
    finish(digest::digest(&digest::SHA256, data))
}

/// Turns a digest of the library into an array.
pub(crate) fn finish(digest: digest::Digest) -> [u8; 32] {
    let mut value = [0; 32];
    for (to, from) in value.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    value
}

/// A register: starts at zero and can only be extended.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Register([u8; 32]);

impl Register {
    /// A register after TPM2_Startup(CLEAR): PCR 0 to 15 are zero (PC Client Platform TPM Profile,
    /// section 4.6).
    pub const ZERO: Self = Self([0; 32]);

    /// Extends with the digest of one event: `new = SHA-256(old || digest)`.
    pub fn extend(&mut self, digest: &[u8; 32]) {
        let mut joined = Vec::with_capacity(64);
        joined.extend_from_slice(&self.0);
        joined.extend_from_slice(digest);
        self.0 = sha256(&joined);
    }

    /// Extends with the SHA-256 of `data`.
    pub fn measure(&mut self, data: &[u8]) {
        self.extend(&sha256(data));
    }

    /// The value.
    #[must_use]
    pub const fn value(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn extends_like_a_tpm() {
        // PCR 3 of every PC whose firmware measures only the separator of four zero bytes.
        let mut register = Register::ZERO;
        register.measure(&[0; 4]);
        assert_eq!(
            register.to_string(),
            "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"
        );
    }
}

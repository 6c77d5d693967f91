use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroize;

/// Text with a secret in it, such as a private key in PEM: wiped when dropped, never printed.
///
/// Unlike the secrets of crate `secret` it can be serialised, because it lives in documents that exist
/// inside a sealed message or on a tmpfs. Buffers of the serialiser are the caller's to wipe.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// Takes the text.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text. Each call is a place where the secret is used.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

impl Drop for SecretText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let secret = SecretText::new("-----BEGIN".into());
        assert_eq!(format!("{secret:?}"), "SecretText(..)");
    }
}

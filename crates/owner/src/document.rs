//! Documents that the owner signs: policy and reference values.

use alloc::{
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;
use serde::{Deserialize, Serialize};

use crate::{KeyError, OwnerFingerprint, OwnerKey, OwnerPublicKey, is_signed_by, keys::parse_hex};

/// What a signed document says it is; part of what is signed, so that one kind cannot pass as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DocumentKind {
    /// The appraisal policy.
    Policy,
    /// The reference values of the images.
    ReferenceValues,
}

impl DocumentKind {
    /// As it stands in the envelope.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::ReferenceValues => "reference-values",
        }
    }

    /// What people call it, and what its serial is stored under.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::ReferenceValues => "reference values",
        }
    }
}

impl fmt::Display for DocumentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A document in its envelope (docs/formats.md): JSON text around the payload's exact text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedDocument {
    kind: DocumentKind,
    owner_public_key: String,
    payload: String,
    signature: String,
}

/// Why a signed document is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Larger than [`SignedDocument::MAX_LEN`].
    #[error("signed document: expected at most {max} bytes, got {got}")]
    TooLong {
        /// The bound in bytes.
        max: usize,
        /// The document's length in bytes.
        got: usize,
    },
    /// Not the envelope's JSON.
    #[error("signed document: malformed envelope: {0}")]
    Envelope(String),
    /// A key or signature is not lower-case hex of its length.
    #[error("signed document: malformed key or signature")]
    Hex(#[source] KeyError),
    /// Signed, but as another kind of document.
    #[error("signed document: expected kind {expected}, got {got}")]
    Kind {
        /// What the reader wanted.
        expected: DocumentKind,
        /// What the envelope says.
        got: DocumentKind,
    },
    /// Signed by another owner.
    #[error("signed document: expected owner {expected}, got {got}")]
    ForeignOwner {
        /// The pinned owner.
        expected: OwnerFingerprint,
        /// The owner in the envelope.
        got: OwnerFingerprint,
    },
    /// The signature is not the owner's over this kind and payload.
    #[error("signed document: signature does not verify")]
    Signature,
}

impl SignedDocument {
    /// The largest envelope that is read, in bytes.
    pub const MAX_LEN: usize = 1 << 20;

    const LABEL: &[u8] = b"constellation-document-v1\0";

    /// Signs `payload` as a document of `kind`.
    #[must_use]
    pub fn sign(kind: DocumentKind, payload: String, owner: &OwnerKey) -> Self {
        let signature = owner.sign(&message(kind, &payload));
        Self {
            kind,
            owner_public_key: owner.public_key().to_string(),
            payload,
            signature: hex::encode(signature),
        }
    }

    /// The envelope as JSON text, ending in a newline.
    #[must_use]
    pub fn encode(&self) -> String {
        // Serialising four strings into a `String` cannot fail.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Authenticates `text` as a document of `kind` by `owner` and gives its payload.
    ///
    /// # Errors
    /// [`DocumentError`] names the first check that failed; nothing of the payload was read then.
    pub fn open(
        text: &[u8],
        kind: DocumentKind,
        owner: &OwnerFingerprint,
    ) -> Result<String, DocumentError> {
        if text.len() > Self::MAX_LEN {
            return Err(DocumentError::TooLong {
                max: Self::MAX_LEN,
                got: text.len(),
            });
        }
        let document: Self = serde_json::from_slice(text)
            .map_err(|error| DocumentError::Envelope(error.to_string()))?;
        if document.kind != kind {
            return Err(DocumentError::Kind {
                expected: kind,
                got: document.kind,
            });
        }
        let key: OwnerPublicKey = document
            .owner_public_key
            .parse()
            .map_err(DocumentError::Hex)?;
        let got = key.fingerprint();
        if got != *owner {
            return Err(DocumentError::ForeignOwner {
                expected: *owner,
                got,
            });
        }
        let signature = parse_hex(&document.signature, "signature").map_err(DocumentError::Hex)?;
        if is_signed_by(&key.0, &message(kind, &document.payload), &signature) {
            Ok(document.payload)
        } else {
            Err(DocumentError::Signature)
        }
    }
}

/// `label || kind || 0x00 || payload`; no kind contains a zero byte.
fn message(kind: DocumentKind, payload: &str) -> Vec<u8> {
    [
        SignedDocument::LABEL,
        kind.to_string().as_bytes(),
        b"\0",
        payload.as_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;

    fn owner(byte: u8) -> OwnerKey {
        OwnerKey::from_seed(&Seed::from_slice(&[byte; 32]).unwrap()).unwrap()
    }

    fn signed() -> String {
        SignedDocument::sign(DocumentKind::Policy, "{\"serial\":1}".into(), &owner(1)).encode()
    }

    fn open(text: &str) -> Result<String, DocumentError> {
        SignedDocument::open(
            text.as_bytes(),
            DocumentKind::Policy,
            &owner(1).public_key().fingerprint(),
        )
    }

    #[test]
    fn opens_what_was_signed() {
        assert_eq!(open(&signed()).unwrap(), "{\"serial\":1}");
    }

    #[test]
    fn refuses_changed_documents() {
        assert_eq!(
            open(&signed().replace(":1}", ":2}")),
            Err(DocumentError::Signature)
        );
        assert!(matches!(
            open(&signed().replace("policy", "reference-values")),
            Err(DocumentError::Kind { .. })
        ));
        assert!(matches!(open("{}"), Err(DocumentError::Envelope(_))));
        assert!(matches!(
            open(&signed().replace("kind", "kid")),
            Err(DocumentError::Envelope(_))
        ));
        assert!(matches!(
            open(&" ".repeat(SignedDocument::MAX_LEN + 1)),
            Err(DocumentError::TooLong { .. })
        ));
        let signed = signed();
        assert!(open(&signed[..signed.len() - 3]).is_err());
    }

    #[test]
    fn refuses_other_owners_and_kinds() {
        let foreign = SignedDocument::sign(DocumentKind::Policy, "{}".into(), &owner(2)).encode();
        assert!(matches!(
            open(&foreign),
            Err(DocumentError::ForeignOwner { .. })
        ));
        let other_kind =
            SignedDocument::sign(DocumentKind::ReferenceValues, "{}".into(), &owner(1)).encode();
        // The kind is part of what is signed: renaming it in the envelope does not help.
        assert_eq!(
            open(&other_kind.replace("reference-values", "policy")),
            Err(DocumentError::Signature)
        );
    }
}

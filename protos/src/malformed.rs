//! What can be wrong with a message's form.

use identity::MalformedName;

/// A message whose fields are not the domain value they should be. The peer is to blame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A mandatory field is absent or empty.
    #[error("{field}: missing")]
    Missing {
        /// Message and field.
        field: &'static str,
    },
    /// A value that may come once comes again.
    #[error("{field}: value {got} given twice")]
    Duplicate {
        /// Message and field.
        field: &'static str,
        /// The number received.
        got: i32,
    },
    /// A field is filled that the rest of the message leaves no room for.
    #[error("{field}: expected to be absent")]
    Unexpected {
        /// Message and field.
        field: &'static str,
    },
    /// A field of fixed length has another one.
    #[error("{field}: expected {expected} bytes, got {got}")]
    Length {
        /// Message and field.
        field: &'static str,
        /// The length the protocol fixes.
        expected: usize,
        /// The length received.
        got: usize,
    },
    /// A field is longer than its bound.
    #[error("{field}: expected at most {max} bytes, got {got}")]
    TooLong {
        /// Message and field.
        field: &'static str,
        /// The bound in bytes.
        max: usize,
        /// The length received.
        got: usize,
    },
    /// An enumeration holds a number this version does not know.
    #[error("{field}: unknown value {got}")]
    Unknown {
        /// Message and field.
        field: &'static str,
        /// The number received.
        got: i32,
    },
    /// A PCR index is not below 24, or not above the one before it.
    #[error("{field}: PCR {got} is out of order or out of range")]
    Pcr {
        /// Message and field.
        field: &'static str,
        /// The index received.
        got: u32,
    },
    /// A text is not the name it should be.
    #[error("{field}")]
    Name {
        /// Message and field.
        field: &'static str,
        /// What was expected.
        #[source]
        source: MalformedName,
    },
}

pub(crate) fn required<T>(field: &'static str, value: Option<T>) -> Result<T, Malformed> {
    value.ok_or(Malformed::Missing { field })
}

pub(crate) fn fixed<const N: usize>(
    field: &'static str,
    bytes: &[u8],
) -> Result<[u8; N], Malformed> {
    bytes.try_into().map_err(|_| Malformed::Length {
        field,
        expected: N,
        got: bytes.len(),
    })
}

pub(crate) fn filled(field: &'static str, bytes: Vec<u8>) -> Result<Vec<u8>, Malformed> {
    if bytes.is_empty() {
        return Err(Malformed::Missing { field });
    }
    Ok(bytes)
}

pub(crate) fn name<T>(field: &'static str, text: &str) -> Result<T, Malformed>
where
    T: core::str::FromStr<Err = MalformedName>,
{
    text.parse()
        .map_err(|source| Malformed::Name { field, source })
}

//! Who is to blame for a failure, as far as a peer may learn it.

use crate::{Malformed, atls};

/// The class of a failure. Retry logic looks at this and at nothing else; an unauthenticated peer
/// learns nothing but this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A bug or a broken installation on the answering side.
    Internal,
    /// The peer sent something that is not the protocol.
    Malformed,
    /// Policy says no; trying again changes nothing.
    Refused,
    /// Something needed is not there now; trying again may help.
    Unavailable,
}

impl Class {
    /// The gRPC status code that carries this class
    /// (<https://grpc.io/docs/guides/status-codes/>).
    #[must_use]
    pub const fn grpc_code(self) -> u32 {
        match self {
            Self::Malformed => 3,
            Self::Refused => 7,
            Self::Internal => 13,
            Self::Unavailable => 14,
        }
    }

    /// The class that a caller reads from a gRPC status code other than OK.
    #[must_use]
    pub const fn from_grpc_code(code: u32) -> Self {
        match code {
            // INVALID_ARGUMENT, OUT_OF_RANGE, UNIMPLEMENTED
            3 | 11 | 12 => Self::Malformed,
            // NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, FAILED_PRECONDITION, UNAUTHENTICATED
            5 | 6 | 7 | 9 | 16 => Self::Refused,
            // CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, UNAVAILABLE
            1 | 4 | 8 | 10 | 14 => Self::Unavailable,
            _ => Self::Internal,
        }
    }

    /// The name, as logs and metrics have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Malformed => "malformed",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
        }
    }
}

impl core::fmt::Display for Class {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Class> for atls::RefusalClass {
    fn from(class: Class) -> Self {
        match class {
            Class::Internal => Self::Internal,
            Class::Malformed => Self::Malformed,
            Class::Refused => Self::Refused,
            Class::Unavailable => Self::Unavailable,
        }
    }
}

impl TryFrom<atls::RefusalClass> for Class {
    type Error = Malformed;

    fn try_from(class: atls::RefusalClass) -> Result<Self, Malformed> {
        match class {
            atls::RefusalClass::Unspecified => Err(Malformed::Missing {
                field: "refusal.class",
            }),
            atls::RefusalClass::Malformed => Ok(Self::Malformed),
            atls::RefusalClass::Refused => Ok(Self::Refused),
            atls::RefusalClass::Unavailable => Ok(Self::Unavailable),
            atls::RefusalClass::Internal => Ok(Self::Internal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Class; 4] = [
        Class::Internal,
        Class::Malformed,
        Class::Refused,
        Class::Unavailable,
    ];

    #[test]
    fn classes_survive_both_encodings() {
        for class in ALL {
            assert_eq!(Class::from_grpc_code(class.grpc_code()), class);
            assert_eq!(Class::try_from(atls::RefusalClass::from(class)), Ok(class));
        }
    }

    #[test]
    fn an_unspecified_class_is_malformed_and_an_unknown_code_internal() {
        assert!(Class::try_from(atls::RefusalClass::Unspecified).is_err());
        assert_eq!(Class::from_grpc_code(99), Class::Internal);
    }
}

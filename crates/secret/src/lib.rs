//! Fixed-size secrets that zeroize, print only their name and compare in constant time.
//!
//! One type per secret, each a boxed array that is filled in place and wiped on drop. There is no
//! `Clone`, no `Serialize`, no `Display` and no `PartialEq`; [`Debug`](core::fmt::Debug) prints the
//! type's name. The one way to the bytes is `expose_secret`, so that every use can be found.
#![no_std]

extern crate alloc;

#[doc(hidden)]
pub mod reexport {
    pub use alloc::boxed::Box;
    pub use subtle::ConstantTimeEq;
    pub use zeroize::Zeroize;
}

/// Defines a secret: `secret! { /// What it protects. pub struct DataKey(32); }`.
#[macro_export]
macro_rules! secret {
    ($(#[$doc:meta])* $vis:vis struct $name:ident($len:expr);) => {
        $(#[$doc])*
        $vis struct $name($crate::reexport::Box<[u8; $len]>);

        impl $name {
            /// Length of the secret in bytes.
            pub const LEN: usize = $len;

            /// Fills a new secret in place; nothing is kept when `fill` fails.
            ///
            /// # Errors
            /// Whatever `fill` returns.
            pub fn try_fill<E>(fill: impl FnOnce(&mut [u8; $len]) -> Result<(), E>) -> Result<Self, E> {
                let mut secret = Self($crate::reexport::Box::new([0; $len]));
                fill(&mut secret.0)?;
                Ok(secret)
            }

            /// Takes a copy of `bytes`; `None` unless there are exactly [`Self::LEN`] of them. The
            /// caller wipes its own copy.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                let mut secret = Self($crate::reexport::Box::new([0; $len]));
                (bytes.len() == $len).then(|| {
                    secret.0.copy_from_slice(bytes);
                    secret
                })
            }

            /// The secret bytes. Each call is a place where the secret is used.
            #[must_use]
            pub fn expose_secret(&self) -> &[u8; $len] {
                &self.0
            }

            /// Equality in constant time.
            #[must_use]
            pub fn ct_eq(&self, other: &Self) -> bool {
                $crate::reexport::ConstantTimeEq::ct_eq(self.0.as_slice(), other.0.as_slice()).into()
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                $crate::reexport::Zeroize::zeroize(self.0.as_mut_slice());
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

secret! {
    /// The secret from which every data key is derived. Lives in the key service and in the
    /// owner's backup, nowhere else.
    pub struct MasterSecret(32);
}

secret! {
    /// The data key of one state disk: opens the sealed header, never touches a sector.
    pub struct DataKey(32);
}

secret! {
    /// The volume keys inside a sealed header: AES-256-XTS (64 bytes), then HMAC-SHA256 (32 bytes).
    pub struct VolumeKeys(96);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn debug_prints_the_name_only() {
        let key = DataKey::from_slice(&[0x41; 32]).unwrap();
        assert_eq!(format!("{key:?}"), "DataKey(..)");
    }

    #[test]
    fn equality_and_length() {
        let key = DataKey::from_slice(&[1; 32]).unwrap();
        assert!(key.ct_eq(&DataKey::from_slice(&[1; 32]).unwrap()));
        assert!(!key.ct_eq(&DataKey::from_slice(&[2; 32]).unwrap()));
        assert!(DataKey::from_slice(&[1; 31]).is_none());
        assert!(DataKey::from_slice(&[1; 33]).is_none());
    }

    #[test]
    fn a_failed_fill_gives_no_secret() {
        assert_eq!(
            DataKey::try_fill(|_| Err::<(), _>("no entropy")).err(),
            Some("no entropy")
        );
    }
}

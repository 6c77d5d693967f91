use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};

/// HKDF-SHA256 (RFC 5869) could not make so many bytes: more than 255 blocks were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutputTooLong;

/// Fills `output` from `secret`. The library keeps the pseudorandom key and wipes it.
pub(crate) fn fill(
    secret: &[u8],
    salt: &[u8],
    info: &[u8],
    output: &mut [u8],
) -> Result<(), OutputTooLong> {
    Salt::new(HKDF_SHA256, salt)
        .extract(secret)
        .expand(&[info], Length(output.len()))
        .and_then(|key| key.fill(output))
        .map_err(|_| OutputTooLong)
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

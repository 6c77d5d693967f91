//! Random bytes from the kernel.

use rustix::{
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};

/// Fills `bytes`, waiting until the kernel's generator is seeded. Fits the secrets' `try_fill`.
///
/// # Errors
/// [`RandomError`], with nothing to fall back to.
pub fn fill(mut bytes: &mut [u8]) -> Result<(), RandomError> {
    while !bytes.is_empty() {
        match getrandom(&mut *bytes, GetRandomFlags::empty()) {
            Ok(filled) => bytes = &mut bytes[filled..],
            Err(Errno::INTR) => {}
            Err(source) => return Err(RandomError(source)),
        }
    }
    Ok(())
}

/// Random bytes that are no secret: a nonce, a jitter.
///
/// # Errors
/// [`RandomError`].
pub fn array<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}

/// The kernel gave no random bytes (class internal).
#[derive(Debug, thiserror::Error)]
#[error("getrandom")]
pub struct RandomError(#[source] Errno);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_all_of_a_long_buffer_and_never_twice_the_same() {
        // getrandom(2) may return short counts above 256 bytes.
        let (mut first, mut second) = (vec![0; 100_000], vec![0; 100_000]);
        fill(&mut first).unwrap();
        fill(&mut second).unwrap();
        assert_ne!(first, second);
        assert!(first[99_900..].iter().any(|byte| *byte != 0));
        assert_ne!(array::<32>().unwrap(), array::<32>().unwrap());
    }
}

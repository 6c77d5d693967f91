//! TCG event logs as a firmware with a SHA-1 and a SHA-256 bank writes them (TCG PC Client Platform
//! Firmware Profile 1.05, section 10.2).

use aws_lc_rs::digest::{SHA256, digest};

/// `EV_NO_ACTION`: extends nothing.
pub const EV_NO_ACTION: u32 = 3;
/// `TPM_ALG_ID` and digest size of both banks.
const BANKS: [(u16, u16); 2] = [(0x0004, 20), (0x000b, 32)];

/// A log under construction.
#[derive(Clone, Debug)]
pub struct LogBuilder(Vec<u8>);

impl Default for LogBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl LogBuilder {
    /// A log without events: its `Spec ID Event03` header.
    #[must_use]
    pub fn new() -> Self {
        let mut spec = b"Spec ID Event03\0".to_vec();
        spec.extend([0, 0, 0, 0, 0, 2, 0, 2]);
        spec.extend([2, 0, 0, 0]);
        for (algorithm, size) in BANKS {
            spec.extend(algorithm.to_le_bytes());
            spec.extend(size.to_le_bytes());
        }
        spec.push(0);
        let log = Self(Vec::new()).u32(0).u32(EV_NO_ACTION);
        log.bytes_of(&[0; 20]).sized(&spec)
    }

    /// Adds an event with the SHA-256 of `measured` as its digest.
    #[must_use]
    pub fn event(self, pcr: u32, kind: u32, measured: &[u8], data: &[u8]) -> Self {
        self.u32(pcr)
            .u32(kind)
            .u32(2)
            .bytes_of(&BANKS[0].0.to_le_bytes())
            .bytes_of(&[0xaa; 20])
            .bytes_of(&BANKS[1].0.to_le_bytes())
            .bytes_of(digest(&SHA256, measured).as_ref())
            .sized(data)
    }

    /// The log.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn u32(self, number: u32) -> Self {
        self.bytes_of(&number.to_le_bytes())
    }

    fn sized(self, bytes: &[u8]) -> Self {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX))
            .bytes_of(bytes)
    }

    fn bytes_of(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

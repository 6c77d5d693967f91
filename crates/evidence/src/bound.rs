//! What a device may be asked to sign.

use crate::{Binding, StatementBinding};
use aws_lc_rs::digest;

/// The two values that evidence is made for, and no other: whoever has a device takes a `Bound`, so
/// that no caller brings bytes of its own choice.
pub trait Bound: sealed::Sealed {
    /// `REPORT_DATA` of an SNP report.
    fn report_data(&self) -> &[u8; 64];

    /// The 32 bytes that a TPM quote carries as `qualifyingData`.
    fn qualifying_data(&self) -> [u8; 32] {
        let mut data = [0; 32];
        data.copy_from_slice(digest::digest(&digest::SHA256, self.report_data()).as_ref());
        data
    }
}

mod sealed {
    #[expect(unnameable_types, reason = "what nobody can name, nobody implements")]
    pub trait Sealed {}
    impl Sealed for super::Binding {}
    impl Sealed for super::StatementBinding {}
}

//! The table of SHA-256 hashes that the hypervisor hands to the firmware, so that the measurement
//! covers kernel, initramfs and command line.

use super::{PAGE, firmware::guid};
use crate::pcr::sha256;
use alloc::vec::Vec;

/// GUIDs of QEMU's `target/i386/sev.c` (`add_kernel_loader_hashes`).
const TABLE: [u8; 16] = guid(0x9438_d606, 0x4f22, 0x4cc9, 0xb479_a793_d411_fd21);
const CMDLINE: [u8; 16] = guid(0x97d0_2dd8, 0xbd20, 0x4c94, 0xaa78_e771_4d36_ab2a);
const INITRD: [u8; 16] = guid(0x44ba_f731, 0x3a2f, 0x4bd7, 0x9af1_41e2_9169_781d);
const KERNEL: [u8; 16] = guid(0x4de7_9437, 0xabd2, 0x427f, 0xb835_d5b1_72d2_045b);

/// GUID, length and hash.
const ENTRY_LEN: u16 = 16 + 2 + 32;
/// GUID, length and three entries.
const TABLE_LEN: u16 = 16 + 2 + 3 * ENTRY_LEN;
/// With the padding to 16 bytes that QEMU adds.
pub(super) const PADDED_LEN: usize = 176;

/// SHA-256 of what the guest is started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelHashes {
    cmdline: [u8; 32],
    initrd: [u8; 32],
    kernel: [u8; 32],
}

impl KernelHashes {
    /// Hashes the three. No initramfs and an empty one are the same, as are no command line and an
    /// empty one: this is how QEMU treats them.
    #[must_use]
    pub fn of(kernel: &[u8], initrd: &[u8], cmdline: &str) -> Self {
        // The hypervisor hands over, and hashes, a C string.
        let with_zero = [cmdline.as_bytes(), &[0]].concat();
        Self {
            cmdline: sha256(&with_zero),
            initrd: sha256(initrd),
            kernel: sha256(kernel),
        }
    }

    /// The page that carries the table at `offset`; zero everywhere else.
    pub(super) fn page(&self, offset: usize) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        for (to, from) in page.iter_mut().skip(offset).zip(self.table()) {
            *to = from;
        }
        page
    }

    fn table(&self) -> Vec<u8> {
        let mut table = Vec::with_capacity(PADDED_LEN);
        table.extend_from_slice(&TABLE);
        table.extend_from_slice(&TABLE_LEN.to_le_bytes());
        for (guid, hash) in [
            (CMDLINE, &self.cmdline),
            (INITRD, &self.initrd),
            (KERNEL, &self.kernel),
        ] {
            table.extend_from_slice(&guid);
            table.extend_from_slice(&ENTRY_LEN.to_le_bytes());
            table.extend_from_slice(hash);
        }
        table
    }
}

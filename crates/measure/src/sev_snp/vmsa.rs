//! The initial registers of a virtual CPU, as the page that the launch measures.
//!
//! Offsets are those of APM table B-4 ("VMSA Layout, State Save Area for SEV-ES"); values are those
//! of a processor after reset (APM table 14-1), with the differences between hypervisors.

use super::{PAGE, VcpuSignature};

/// More virtual CPUs than any machine type has (QEMU's q35: 4096).
pub const MAX_VCPUS: u32 = 4096;

/// Where the first virtual CPU starts: the reset vector, 16 bytes below 4 GiB.
pub(super) const BOOT_EIP: u32 = 0xffff_fff0;

/// A hypervisor, for the initial registers and the order of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vmm {
    /// The hypervisor of Amazon EC2, with the firmware that it uses.
    Ec2,
    /// QEMU with KVM.
    Qemu,
}

/// What the hypervisors set differently.
struct Quirks {
    cs_attributes: u16,
    ss_attributes: u16,
    tr_attributes: u16,
    rdx: u64,
    mxcsr: u32,
    x87_fcw: u16,
}

impl Vmm {
    fn quirks(self, eip: u32, signature: VcpuSignature) -> Quirks {
        match self {
            Self::Qemu => Quirks {
                cs_attributes: 0x9b,
                ss_attributes: 0x93,
                tr_attributes: 0x8b,
                rdx: signature.value().into(),
                mxcsr: 0x1f80,
                x87_fcw: 0x37f,
            },
            // Segments not yet accessed, a 16-bit TSS that is busy, no processor signature.
            Self::Ec2 => Quirks {
                cs_attributes: if eip == BOOT_EIP { 0x9a } else { 0x9b },
                ss_attributes: 0x92,
                tr_attributes: 0x83,
                rdx: 0,
                mxcsr: 0,
                x87_fcw: 0,
            },
        }
    }
}

/// The page of a virtual CPU that starts at `eip`.
pub(super) fn page(vmm: Vmm, eip: u32, features: u64, signature: VcpuSignature) -> [u8; PAGE] {
    let quirks = vmm.quirks(eip, signature);
    let mut page = Page([0; PAGE]);
    page.segment(0x00, 0, 0x93, 0); // ES
    page.segment(0x10, 0xf000, quirks.cs_attributes, eip & 0xffff_0000); // CS
    page.segment(0x20, 0, quirks.ss_attributes, 0); // SS
    page.segment(0x30, 0, 0x93, 0); // DS
    page.segment(0x40, 0, 0x93, 0); // FS
    page.segment(0x50, 0, 0x93, 0); // GS
    page.segment(0x60, 0, 0, 0); // GDTR
    page.segment(0x70, 0, 0x82, 0); // LDTR
    page.segment(0x80, 0, 0, 0); // IDTR
    page.segment(0x90, 0, quirks.tr_attributes, 0); // TR
    page.put(0x0d0, &0x1000_u64.to_le_bytes()); // EFER: SVME, as KVM always sets it
    page.put(0x148, &0x40_u64.to_le_bytes()); // CR4: MCE, the same
    page.put(0x158, &0x10_u64.to_le_bytes()); // CR0: ET
    page.put(0x160, &0x400_u64.to_le_bytes()); // DR7
    page.put(0x168, &0xffff_0ff0_u64.to_le_bytes()); // DR6
    page.put(0x170, &0x2_u64.to_le_bytes()); // RFLAGS
    page.put(0x178, &u64::from(eip & 0xffff).to_le_bytes()); // RIP
    page.put(0x268, &0x0007_0406_0007_0406_u64.to_le_bytes()); // G_PAT
    page.put(0x310, &quirks.rdx.to_le_bytes()); // RDX
    page.put(0x3b0, &features.to_le_bytes()); // SEV_FEATURES
    page.put(0x3e8, &1_u64.to_le_bytes()); // XCR0: x87
    page.put(0x408, &quirks.mxcsr.to_le_bytes()); // MXCSR
    page.put(0x410, &quirks.x87_fcw.to_le_bytes()); // X87_FCW
    page.0
}

struct Page([u8; PAGE]);

impl Page {
    fn put(&mut self, offset: usize, bytes: &[u8]) {
        for (to, from) in self.0.iter_mut().skip(offset).zip(bytes) {
            *to = *from;
        }
    }

    /// Selector, attributes, limit and base of a segment register; after reset every limit is 64 KiB.
    fn segment(&mut self, offset: usize, selector: u16, attributes: u16, base: u32) {
        let low = u64::from(selector) | u64::from(attributes) << 16 | 0xffff << 32;
        let segment = u128::from(low) | u128::from(base) << 64;
        self.put(offset, &segment.to_le_bytes());
    }
}

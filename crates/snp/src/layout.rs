//! Where the fields of a report are: SEV Secure Nested Paging Firmware ABI Specification (AMD
//! 56860), revision 1.58, section 7.3, table `ATTESTATION_REPORT`. All integers are little-endian.
//!
//! Public so that whoever makes reports for tests uses the same table.

/// Length of a report, in bytes.
pub const REPORT_LEN: usize = 0x4a0;

/// `VERSION`, 4 bytes.
pub const VERSION: usize = 0x00;
/// `GUEST_SVN`, 4 bytes.
pub const GUEST_SVN: usize = 0x04;
/// `POLICY`, 8 bytes (table of the guest policy).
pub const POLICY: usize = 0x08;
/// `FAMILY_ID`, 16 bytes.
pub const FAMILY_ID: usize = 0x10;
/// `IMAGE_ID`, 16 bytes.
pub const IMAGE_ID: usize = 0x20;
/// `VMPL`, 4 bytes.
pub const VMPL: usize = 0x30;
/// `SIGNATURE_ALGO`, 4 bytes.
pub const SIGNATURE_ALGORITHM: usize = 0x34;
/// `CURRENT_TCB`, 8 bytes (table `TCB_VERSION`).
pub const CURRENT_TCB: usize = 0x38;
/// `PLATFORM_INFO`, 8 bytes (table `PLATFORM_INFO`).
pub const PLATFORM_INFO: usize = 0x40;
/// `AUTHOR_KEY_EN` (bit 0), `MASK_CHIP_KEY` (bit 1), `SIGNING_KEY` (bits 2 to 4), 4 bytes.
pub const KEY_INFO: usize = 0x48;
/// Reserved, must be zero, 4 bytes.
pub const RESERVED_4C: usize = 0x4c;
/// `REPORT_DATA`, 64 bytes.
pub const REPORT_DATA: usize = 0x50;
/// `MEASUREMENT`, 48 bytes.
pub const MEASUREMENT: usize = 0x90;
/// `HOST_DATA`, 32 bytes.
pub const HOST_DATA: usize = 0xc0;
/// `ID_KEY_DIGEST`, 48 bytes.
pub const ID_KEY_DIGEST: usize = 0xe0;
/// `AUTHOR_KEY_DIGEST`, 48 bytes.
pub const AUTHOR_KEY_DIGEST: usize = 0x110;
/// `REPORT_ID`, 32 bytes.
pub const REPORT_ID: usize = 0x140;
/// `REPORT_ID_MA`, 32 bytes.
pub const REPORT_ID_MA: usize = 0x160;
/// `REPORTED_TCB`, 8 bytes.
pub const REPORTED_TCB: usize = 0x180;
/// `CPUID_FAM_ID`, `CPUID_MOD_ID`, `CPUID_STEP`, one byte each, from version 3 on; reserved before.
pub const CPUID: usize = 0x188;
/// Reserved up to [`CHIP_ID`], from version 3 on.
pub const RESERVED_18B: usize = 0x18b;
/// `CHIP_ID`, 64 bytes; Turin uses the first 8.
pub const CHIP_ID: usize = 0x1a0;
/// `COMMITTED_TCB`, 8 bytes.
pub const COMMITTED_TCB: usize = 0x1e0;
/// `CURRENT_BUILD`, `CURRENT_MINOR`, `CURRENT_MAJOR`, one byte each.
pub const CURRENT_VERSION: usize = 0x1e8;
/// Reserved, one byte.
pub const RESERVED_1EB: usize = 0x1eb;
/// `COMMITTED_BUILD`, `COMMITTED_MINOR`, `COMMITTED_MAJOR`, one byte each.
pub const COMMITTED_VERSION: usize = 0x1ec;
/// Reserved, one byte.
pub const RESERVED_1EF: usize = 0x1ef;
/// `LAUNCH_TCB`, 8 bytes.
pub const LAUNCH_TCB: usize = 0x1f0;
/// `LAUNCH_MIT_VECTOR`, 8 bytes, from version 5 on; reserved before.
pub const LAUNCH_MIT_VECTOR: usize = 0x1f8;
/// `CURRENT_MIT_VECTOR`, 8 bytes, from version 5 on; reserved before.
pub const CURRENT_MIT_VECTOR: usize = 0x200;
/// Reserved up to [`SIGNATURE`], from version 5 on.
pub const RESERVED_208: usize = 0x208;
/// `SIGNATURE`, 512 bytes, over everything before it.
pub const SIGNATURE: usize = 0x2a0;

/// Bit 16 of `POLICY`: the guest may run with simultaneous multithreading.
pub const POLICY_SMT: u64 = 1 << 16;
/// Bit 17 of `POLICY`: reserved, must be one.
pub const POLICY_RESERVED_ONE: u64 = 1 << 17;
/// Bit 18 of `POLICY`: a migration agent may be associated with the guest.
pub const POLICY_MIGRATE_MA: u64 = 1 << 18;
/// Bit 19 of `POLICY`: the host may debug the guest.
pub const POLICY_DEBUG: u64 = 1 << 19;
/// Bit 20 of `POLICY`: the guest runs on one socket only.
pub const POLICY_SINGLE_SOCKET: u64 = 1 << 20;
/// Bit 21 of `POLICY`: CXL devices may be attached.
pub const POLICY_CXL_ALLOW: u64 = 1 << 21;
/// Bit 22 of `POLICY`: memory must be encrypted by AES-256-XTS.
pub const POLICY_MEM_AES_256_XTS: u64 = 1 << 22;
/// Bit 23 of `POLICY`: running average power limit must be disabled.
pub const POLICY_RAPL_DIS: u64 = 1 << 23;
/// Bit 24 of `POLICY`: ciphertext of memory must be hidden.
pub const POLICY_CIPHERTEXT_HIDING: u64 = 1 << 24;
/// Bit 25 of `POLICY`: guest pages may not be swapped.
pub const POLICY_PAGE_SWAP_DISABLE: u64 = 1 << 25;
/// Bits 26 to 63 of `POLICY`: must be zero.
pub const POLICY_RESERVED_ZERO: u64 = !((1 << 26) - 1);

/// Bit 0 of `PLATFORM_INFO`: simultaneous multithreading is enabled.
pub const PLATFORM_SMT_EN: u64 = 1;
/// Bit 1 of `PLATFORM_INFO`: transparent memory encryption is enabled.
pub const PLATFORM_TSME_EN: u64 = 1 << 1;
/// Bit 2 of `PLATFORM_INFO`: memory has error correction.
pub const PLATFORM_ECC_EN: u64 = 1 << 2;
/// Bit 3 of `PLATFORM_INFO`: running average power limit is disabled.
pub const PLATFORM_RAPL_DIS: u64 = 1 << 3;
/// Bit 4 of `PLATFORM_INFO`: ciphertext of memory is hidden.
pub const PLATFORM_CIPHERTEXT_HIDING: u64 = 1 << 4;
/// Bit 5 of `PLATFORM_INFO`: no memory aliases were found since the last reset
/// (AMD-SB-3015, "BadRAM").
pub const PLATFORM_ALIAS_CHECK_COMPLETE: u64 = 1 << 5;
/// Bit 7 of `PLATFORM_INFO`: trusted I/O is enabled.
pub const PLATFORM_TIO_EN: u64 = 1 << 7;
/// The bits of `PLATFORM_INFO` that are reserved: 6 and 8 to 63.
pub const PLATFORM_RESERVED: u64 = !0xbf;

/// Bit 0 of [`KEY_INFO`]: the guest was launched with an author key.
pub const KEY_INFO_AUTHOR_KEY_EN: u32 = 1;
/// Bit 1 of [`KEY_INFO`]: the chip's key is not used.
pub const KEY_INFO_MASK_CHIP_KEY: u32 = 1 << 1;
/// Where `SIGNING_KEY` starts in [`KEY_INFO`].
pub const KEY_INFO_SIGNING_KEY_SHIFT: u32 = 2;
/// Bits 5 to 31 of [`KEY_INFO`]: must be zero.
pub const KEY_INFO_RESERVED: u32 = !0x1f;

/// `SIGNING_KEY`: the chip's key.
pub const SIGNING_KEY_VCEK: u32 = 0;
/// `SIGNING_KEY`: the key loaded by the provider.
pub const SIGNING_KEY_VLEK: u32 = 1;
/// `SIGNING_KEY`: the report is not signed.
pub const SIGNING_KEY_NONE: u32 = 7;
/// `SIGNATURE_ALGO`: ECDSA over P-384 with SHA-384 (table of signature algorithms).
pub const ALGORITHM_ECDSA_P384_SHA384: u32 = 1;

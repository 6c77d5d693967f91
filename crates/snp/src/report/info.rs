//! Fields of single bits.

use super::ReportError;
use crate::layout;
use core::fmt;

/// `GUEST_POLICY`: what the guest's owner demanded at launch (AMD 56860, table of the guest policy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestPolicy(u64);

impl GuestPolicy {
    pub(super) fn parse(bits: u64) -> Result<Self, ReportError> {
        let ones = bits & layout::POLICY_RESERVED_ONE;
        let zeros = bits & layout::POLICY_RESERVED_ZERO;
        if ones == 0 || zeros != 0 {
            return Err(ReportError::Policy(bits));
        }
        Ok(Self(bits))
    }

    /// All bits.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Lowest version of the firmware's interface that the guest accepts: major, minor.
    #[must_use]
    pub fn abi(self) -> (u8, u8) {
        let [minor, major, ..] = self.0.to_le_bytes();
        (major, minor)
    }

    /// Whether the guest may run with simultaneous multithreading.
    #[must_use]
    pub fn allows_smt(self) -> bool {
        self.has(layout::POLICY_SMT)
    }

    /// Whether a migration agent may take part.
    #[must_use]
    pub fn allows_migration_agent(self) -> bool {
        self.has(layout::POLICY_MIGRATE_MA)
    }

    /// Whether the host may debug the guest, which is to read all of it.
    #[must_use]
    pub fn allows_debug(self) -> bool {
        self.has(layout::POLICY_DEBUG)
    }

    /// Whether the guest must stay on one socket.
    #[must_use]
    pub fn requires_single_socket(self) -> bool {
        self.has(layout::POLICY_SINGLE_SOCKET)
    }

    /// Whether CXL devices may be attached.
    #[must_use]
    pub fn allows_cxl(self) -> bool {
        self.has(layout::POLICY_CXL_ALLOW)
    }

    /// Whether memory must be encrypted by AES-256-XTS.
    #[must_use]
    pub fn requires_aes_256_xts(self) -> bool {
        self.has(layout::POLICY_MEM_AES_256_XTS)
    }

    /// Whether running average power limit must be disabled.
    #[must_use]
    pub fn requires_rapl_disabled(self) -> bool {
        self.has(layout::POLICY_RAPL_DIS)
    }

    /// Whether ciphertext of memory must be hidden from the host.
    #[must_use]
    pub fn requires_ciphertext_hiding(self) -> bool {
        self.has(layout::POLICY_CIPHERTEXT_HIDING)
    }

    /// Whether the host may not swap guest pages.
    #[must_use]
    pub fn disables_page_swap(self) -> bool {
        self.has(layout::POLICY_PAGE_SWAP_DISABLE)
    }

    fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }
}

/// `PLATFORM_INFO`: how the machine is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlatformInfo(u64);

impl PlatformInfo {
    /// A bit unknown here refuses: later firmware may mean a weakness by it.
    pub(super) fn parse(bits: u64) -> Result<Self, ReportError> {
        if bits & layout::PLATFORM_RESERVED != 0 {
            return Err(ReportError::PlatformInfo(bits));
        }
        Ok(Self(bits))
    }

    /// All bits.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Whether simultaneous multithreading is enabled.
    #[must_use]
    pub fn smt_enabled(self) -> bool {
        self.has(layout::PLATFORM_SMT_EN)
    }

    /// Whether transparent memory encryption is enabled.
    #[must_use]
    pub fn tsme_enabled(self) -> bool {
        self.has(layout::PLATFORM_TSME_EN)
    }

    /// Whether memory has error correction.
    #[must_use]
    pub fn ecc_enabled(self) -> bool {
        self.has(layout::PLATFORM_ECC_EN)
    }

    /// Whether running average power limit is disabled.
    #[must_use]
    pub fn rapl_disabled(self) -> bool {
        self.has(layout::PLATFORM_RAPL_DIS)
    }

    /// Whether ciphertext of memory is hidden from the host.
    #[must_use]
    pub fn ciphertext_hiding_enabled(self) -> bool {
        self.has(layout::PLATFORM_CIPHERTEXT_HIDING)
    }

    /// Whether the firmware looked for memory aliases since the last reset and found none.
    #[must_use]
    pub fn alias_check_complete(self) -> bool {
        self.has(layout::PLATFORM_ALIAS_CHECK_COMPLETE)
    }

    /// Whether trusted I/O is enabled.
    #[must_use]
    pub fn tio_enabled(self) -> bool {
        self.has(layout::PLATFORM_TIO_EN)
    }

    fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }
}

/// What a report says of the keys behind it.
#[derive(Clone, Copy)]
pub(super) struct KeyInfo {
    pub(super) author_key_enabled: bool,
    pub(super) mask_chip_key: bool,
    pub(super) signing_key: Option<KeyKind>,
}

impl KeyInfo {
    pub(super) fn parse(bits: u32) -> Result<Self, ReportError> {
        if bits & layout::KEY_INFO_RESERVED != 0 {
            return Err(ReportError::Reserved(layout::KEY_INFO));
        }
        Ok(Self {
            author_key_enabled: bits & layout::KEY_INFO_AUTHOR_KEY_EN != 0,
            mask_chip_key: bits & layout::KEY_INFO_MASK_CHIP_KEY != 0,
            signing_key: KeyKind::parse(bits >> layout::KEY_INFO_SIGNING_KEY_SHIFT)?,
        })
    }
}

/// Which kind of key signs a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    /// Versioned chip endorsement key: the chip's own.
    Vcek,
    /// Versioned loaded endorsement key: the provider's, loaded into the chip.
    Vlek,
}

impl KeyKind {
    /// `None` for a report that is not signed.
    fn parse(kind: u32) -> Result<Option<Self>, ReportError> {
        match kind {
            layout::SIGNING_KEY_VCEK => Ok(Some(Self::Vcek)),
            layout::SIGNING_KEY_VLEK => Ok(Some(Self::Vlek)),
            layout::SIGNING_KEY_NONE => Ok(None),
            other => Err(ReportError::SigningKey(other)),
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vcek => "VCEK",
            Self::Vlek => "VLEK",
        })
    }
}

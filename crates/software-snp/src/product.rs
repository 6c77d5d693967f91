//! Product lines, and what differs between them.

use serde::{Deserialize, Serialize};

/// A line of processors with roots of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Product {
    /// The third generation.
    Milan,
    /// The fourth generation; Siena and Bergamo chips are of this line too.
    Genoa,
    /// The fifth generation.
    Turin,
}

impl Product {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];

    /// The name in AMD's certificates.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// Family, model and stepping of one of its processors, as reports from version 3 on have them.
    #[must_use]
    pub const fn cpuid(self) -> [u8; 3] {
        match self {
            Self::Milan => [0x19, 0x01, 0x01],
            Self::Genoa => [0x19, 0x11, 0x01],
            Self::Turin => [0x1a, 0x02, 0x01],
        }
    }

    /// How much of a report's chip id a VCEK names: Turin's hardware id has 8 bytes.
    #[must_use]
    pub const fn hardware_id_len(self) -> usize {
        match self {
            Self::Milan | Self::Genoa => 64,
            Self::Turin => 8,
        }
    }

    /// The high byte of AMD's serial numbers.
    pub(crate) const fn serial(self) -> u64 {
        match self {
            Self::Milan => 0x01_0000,
            Self::Genoa => 0x02_0000,
            Self::Turin => 0x03_0000,
        }
    }
}

/// Security version numbers of the firmware's components.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tcb {
    /// The firmware of Turin's FMC; the other lines have none.
    pub fmc: u8,
    /// The boot loader.
    pub bootloader: u8,
    /// The operating system of the secure processor.
    pub tee: u8,
    /// The SNP firmware.
    pub snp: u8,
    /// The microcode.
    pub microcode: u8,
}

impl Tcb {
    /// The form in a report (SEV-SNP firmware ABI, `TCB_VERSION`): Turin has another order.
    #[must_use]
    pub const fn encode(self, product: Product) -> [u8; 8] {
        match product {
            Product::Milan | Product::Genoa => [
                self.bootloader,
                self.tee,
                0,
                0,
                0,
                0,
                self.snp,
                self.microcode,
            ],
            Product::Turin => [
                self.fmc,
                self.bootloader,
                self.tee,
                self.snp,
                0,
                0,
                0,
                self.microcode,
            ],
        }
    }
}

impl From<Product> for snp::Product {
    fn from(product: Product) -> Self {
        match product {
            Product::Milan => Self::Milan,
            Product::Genoa => Self::Genoa,
            Product::Turin => Self::Turin,
        }
    }
}

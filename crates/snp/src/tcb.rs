//! The versions of the trusted firmware: one byte a component, laid out by product line.

use crate::Product;
use core::fmt;

/// A component of the TCB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// Firmware management controller; Turin only.
    Fmc,
    /// Boot loader of the secure processor.
    BootLoader,
    /// Operating system of the secure processor.
    Tee,
    /// SNP firmware.
    Snp,
    /// Microcode of the cores.
    Microcode,
}

impl Component {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Fmc,
        Self::BootLoader,
        Self::Tee,
        Self::Snp,
        Self::Microcode,
    ];

    /// Its name, as policies write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fmc => "fmc",
            Self::BootLoader => "bootloader",
            Self::Tee => "tee",
            Self::Snp => "snp",
            Self::Microcode => "microcode",
        }
    }

    /// Its parameter in a request to AMD's key distribution service (AMD 57230, "VCEK request").
    #[must_use]
    pub fn kds_parameter(self) -> &'static str {
        match self {
            Self::Fmc => "fmcSPL",
            Self::BootLoader => "blSPL",
            Self::Tee => "teeSPL",
            Self::Snp => "snpSPL",
            Self::Microcode => "ucodeSPL",
        }
    }

    /// Its place in a `TCB_VERSION` of `product`, `None` if it has none (AMD 56860, table
    /// `TCB_VERSION` and, for Turin, its variant for family 1Ah).
    #[must_use]
    pub fn offset(self, product: Product) -> Option<usize> {
        match (product, self) {
            (Product::Milan | Product::Genoa, Self::Fmc) => None,
            (Product::Milan | Product::Genoa, Self::BootLoader) => Some(0),
            (Product::Milan | Product::Genoa, Self::Tee) => Some(1),
            (Product::Milan | Product::Genoa, Self::Snp) => Some(6),
            (Product::Turin, Self::Fmc) => Some(0),
            (Product::Turin, Self::BootLoader) => Some(1),
            (Product::Turin, Self::Tee) => Some(2),
            (Product::Turin, Self::Snp) => Some(3),
            (_, Self::Microcode) => Some(7),
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The versions of all components. Whether one TCB is at least another is a question for each
/// component, so there is no order here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tcb {
    /// Of the firmware management controller; exactly Turin has one.
    pub fmc: Option<u8>,
    /// Of the boot loader.
    pub bootloader: u8,
    /// Of the secure processor's operating system.
    pub tee: u8,
    /// Of the SNP firmware.
    pub snp: u8,
    /// Of the microcode.
    pub microcode: u8,
}

impl Tcb {
    /// The version of a component; `None` only for an FMC that is not there.
    #[must_use]
    pub fn get(&self, component: Component) -> Option<u8> {
        match component {
            Component::Fmc => self.fmc,
            Component::BootLoader => Some(self.bootloader),
            Component::Tee => Some(self.tee),
            Component::Snp => Some(self.snp),
            Component::Microcode => Some(self.microcode),
        }
    }

    /// The components that are there, with their versions.
    pub fn components(&self) -> impl Iterator<Item = (Component, u8)> + '_ {
        Component::ALL
            .into_iter()
            .filter_map(|component| Some((component, self.get(component)?)))
    }

    /// The `TCB_VERSION` of these versions on `product`.
    #[must_use]
    pub fn encode(&self, product: Product) -> RawTcb {
        let mut raw = [0; 8];
        for (component, version) in self.components() {
            let byte = component.offset(product).and_then(|at| raw.get_mut(at));
            if let Some(byte) = byte {
                *byte = version;
            }
        }
        RawTcb(raw)
    }
}

impl fmt::Display for Tcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (component, version)) in self.components().enumerate() {
            let space = if i == 0 { "" } else { " " };
            write!(f, "{space}{component}={version}")?;
        }
        Ok(())
    }
}

/// A `TCB_VERSION` as it is in a report: what its bytes mean depends on the product line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RawTcb(pub [u8; 8]);

/// A `TCB_VERSION` has a byte set that is reserved on its product line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset} of a TCB version is reserved on {product}")]
pub struct ReservedTcb {
    /// The product line whose layout was used.
    pub product: Product,
    /// The first such byte.
    pub offset: usize,
}

impl RawTcb {
    /// The versions, by the layout of `product`.
    ///
    /// # Errors
    /// A reserved byte is not zero.
    pub fn decode(self, product: Product) -> Result<Tcb, ReservedTcb> {
        let at = |component: Component| {
            let offset = component.offset(product)?;
            self.0.get(offset).copied()
        };
        let required = |component| at(component).unwrap_or_default();
        let tcb = Tcb {
            fmc: at(Component::Fmc),
            bootloader: required(Component::BootLoader),
            tee: required(Component::Tee),
            snp: required(Component::Snp),
            microcode: required(Component::Microcode),
        };
        let again = tcb.encode(product).0;
        match self.0.iter().zip(again).position(|(a, b)| *a != b) {
            Some(offset) => Err(ReservedTcb { product, offset }),
            None => Ok(tcb),
        }
    }
}

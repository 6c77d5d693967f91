//! Which certificate is meant.

use snp::{ChipId, KeyKind, Leaf, Product, Report, Tcb};
use std::fmt;

/// The certificate of one signing key: which kind, of which product line and TCB, and for a VCEK of
/// which chip. Reports do not name the provider of a VLEK, so one VLEK is kept for each TCB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndorsementId {
    product: Product,
    chip_id: Option<ChipId>,
    tcb: Tcb,
}

impl EndorsementId {
    /// The certificate that a report of `product` needs. `None` if there cannot be one: the report is
    /// not signed, masks its chip although the chip's own key signed it, or does not fit `product`.
    #[must_use]
    pub fn of_report(report: &Report<'_>, product: Product) -> Option<Self> {
        if report.product.is_some_and(|named| named != product) {
            return None;
        }
        let chip_id = match report.signing_key? {
            KeyKind::Vcek if report.chip_id.is_masked() => return None,
            KeyKind::Vcek => Some(report.chip_id),
            KeyKind::Vlek => None,
        };
        let id = Self {
            product,
            chip_id,
            tcb: report.reported_tcb.decode(product).ok()?,
        };
        id.is_canonical().then_some(id)
    }

    /// Some id, for tests of what does not look into it.
    #[cfg(test)]
    pub(crate) const fn vlek(product: Product) -> Self {
        let tcb = Tcb {
            fmc: None,
            bootloader: 0,
            tee: 0,
            snp: 0,
            microcode: 0,
        };
        Self {
            product,
            chip_id: None,
            tcb,
        }
    }

    /// What a certificate says it is.
    #[must_use]
    pub fn of_leaf(leaf: &Leaf) -> Self {
        Self {
            product: leaf.product(),
            chip_id: leaf.chip_id(),
            tcb: leaf.tcb(),
        }
    }

    /// The kind of key.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        match self.chip_id {
            Some(_) => KeyKind::Vcek,
            None => KeyKind::Vlek,
        }
    }

    /// The product line.
    #[must_use]
    pub fn product(&self) -> Product {
        self.product
    }

    /// The chip of a VCEK.
    #[must_use]
    pub fn chip_id(&self) -> Option<&ChipId> {
        self.chip_id.as_ref()
    }

    /// The TCB that the key was derived from.
    #[must_use]
    pub fn tcb(&self) -> &Tcb {
        &self.tcb
    }

    /// Bytes of a chip id beyond the product line's hardware id would make two names for one
    /// certificate; a report of version 2 is not checked for them.
    fn is_canonical(&self) -> bool {
        self.chip_id.is_none_or(|chip| {
            let hardware_id = chip.hardware_id(self.product);
            ChipId::from_hardware_id(self.product, hardware_id) == Some(chip)
        })
    }

    /// Lower-case hex digits of the hardware id; empty for a VLEK.
    pub(crate) fn hardware_id(&self) -> String {
        let id = self.chip_id.as_ref();
        hex::encode(id.map_or(&[][..], |chip| chip.hardware_id(self.product)))
    }

    /// Name of its file in a store: one for each id, of letters, digits, `-` and `.` only.
    pub(crate) fn file_name(&self) -> String {
        let tcb = hex::encode(self.tcb.encode(self.product).0);
        match self.kind() {
            KeyKind::Vcek => format!("vcek-{}-{}-{tcb}.der", self.product, self.hardware_id()),
            KeyKind::Vlek => format!("vlek-{}-{tcb}.der", self.product),
        }
    }
}

/// As an operator reads it in a log: the chip by the start of its id.
impl fmt::Display for EndorsementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (product, kind, tcb) = (self.product, self.kind(), &self.tcb);
        write!(f, "{product} {kind}")?;
        if let Some(start) = self.hardware_id().get(..16) {
            write!(f, " of chip {start}")?;
        }
        write!(f, " at {tcb}")
    }
}

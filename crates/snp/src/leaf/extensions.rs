//! AMD's extensions (AMD 57230, "Certificate extensions": arc 1.3.6.1.4.1.3704.1).

use super::LeafError;
use crate::{ChipId, KeyKind, Product, Tcb};
use alloc::{borrow::ToOwned, string::String};
use x509::x509_cert::{
    der::{Decode, asn1::Ia5StringRef, oid::ObjectIdentifier},
    ext::Extension,
};

/// An extension: AMD's name and its identifier.
struct Id(&'static str, ObjectIdentifier);

const fn id(name: &'static str, oid: &'static str) -> Id {
    Id(name, ObjectIdentifier::new_unwrap(oid))
}

const STRUCT_VERSION: Id = id("structVersion", "1.3.6.1.4.1.3704.1.1");
const PRODUCT_NAME: Id = id("productName1", "1.3.6.1.4.1.3704.1.2");
const BL_SPL: Id = id("blSPL", "1.3.6.1.4.1.3704.1.3.1");
const TEE_SPL: Id = id("teeSPL", "1.3.6.1.4.1.3704.1.3.2");
const SNP_SPL: Id = id("snpSPL", "1.3.6.1.4.1.3704.1.3.3");
const SPL_4: Id = id("spl_4", "1.3.6.1.4.1.3704.1.3.4");
const SPL_5: Id = id("spl_5", "1.3.6.1.4.1.3704.1.3.5");
const SPL_6: Id = id("spl_6", "1.3.6.1.4.1.3704.1.3.6");
const SPL_7: Id = id("spl_7", "1.3.6.1.4.1.3704.1.3.7");
const UCODE_SPL: Id = id("ucodeSPL", "1.3.6.1.4.1.3704.1.3.8");
const FMC_SPL: Id = id("fmcSPL", "1.3.6.1.4.1.3704.1.3.9");
const HW_ID: Id = id("hwID", "1.3.6.1.4.1.3704.1.4");
const CSP_ID: Id = id("cspID", "1.3.6.1.4.1.3704.1.5");

/// The newest `structVersion` known: 0 on Milan and Genoa, 1 on Turin.
const MAX_STRUCT_VERSION: u8 = 1;

/// What is wrong with an extension. None occurs twice: that is malformed before it comes here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExtensionFault {
    /// Its value is not encoded as it must be.
    #[error("wrong encoding")]
    Encoding,
    /// It has another length.
    #[error("{got} bytes instead of {expected}")]
    Length {
        /// Of the product line.
        expected: usize,
        /// Of the extension.
        got: usize,
    },
    /// It is not there.
    #[error("missing")]
    Missing,
    /// A component of the TCB that is not in use has a version.
    #[error("reserved, but {0}")]
    Reserved(u8),
    /// A certificate of its kind and product line has no such extension.
    #[error("not expected in this certificate")]
    Unexpected,
    /// Its value is not one that is known.
    #[error("unknown value")]
    Unknown,
}

impl Id {
    fn fault(&self, fault: ExtensionFault) -> LeafError {
        LeafError::Extension {
            name: self.0,
            fault,
        }
    }
}

/// The extensions of a leaf.
pub(super) struct Extensions<'a>(pub(super) &'a [Extension]);

impl<'a> Extensions<'a> {
    /// The product line, by the layout that the certificate says its extensions have.
    pub(super) fn product(&self) -> Result<Product, LeafError> {
        if self.integer(&STRUCT_VERSION)? > MAX_STRUCT_VERSION {
            return Err(STRUCT_VERSION.fault(ExtensionFault::Unknown));
        }
        Product::from_certificate_name(self.text(&PRODUCT_NAME)?)
            .ok_or_else(|| PRODUCT_NAME.fault(ExtensionFault::Unknown))
    }

    /// The TCB: each component of the product line, and zero for what is reserved on it.
    pub(super) fn tcb(&self, product: Product) -> Result<Tcb, LeafError> {
        for reserved in [&SPL_5, &SPL_6, &SPL_7] {
            self.reserved(reserved)?;
        }
        let fmc = match product {
            Product::Milan | Product::Genoa => {
                self.reserved(&SPL_4)?;
                self.absent(&FMC_SPL)?;
                None
            }
            Product::Turin => {
                self.absent(&SPL_4)?;
                Some(self.integer(&FMC_SPL)?)
            }
        };
        Ok(Tcb {
            fmc,
            bootloader: self.integer(&BL_SPL)?,
            tee: self.integer(&TEE_SPL)?,
            snp: self.integer(&SNP_SPL)?,
            microcode: self.integer(&UCODE_SPL)?,
        })
    }

    /// The chip of a VCEK: the hardware id is the value itself, not a DER octet string in it.
    pub(super) fn chip_id(
        &self,
        kind: KeyKind,
        product: Product,
    ) -> Result<Option<ChipId>, LeafError> {
        if kind == KeyKind::Vlek {
            self.absent(&HW_ID)?;
            return Ok(None);
        }
        let value = self.value(&HW_ID)?;
        let length = ExtensionFault::Length {
            expected: product.hardware_id_len(),
            got: value.len(),
        };
        let chip = ChipId::from_hardware_id(product, value).ok_or_else(|| HW_ID.fault(length))?;
        if chip.is_masked() {
            return Err(HW_ID.fault(ExtensionFault::Unknown));
        }
        Ok(Some(chip))
    }

    /// The provider of a VLEK.
    pub(super) fn csp_id(&self, kind: KeyKind) -> Result<Option<String>, LeafError> {
        if kind == KeyKind::Vcek {
            self.absent(&CSP_ID)?;
            return Ok(None);
        }
        Ok(Some(self.text(&CSP_ID)?.to_owned()))
    }

    fn reserved(&self, id: &Id) -> Result<(), LeafError> {
        match self.integer(id)? {
            0 => Ok(()),
            version => Err(id.fault(ExtensionFault::Reserved(version))),
        }
    }

    fn absent(&self, id: &Id) -> Result<(), LeafError> {
        match self.find(id) {
            Some(_) => Err(id.fault(ExtensionFault::Unexpected)),
            None => Ok(()),
        }
    }

    /// A DER `INTEGER` from 0 to 255: three bytes long, four from 128 on.
    fn integer(&self, id: &Id) -> Result<u8, LeafError> {
        let value = u8::from_der(self.value(id)?);
        value.map_err(|_| id.fault(ExtensionFault::Encoding))
    }

    fn text(&self, id: &Id) -> Result<&'a str, LeafError> {
        let text = Ia5StringRef::from_der(self.value(id)?);
        let text = text.map_err(|_| id.fault(ExtensionFault::Encoding))?;
        Ok(text.as_str())
    }

    fn value(&self, id: &Id) -> Result<&'a [u8], LeafError> {
        self.find(id)
            .ok_or_else(|| id.fault(ExtensionFault::Missing))
    }

    fn find(&self, id: &Id) -> Option<&'a [u8]> {
        let mut extensions = self.0.iter();
        let found = extensions.find(|extension| extension.extn_id == id.1)?;
        Some(found.extn_value.as_bytes())
    }
}

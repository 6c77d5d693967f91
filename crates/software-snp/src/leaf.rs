//! VCEKs and VLEKs: keys that sign reports, and their certificates.

use crate::{
    Product, Tcb,
    certificate::{Content, Extension, ask_name, asvk_name},
    der,
    keys::{AuthorityKey, ReportKey},
};
use serde::{Deserialize, Serialize};
use snp::layout::{REPORT_LEN, SIGNATURE};
use std::{io, ops::Range};

/// AMD's arc (VCEK certificate and KDS interface specification, table 8).
const AMD: [u64; 8] = [1, 3, 6, 1, 4, 1, 3704, 1];

/// From 2024-01-01 to 2044-01-01: longer than AMD's, so that tests do not end.
const VALIDITY: Range<u64> = 1_704_067_200..2_335_219_200;

/// A half of a signature in a report (SEV-SNP firmware ABI, `SIGNATURE` of ECDSA P-384).
const HALF: usize = 72;

/// Which key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeafKind {
    /// A chip's own, below the ASK.
    Vcek,
    /// A cloud's, below the ASVK.
    Vlek,
}

/// What a leaf certificate says; every part may be changed before it is issued.
#[derive(Clone, Debug)]
pub struct LeafFields {
    /// Whose authority signs it.
    pub product: Product,
    /// Which of the line's two authorities signs it.
    pub kind: LeafKind,
    /// The common name of the subject.
    pub subject: String,
    /// The serial number; AMD's is always 0.
    pub serial: u64,
    /// From when till when it is valid, in seconds since 1970.
    pub validity: Range<u64>,
    /// AMD's extensions in AMD's order.
    pub extensions: Vec<Extension>,
}

impl LeafFields {
    /// A chip's certificate; of the chip id only as much is in it as the line's have.
    #[must_use]
    pub fn vcek(product: Product, chip_id: &[u8; 64], tcb: Tcb) -> Self {
        let hardware_id = chip_id.iter().take(product.hardware_id_len());
        let name = match product {
            Product::Milan => "Milan-B0",
            Product::Genoa | Product::Turin => product.name(),
        };
        let mut extensions = extensions(product, name, tcb);
        extensions.push(extension(&[4], hardware_id.copied().collect()));
        Self {
            product,
            kind: LeafKind::Vcek,
            subject: "SEV-VCEK".to_owned(),
            serial: 0,
            validity: VALIDITY,
            extensions,
        }
    }

    /// A cloud's certificate.
    #[must_use]
    pub fn vlek(product: Product, csp: &str, tcb: Tcb) -> Self {
        let mut extensions = extensions(product, product.name(), tcb);
        extensions.push(extension(&[5], der::ia5(csp)));
        Self {
            product,
            kind: LeafKind::Vlek,
            subject: "SEV-VLEK".to_owned(),
            serial: 0,
            validity: VALIDITY,
            extensions,
        }
    }

    /// The extension below AMD's arc, to change it: `[3, 8]` is the microcode's version.
    pub fn extension(&mut self, arcs: &[u64]) -> Option<&mut Extension> {
        let id = [&AMD[..], arcs].concat();
        self.extensions
            .iter_mut()
            .find(|extension| extension.id == id)
    }

    pub(crate) fn signed_by(&self, authority: &AuthorityKey) -> io::Result<Leaf> {
        let key = ReportKey::generate()?;
        let issuer = match self.kind {
            LeafKind::Vcek => ask_name(self.product),
            LeafKind::Vlek => asvk_name(self.product),
        };
        let content = Content {
            serial: self.serial,
            issuer: &issuer,
            subject: &self.subject,
            validity: self.validity.clone(),
            public_key_info: key.public_key_info(),
            extensions: self.extensions.iter().map(Extension::encode).collect(),
        };
        Ok(Leaf {
            kind: self.kind,
            certificate: content.signed_by(authority)?,
            key,
        })
    }
}

/// Structure version, product name and security versions in the order of AMD's own certificates.
fn extensions(product: Product, name: &str, tcb: Tcb) -> Vec<Extension> {
    let version = |arc, value: u8| extension(&[3, arc], der::integer(value.into()));
    let mut extensions = vec![extension(&[2], der::ia5(name))];
    match product {
        Product::Milan | Product::Genoa => {
            extensions.insert(0, extension(&[1], der::integer(0)));
            extensions.extend([version(1, tcb.bootloader), version(2, tcb.tee)]);
            extensions.extend([4, 5, 6, 7].map(|reserved| version(reserved, 0)));
            extensions.push(version(3, tcb.snp));
        }
        Product::Turin => {
            extensions.insert(0, extension(&[1], der::integer(1)));
            extensions.extend([version(9, tcb.fmc), version(1, tcb.bootloader)]);
            extensions.extend([version(2, tcb.tee), version(3, tcb.snp)]);
            extensions.extend([5, 6, 7].map(|reserved| version(reserved, 0)));
        }
    }
    extensions.push(version(8, tcb.microcode));
    extensions
}

fn extension(arcs: &[u64], value: Vec<u8>) -> Extension {
    Extension {
        id: [&AMD[..], arcs].concat(),
        value,
    }
}

/// A key that signs reports, with its certificate. In JSON it is what a test device signs with.
#[derive(Debug, Serialize, Deserialize)]
#[serde(try_from = "StoredLeaf", into = "StoredLeaf")]
pub struct Leaf {
    kind: LeafKind,
    key: ReportKey,
    certificate: Vec<u8>,
}

impl Leaf {
    /// Which key it is.
    #[must_use]
    pub const fn kind(&self) -> LeafKind {
        self.kind
    }

    /// The certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Signs a report as it stands, whatever it says.
    ///
    /// # Errors
    /// If the library fails.
    pub fn sign(&self, report: &mut [u8; REPORT_LEN]) -> io::Result<()> {
        let (signed, rest) = report.split_at_mut(SIGNATURE);
        let (r, s) = self.key.sign(signed)?;
        rest.fill(0);
        for (place, half) in rest.chunks_mut(HALF).zip([r, s]) {
            // The halves are little-endian there.
            for (byte, from) in place.iter_mut().zip(half.iter().rev()) {
                *byte = *from;
            }
        }
        Ok(())
    }
}

impl Clone for Leaf {
    fn clone(&self) -> Self {
        let key = ReportKey::from_pkcs8(self.key.pkcs8().to_vec());
        #[expect(clippy::expect_used, reason = "the same bytes made a key before")]
        Self {
            kind: self.kind,
            key: key.expect("a key"),
            certificate: self.certificate.clone(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredLeaf {
    kind: LeafKind,
    #[serde(with = "hex::serde")]
    key: Vec<u8>,
    #[serde(with = "hex::serde")]
    certificate: Vec<u8>,
}

impl From<Leaf> for StoredLeaf {
    fn from(leaf: Leaf) -> Self {
        Self {
            kind: leaf.kind,
            key: leaf.key.pkcs8().to_vec(),
            certificate: leaf.certificate,
        }
    }
}

impl TryFrom<StoredLeaf> for Leaf {
    type Error = io::Error;

    fn try_from(stored: StoredLeaf) -> io::Result<Self> {
        Ok(Self {
            kind: stored.kind,
            key: ReportKey::from_pkcs8(stored.key)?,
            certificate: stored.certificate,
        })
    }
}

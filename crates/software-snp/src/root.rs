//! The keys of ARK, ASK and ASVK, and their certificates.

use crate::{CrlFields, Leaf, LeafFields, LeafKind, Product, Tcb, certificate, keys::AuthorityKey};
use serde::{Deserialize, Serialize};
use snp::{Authorities, AuthorityCertificates};
use std::{collections::BTreeMap, fs, io, path::Path};

/// The certificates of a product line's authorities, DER.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// The root.
    #[serde(with = "hex::serde")]
    pub ark: Vec<u8>,
    /// What signs VCEKs.
    #[serde(with = "hex::serde")]
    pub ask: Vec<u8>,
    /// What signs VLEKs.
    #[serde(with = "hex::serde")]
    pub asvk: Vec<u8>,
}

/// A root of our own for all product lines. The lines share the three keys.
#[derive(Debug)]
pub struct DevelopmentRoot {
    ark: AuthorityKey,
    ask: AuthorityKey,
    asvk: AuthorityKey,
    chains: BTreeMap<Product, Chain>,
}

impl DevelopmentRoot {
    /// A new root; that takes seconds.
    ///
    /// # Errors
    /// If the library fails.
    pub fn generate() -> io::Result<Self> {
        let mut root = Self {
            ark: AuthorityKey::generate()?,
            ask: AuthorityKey::generate()?,
            asvk: AuthorityKey::generate()?,
            chains: BTreeMap::new(),
        };
        for product in Product::ALL {
            let chain = root.certify(product)?;
            root.chains.insert(product, chain);
        }
        Ok(root)
    }

    /// The root in the file `path`; if there is none, a new one that is kept there. Processes that
    /// come at the same time get the same root.
    ///
    /// # Errors
    /// If the file cannot be written, or holds something else.
    pub fn kept_in(path: &Path) -> io::Result<Self> {
        let lock = fs::File::create(path.with_extension("lock"))?;
        lock.lock()?;
        match fs::read_to_string(path) {
            Ok(text) => Self::from_json(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let root = Self::generate()?;
                let new = path.with_extension("new");
                fs::write(&new, root.to_json()?)?;
                fs::rename(&new, path)?;
                Ok(root)
            }
            Err(error) => Err(error),
        }
    }

    /// Keys and certificates as one document.
    ///
    /// # Errors
    /// Never in practice.
    pub fn to_json(&self) -> io::Result<String> {
        let stored = StoredRoot {
            ark_key: self.ark.pkcs8().to_vec(),
            ask_key: self.ask.pkcs8().to_vec(),
            asvk_key: self.asvk.pkcs8().to_vec(),
            chains: self.chains.clone(),
        };
        Ok(serde_json::to_string(&stored)?)
    }

    /// The root that [`DevelopmentRoot::to_json`] wrote.
    ///
    /// # Errors
    /// If it is something else.
    pub fn from_json(text: &str) -> io::Result<Self> {
        let stored: StoredRoot = serde_json::from_str(text)?;
        Ok(Self {
            ark: AuthorityKey::from_pkcs8(stored.ark_key)?,
            ask: AuthorityKey::from_pkcs8(stored.ask_key)?,
            asvk: AuthorityKey::from_pkcs8(stored.asvk_key)?,
            chains: stored.chains,
        })
    }

    /// The authorities' certificates.
    ///
    /// # Panics
    /// If a stored root lacks the line.
    #[must_use]
    #[expect(clippy::indexing_slicing, reason = "a root is made with all lines")]
    pub fn chain(&self, product: Product) -> &Chain {
        &self.chains[&product]
    }

    /// The same as a verifier takes them, once the owner has declared this root.
    ///
    /// # Errors
    /// If the verifier does not take them.
    pub fn authorities(&self, product: Product) -> io::Result<Authorities> {
        let chain = self.chain(product);
        let certificates = AuthorityCertificates {
            ark: &chain.ark,
            ask: &chain.ask,
            asvk: &chain.asvk,
        };
        Authorities::development(product.into(), &certificates).map_err(io::Error::other)
    }

    /// A chip's key and certificate.
    ///
    /// # Errors
    /// If the library fails.
    pub fn vcek(&self, product: Product, chip_id: &[u8; 64], tcb: Tcb) -> io::Result<Leaf> {
        self.issue(&LeafFields::vcek(product, chip_id, tcb))
    }

    /// A cloud's key and certificate.
    ///
    /// # Errors
    /// If the library fails.
    pub fn vlek(&self, product: Product, csp: &str, tcb: Tcb) -> io::Result<Leaf> {
        self.issue(&LeafFields::vlek(product, csp, tcb))
    }

    /// A new key and a certificate with these fields.
    ///
    /// # Errors
    /// If the library fails.
    pub fn issue(&self, fields: &LeafFields) -> io::Result<Leaf> {
        fields.signed_by(match fields.kind {
            LeafKind::Vcek => &self.ask,
            LeafKind::Vlek => &self.asvk,
        })
    }

    /// A revocation list, DER.
    ///
    /// # Errors
    /// If the library fails.
    pub fn crl(&self, product: Product, fields: &CrlFields) -> io::Result<Vec<u8>> {
        fields.signed_by(product, &self.ark)
    }

    /// Serial numbers of a line's ASK and ASVK, for revocation lists.
    #[must_use]
    pub const fn serials(product: Product) -> (u64, u64) {
        (
            product.serial() + ASK_SERIAL,
            product.serial() + ASVK_SERIAL,
        )
    }

    fn certify(&self, product: Product) -> io::Result<Chain> {
        let ask = (&*certificate::ask_name(product), ASK_SERIAL);
        let asvk = (&*certificate::asvk_name(product), ASVK_SERIAL);
        Ok(Chain {
            ark: certificate::ark(product, &self.ark)?,
            ask: certificate::intermediate(product, ask, &self.ask, &self.ark)?,
            asvk: certificate::intermediate(product, asvk, &self.asvk, &self.ark)?,
        })
    }
}

/// Added to a line's serial number, as AMD's of Milan.
const ASK_SERIAL: u64 = 0x001;
const ASVK_SERIAL: u64 = 0x101;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRoot {
    #[serde(with = "hex::serde")]
    ark_key: Vec<u8>,
    #[serde(with = "hex::serde")]
    ask_key: Vec<u8>,
    #[serde(with = "hex::serde")]
    asvk_key: Vec<u8>,
    chains: BTreeMap<Product, Chain>,
}

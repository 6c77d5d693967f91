//! One file that carries certificates to where no network is (docs/formats.md, "Endorsement bundle").

use crate::{AuthoritySet, EndorsementId, RejectedLeaf, Store, StoreError, store::MAX_LEAF};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use snp::{KeyKind, MAX_REVOCATION_LIST, Product, RevocationError, UnixTime};
use thiserror::Error;

/// The version of the format.
const VERSION: u32 = 1;

/// The largest bundle read, in bytes.
const MAX_LEN: usize = 32 << 20;

/// The most certificates in one.
const MAX_LEAVES: usize = 16 * 1024;

/// The most revocation lists in one.
const MAX_LISTS: usize = 16;

/// Why a bundle is not imported. Nothing of it was kept then, unless the folder failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BundleError {
    /// A field is not base64. Class: malformed.
    #[error("entry {index} is not base64")]
    Base64 {
        /// Position in its list.
        index: usize,
    },
    /// It is not a document of this format. Class: malformed.
    #[error("not an endorsement bundle")]
    Json(#[source] serde_json::Error),
    /// A certificate is not one that may be kept. Class: refused.
    #[error("certificate {index}")]
    Leaf {
        /// Position in its list.
        index: usize,
        /// Why.
        #[source]
        source: RejectedLeaf,
    },
    /// It is too large, or has too many entries. Class: malformed.
    #[error("{field}: {got} is more than {limit}")]
    Limit {
        /// What is too large.
        field: &'static str,
        /// The bound.
        limit: usize,
        /// The value.
        got: usize,
    },
    /// Its version is unknown. Class: malformed.
    #[error("version {0} of the format is not known here")]
    Version(u32),
    /// A product line is unknown. Class: malformed.
    #[error("product line `{0}` is not known here")]
    Product(String),
    /// A revocation list is not one that may be kept. Class: refused.
    #[error("revocation list {index}")]
    RevocationList {
        /// Position in its list.
        index: usize,
        /// Why.
        #[source]
        source: RevocationError,
    },
    /// The folder failed. Class: unavailable.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Certificates and revocation lists as they travel; nobody vouches for them yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    leaves: Vec<(KeyKind, Vec<u8>)>,
    lists: Vec<(Product, Vec<u8>)>,
}

/// What an import kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// The certificates.
    pub leaves: Vec<EndorsementId>,
    /// Product lines of the revocation lists.
    pub lists: Vec<Product>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    certificates: Vec<LeafDocument>,
    revocation_lists: Vec<ListDocument>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeafDocument {
    kind: KindName,
    der: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListDocument {
    product: String,
    der: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindName {
    Vcek,
    Vlek,
}

impl Bundle {
    /// A bundle of single certificates and revocation lists, as files have them.
    #[must_use]
    pub fn new(leaves: Vec<(KeyKind, Vec<u8>)>, lists: Vec<(Product, Vec<u8>)>) -> Self {
        Self { leaves, lists }
    }

    /// How many certificates and revocation lists it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leaves.len().saturating_add(self.lists.len())
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Parses the file.
    ///
    /// # Errors
    /// [`BundleError`] of class malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        limit("bundle", bytes.len(), MAX_LEN)?;
        let document: Document = serde_json::from_slice(bytes).map_err(BundleError::Json)?;
        if document.version != VERSION {
            return Err(BundleError::Version(document.version));
        }
        limit("certificates", document.certificates.len(), MAX_LEAVES)?;
        limit(
            "revocation lists",
            document.revocation_lists.len(),
            MAX_LISTS,
        )?;
        let leaf = |(index, leaf): (usize, LeafDocument)| {
            let kind = match leaf.kind {
                KindName::Vcek => KeyKind::Vcek,
                KindName::Vlek => KeyKind::Vlek,
            };
            Ok((kind, decode(index, &leaf.der, MAX_LEAF)?))
        };
        let list = |(index, list): (usize, ListDocument)| {
            let product = Product::from_name(&list.product);
            let product = product.ok_or(BundleError::Product(list.product))?;
            Ok((product, decode(index, &list.der, MAX_REVOCATION_LIST)?))
        };
        let leaves = document.certificates.into_iter().enumerate().map(leaf);
        let lists = document.revocation_lists.into_iter().enumerate().map(list);
        Ok(Self {
            leaves: leaves.collect::<Result<_, BundleError>>()?,
            lists: lists.collect::<Result<_, BundleError>>()?,
        })
    }

    /// The file.
    ///
    /// # Errors
    /// More certificates than one bundle may have.
    pub fn encode(&self) -> Result<String, BundleError> {
        limit("certificates", self.leaves.len(), MAX_LEAVES)?;
        limit("revocation lists", self.lists.len(), MAX_LISTS)?;
        let leaf = |(kind, der): &(KeyKind, Vec<u8>)| LeafDocument {
            kind: match kind {
                KeyKind::Vcek => KindName::Vcek,
                KeyKind::Vlek => KindName::Vlek,
            },
            der: STANDARD.encode(der),
        };
        let list = |(product, der): &(Product, Vec<u8>)| ListDocument {
            product: product.to_string(),
            der: STANDARD.encode(der),
        };
        let document = Document {
            version: VERSION,
            certificates: self.leaves.iter().map(leaf).collect(),
            revocation_lists: self.lists.iter().map(list).collect(),
        };
        let mut text = serde_json::to_string_pretty(&document).map_err(BundleError::Json)?;
        text.push('\n');
        Ok(text)
    }

    /// Verifies everything in it.
    ///
    /// # Errors
    /// The first entry that may not be kept.
    pub fn check(
        &self,
        authorities: &AuthoritySet,
        now: UnixTime,
    ) -> Result<Imported, BundleError> {
        let mut checked = Imported::default();
        for (index, (kind, der)) in self.leaves.iter().enumerate() {
            let id = authorities.authenticate(*kind, der, now);
            let id = id.map_err(|source| BundleError::Leaf { index, source })?;
            checked.leaves.push(id);
        }
        for (index, (product, der)) in self.lists.iter().enumerate() {
            let list = authorities.of_list(*product, der, now);
            list.map_err(|source| BundleError::RevocationList { index, source })?;
            checked.lists.push(*product);
        }
        Ok(checked)
    }

    /// Verifies everything in it, then keeps it: all or nothing.
    ///
    /// # Errors
    /// The first entry that may not be kept.
    pub fn import(&self, store: &Store, now: UnixTime) -> Result<Imported, BundleError> {
        let imported = self.check(store.authorities(), now)?;
        for (id, (_, der)) in imported.leaves.iter().zip(&self.leaves) {
            store.put_leaf(id, der)?;
        }
        for (index, (product, der)) in self.lists.iter().enumerate() {
            let list = store.authorities().of_list(*product, der, now);
            let (authorities, list) =
                list.map_err(|source| BundleError::RevocationList { index, source })?;
            store.put_revocation_list(authorities, &list, der, now)?;
        }
        Ok(imported)
    }
}

fn decode(index: usize, text: &str, max: usize) -> Result<Vec<u8>, BundleError> {
    limit("entry", text.len(), max.saturating_mul(2))?;
    let bytes = STANDARD.decode(text);
    let bytes = bytes.map_err(|_| BundleError::Base64 { index })?;
    limit("entry", bytes.len(), max)?;
    Ok(bytes)
}

fn limit(field: &'static str, got: usize, limit: usize) -> Result<(), BundleError> {
    if got > limit {
        return Err(BundleError::Limit { field, limit, got });
    }
    Ok(())
}

//! Revocation lists (RFC 5280, section 5).

use crate::{
    Product,
    certificate::{CRL_NUMBER, Extension, ark_name, authority_key, name},
    der,
    keys::{AuthorityKey, pss_algorithm},
};
use std::io;

/// What a revocation list says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlFields {
    /// When it was made, in seconds since 1970.
    pub this_update: u64,
    /// When the next one is due.
    pub next_update: u64,
    /// Serial numbers of the revoked certificates, in practice of ASKs and ASVKs.
    pub revoked: Vec<u64>,
}

impl CrlFields {
    pub(crate) fn signed_by(&self, product: Product, ark: &AuthorityKey) -> io::Result<Vec<u8>> {
        let entry =
            |serial: &u64| der::sequence(&[der::integer(*serial), der::time(self.this_update)]);
        let entries: Vec<_> = self.revoked.iter().map(entry).collect();
        let number = Extension {
            id: CRL_NUMBER.to_vec(),
            value: der::integer(1),
        };
        let extensions = der::sequence(&[authority_key(ark), number.encode()]);
        let mut inner = vec![
            der::integer(1),
            pss_algorithm(),
            name(&ark_name(product)),
            der::time(self.this_update),
            der::time(self.next_update),
        ];
        // An empty list must be absent (section 5.1.2.6).
        if !entries.is_empty() {
            inner.push(der::sequence(&entries));
        }
        inner.push(der::context(0, &extensions));
        ark.seal(der::sequence(&inner))
    }
}

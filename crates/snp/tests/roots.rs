//! The pinned certificates.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use aws_lc_rs::digest::{SHA256, digest};
use snp::{Authorities, AuthorityCertificates, Product};
use std::collections::BTreeSet;
use vectors::vector;

fn files(product: Product) -> [(&'static str, &'static [u8]); 3] {
    let AuthorityCertificates { ark, ask, asvk } = AuthorityCertificates::amd(product);
    [("ark", ark), ("ask", ask), ("asvk", asvk)]
}

/// Making the authorities verifies the root's signatures over itself and both intermediates.
#[test]
fn each_pinned_root_signed_itself_and_its_intermediates() {
    let roots = Product::ALL.map(|product| *Authorities::amd(product).unwrap().root());
    assert_eq!(BTreeSet::from(roots).len(), 3);
}

#[test]
fn the_pinned_certificates_are_those_of_the_provenance_note() {
    let note = include_str!("../src/roots/README.md");
    for product in Product::ALL {
        for (name, der) in files(product) {
            let line = product.to_string().to_lowercase();
            let sha256 = hex::encode(digest(&SHA256, der));
            assert!(
                note.contains(&format!("{sha256}  {line}-{name}.der")),
                "{line} {name}"
            );
        }
    }
}

#[test]
fn the_pinned_certificates_are_amds() {
    for product in Product::ALL {
        let line = product.to_string().to_lowercase();
        for (name, der) in files(product) {
            let file = format!("amd-roots/certs__amd__{line}__{name}.der");
            if let Some(amd) = vector(&file) {
                assert!(der == amd, "{file}");
            }
        }
    }
}

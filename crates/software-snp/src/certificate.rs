//! Certificates with AMD's names and encodings.

use crate::{
    Product, der,
    keys::{AuthorityKey, pss_algorithm},
};
use serde::{Deserialize, Serialize};
use std::{io, ops::Range};

/// subjectKeyIdentifier, keyUsage, basicConstraints, cRLNumber, authorityKeyIdentifier (RFC 5280).
const SUBJECT_KEY: [u64; 4] = [2, 5, 29, 14];
const KEY_USAGE: [u64; 4] = [2, 5, 29, 15];
const BASIC_CONSTRAINTS: [u64; 4] = [2, 5, 29, 19];
pub(crate) const CRL_NUMBER: [u64; 4] = [2, 5, 29, 20];
const AUTHORITY_KEY: [u64; 4] = [2, 5, 29, 35];

/// keyCertSign and cRLSign; keyCertSign (RFC 5280, section 4.2.1.3).
const SIGNS_BOTH: [u8; 4] = [3, 2, 1, 0x06];
const SIGNS_CERTIFICATES: [u8; 4] = [3, 2, 2, 0x04];

/// From 2020-10-22 to 2045-10-22, as AMD's.
const AUTHORITY_VALIDITY: Range<u64> = 1_603_324_800..2_392_243_200;

/// One extension that is not critical.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// The object identifier.
    pub id: Vec<u64>,
    /// The content of the octet string, whatever it is.
    pub value: Vec<u8>,
}

impl Extension {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let id = der::object_identifier(&self.id);
        der::sequence(&[id, der::octet_string(&self.value)])
    }
}

/// What a certificate says beside its issuer and its key.
#[derive(Debug)]
pub(crate) struct Content<'a> {
    pub(crate) serial: u64,
    pub(crate) issuer: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) validity: Range<u64>,
    pub(crate) public_key_info: Vec<u8>,
    pub(crate) extensions: Vec<Vec<u8>>,
}

impl Content<'_> {
    /// The whole certificate.
    pub(crate) fn signed_by(self, issuer: &AuthorityKey) -> io::Result<Vec<u8>> {
        let version = der::context(0, &der::integer(2));
        let validity = [self.validity.start, self.validity.end].map(der::time);
        let extensions = der::sequence(&self.extensions);
        issuer.seal(der::sequence(&[
            version,
            der::integer(self.serial),
            pss_algorithm(),
            name(self.issuer),
            der::sequence(&validity),
            name(self.subject),
            self.public_key_info,
            der::context(3, &extensions),
        ]))
    }
}

/// The root of a product line.
pub(crate) fn ark(product: Product, key: &AuthorityKey) -> io::Result<Vec<u8>> {
    let subject = ark_name(product);
    let content = Content {
        serial: product.serial(),
        issuer: &subject,
        subject: &subject,
        validity: AUTHORITY_VALIDITY,
        public_key_info: key.public_key_info(),
        extensions: vec![
            critical(&KEY_USAGE, &SIGNS_BOTH),
            subject_key(key),
            critical(&BASIC_CONSTRAINTS, &der::sequence(&[truth()])),
        ],
    };
    content.signed_by(key)
}

/// What signs leaves, below the root: `serial` is added to the line's own.
pub(crate) fn intermediate(
    product: Product,
    (subject, serial): (&str, u64),
    key: &AuthorityKey,
    ark: &AuthorityKey,
) -> io::Result<Vec<u8>> {
    let constraints = der::sequence(&[truth(), der::integer(0)]);
    let content = Content {
        serial: product.serial() + serial,
        issuer: &ark_name(product),
        subject,
        validity: AUTHORITY_VALIDITY,
        public_key_info: key.public_key_info(),
        extensions: vec![
            subject_key(key),
            authority_key(ark),
            critical(&BASIC_CONSTRAINTS, &constraints),
            critical(&KEY_USAGE, &SIGNS_CERTIFICATES),
        ],
    };
    content.signed_by(ark)
}

pub(crate) fn ark_name(product: Product) -> String {
    format!("ARK-{}", product.name())
}

pub(crate) fn ask_name(product: Product) -> String {
    format!("SEV-{}", product.name())
}

pub(crate) fn asvk_name(product: Product) -> String {
    format!("SEV-VLEK-{}", product.name())
}

/// AMD's attributes in AMD's order.
pub(crate) fn name(common_name: &str) -> Vec<u8> {
    let attribute = |kind, value| {
        let kind = der::object_identifier(&[2, 5, 4, kind]);
        der::set(&[der::sequence(&[kind, value])])
    };
    der::sequence(&[
        attribute(11, der::utf8("Engineering")),
        attribute(6, der::printable("US")),
        attribute(7, der::utf8("Santa Clara")),
        attribute(8, der::utf8("CA")),
        attribute(10, der::utf8("Advanced Micro Devices")),
        attribute(3, der::utf8(common_name)),
    ])
}

fn subject_key(key: &AuthorityKey) -> Vec<u8> {
    let extension = Extension {
        id: SUBJECT_KEY.to_vec(),
        value: der::octet_string(&key.identifier()),
    };
    extension.encode()
}

pub(crate) fn authority_key(key: &AuthorityKey) -> Vec<u8> {
    // keyIdentifier is the implicit, primitive context tag 0.
    let extension = Extension {
        id: AUTHORITY_KEY.to_vec(),
        value: der::sequence(&[der::element(0x80, &key.identifier())]),
    };
    extension.encode()
}

fn critical(id: &[u64], value: &[u8]) -> Vec<u8> {
    let id = der::object_identifier(id);
    der::sequence(&[id, truth(), der::octet_string(value)])
}

fn truth() -> Vec<u8> {
    der::element(1, &[0xff])
}

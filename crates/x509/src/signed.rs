//! What a signature of X.509 is over.

use x509_cert::der::{Decode, Reader, SliceReader, asn1::AnyRef};

/// The part of a signed DER structure, certificate or revocation list, that its signature is over:
/// the first field of the outer sequence, as received (RFC 5280, sections 4.1 and 5.1). `None`
/// unless `der` is one DER value with something in it.
#[must_use]
pub fn signed_part(der: &[u8]) -> Option<&[u8]> {
    let outer = AnyRef::from_der(der).ok()?;
    let mut fields = SliceReader::new(outer.value()).ok()?;
    fields.tlv_bytes().ok()
}

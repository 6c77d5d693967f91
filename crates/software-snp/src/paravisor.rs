//! What Azure's paravisor leaves in a guest's vTPM: a hardware report around whose data it writes
//! which key the vTPM attests with (layout: `snp::hcl`).

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use std::io;

use crate::{Leaf, ReportFields};

/// The blob for a vTPM whose attestation key is RSA with this modulus and the exponent 65537; the
/// report is `fields`' but for its `REPORT_DATA`, which is the hash of the claims.
///
/// # Errors
/// If the library fails.
pub fn hcl_report(fields: &ReportFields, leaf: &Leaf, modulus: &[u8]) -> io::Result<Vec<u8>> {
    let claims = claims(modulus);
    let mut fields = fields.clone();
    fields.report_data = [0; 64];
    let digest = digest::digest(&digest::SHA256, claims.as_bytes());
    let places = fields.report_data.iter_mut();
    places
        .zip(digest.as_ref())
        .for_each(|(place, byte)| *place = *byte);

    let length = u32::try_from(claims.len()).map_err(io::Error::other)?;
    let mut blob = b"HCLA".to_vec();
    // Version, size of everything, kind of request, reserved.
    blob.extend(words(&[2, 0x4d4 + length, 2, 0, 0, 0, 0]));
    blob.extend(fields.signed_by(leaf)?);
    // Size of the claims with this header, its version, SEV-SNP, SHA-256, size of the JSON.
    blob.extend(words(&[20 + length, 1, 2, 1, length]));
    blob.extend(claims.as_bytes());
    Ok(blob)
}

fn claims(modulus: &[u8]) -> String {
    let key = serde_json::json!({
        "kid": "HCLAkPub",
        "key_ops": ["sign"],
        "kty": "RSA",
        "e": URL_SAFE_NO_PAD.encode([1, 0, 1]),
        "n": URL_SAFE_NO_PAD.encode(modulus),
    });
    serde_json::json!({"keys": [key], "vm-configuration": {"console-enabled": true}}).to_string()
}

fn words(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

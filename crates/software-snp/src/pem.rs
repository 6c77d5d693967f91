//! The textual form of certificates (RFC 7468).

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Bytes under a label such as `CERTIFICATE`, 64 characters a line.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    // 48 bytes are 64 characters.
    let lines = der.chunks(48).map(|part| STANDARD.encode(part) + "\n");
    let body: String = lines.collect();
    format!("-----BEGIN {label}-----\n{body}-----END {label}-----\n")
}

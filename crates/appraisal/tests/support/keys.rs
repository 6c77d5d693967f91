//! Images and rules for software keys of TPMs.

use appraisal::{Appraiser, CredentialSecret, Policy, REQUIRED_PCRS, ReferenceValues};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(crate) fn secret() -> CredentialSecret {
    CredentialSecret::from_slice(&[0x77; 32]).unwrap()
}

pub(crate) fn image_pcrs(seed: u8) -> BTreeMap<u32, [u8; 32]> {
    let value = |pcr| if pcr == 15 { [0; 32] } else { [seed; 32] };
    REQUIRED_PCRS.map(|pcr| (pcr, value(pcr))).into()
}

pub(crate) fn image(name: &str, seed: u8) -> Value {
    let pcrs: BTreeMap<u32, _> = image_pcrs(seed)
        .into_iter()
        .map(|(pcr, value)| (pcr, [hex::encode(value)]))
        .collect();
    json!({"name": name, "roles": ["worker"], "pcrs": pcrs})
}

pub(crate) fn appraiser(authority: &str, images: &[Value]) -> Appraiser {
    let policy = json!({
        "version": 1,
        "serial": 1,
        "evidence": ["tpm"],
        "tpm": {
            "pcrs": REQUIRED_PCRS,
            "ek_authorities": [{"certificate": authority, "bound_to_platform": true}],
        },
    });
    let values = json!({"version": 1, "serial": 1, "images": images});
    Appraiser::new(
        Policy::parse(policy.to_string().as_bytes()).unwrap(),
        ReferenceValues::parse(values.to_string().as_bytes()).unwrap(),
    )
    .unwrap()
}

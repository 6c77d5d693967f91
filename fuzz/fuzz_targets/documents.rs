//! Policy, reference values and their envelope: the owner's, until a signature says otherwise.
#![no_main]
use appraisal::{
    Appraiser, Policy, ReferenceValues,
    document::{PolicyDocument, ReferenceValuesDocument},
};
use libfuzzer_sys::fuzz_target;
use owner::{AdmissionKeyCertificate, AkCertificate, DocumentKind, OwnerPublicKey, SignedDocument};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else {
        return;
    };
    match which % 6 {
        0 => policy(data),
        1 => values(data),
        2 => drop(AdmissionKeyCertificate::parse(data)),
        3 => {
            let owner = OwnerPublicKey([1; 32]).fingerprint();
            drop(SignedDocument::open(data, DocumentKind::Policy, &owner));
        }
        5 => {
            if let Ok(certificate) = AkCertificate::parse(data) {
                let text = certificate.encode();
                assert_eq!(AkCertificate::parse(text.as_bytes()), Ok(certificate));
            }
        }
        // Both, one line each.
        _ => {
            let Some(end) = data.iter().position(|byte| *byte == b'\n') else {
                return;
            };
            let (first, second) = data.split_at(end);
            if let (Ok(policy), Ok(values)) = (Policy::parse(first), ReferenceValues::parse(second))
            {
                drop(Appraiser::new(policy, values));
            }
        }
    }
});

fn policy(data: &[u8]) {
    let Ok(policy) = Policy::parse(data) else {
        return;
    };
    let document: PolicyDocument = same_again(data);
    assert_eq!(policy.kinds().len(), document.evidence.len());
    for requirement in policy.requirements() {
        assert_eq!(requirement.pcrs.is_empty(), !requirement.kind.has_quote());
    }
}

fn values(data: &[u8]) {
    if let Ok(values) = ReferenceValues::parse(data) {
        let document: ReferenceValuesDocument = same_again(data);
        assert_eq!(values.images().len(), document.images.len());
    }
}

/// What loads is written as it was read.
fn same_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) -> T {
    let document: T = serde_json::from_slice(data).expect("it loaded");
    let text = serde_json::to_vec(&document).expect("it was read");
    let again: T = serde_json::from_slice(&text).expect("our own");
    assert_eq!(document, again);
    document
}

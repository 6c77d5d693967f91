//! Policy, reference values and their envelope: the owner's, until a signature says otherwise.
#![no_main]
use appraisal::{
    Appraiser, Policy, ReferenceValues,
    document::{PolicyDocument, ReferenceValuesDocument},
};
use fuzz::got_through;
use libfuzzer_sys::fuzz_target;
use owner::{
    AdmissionKeyCertificate, AkCertificate, DocumentKind, OwnerFingerprint, OwnerKey, Seed,
    SignedDocument,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Debug, sync::LazyLock};

/// Who signed the seed, of the key of seed `01…`.
static OWNER: LazyLock<OwnerFingerprint> = LazyLock::new(|| {
    let seed = Seed::from_slice(&[1; 32]).expect("32 bytes");
    let key = OwnerKey::from_seed(&seed).expect("a key");
    key.public_key().fingerprint()
});

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else {
        return;
    };
    match which % 6 {
        0 => policy(data),
        1 => values(data),
        2 => got_through(AdmissionKeyCertificate::parse(data).is_ok()),
        3 => {
            let opened = SignedDocument::open(data, DocumentKind::Policy, &OWNER);
            got_through(opened.is_ok());
        }
        5 => {
            let certificate = AkCertificate::parse(data);
            got_through(certificate.is_ok());
            if let Ok(certificate) = certificate {
                let text = certificate.encode();
                assert_eq!(AkCertificate::parse(text.as_bytes()), Ok(certificate));
            }
        }
        // Both, one line each.
        _ => {
            let end = data.iter().position(|byte| *byte == b'\n');
            let (first, second) = data.split_at(end.unwrap_or(data.len()));
            if let (Ok(policy), Ok(values)) = (Policy::parse(first), ReferenceValues::parse(second))
            {
                got_through(Appraiser::new(policy, values).is_ok());
            } else {
                got_through(false);
            }
        }
    }
});

fn policy(data: &[u8]) {
    let Ok(policy) = Policy::parse(data) else {
        return got_through(false);
    };
    let document: PolicyDocument = same_again(data);
    assert_eq!(policy.kinds().len(), document.evidence.len());
    for requirement in policy.requirements() {
        assert_eq!(requirement.pcrs.is_empty(), !requirement.kind.has_quote());
    }
}

fn values(data: &[u8]) {
    let Ok(values) = ReferenceValues::parse(data) else {
        return got_through(false);
    };
    let document: ReferenceValuesDocument = same_again(data);
    assert_eq!(values.images().len(), document.images.len());
}

/// What loads is written as it was read.
fn same_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) -> T {
    let document: T = serde_json::from_slice(data).expect("it loaded");
    let text = serde_json::to_vec(&document).expect("it was read");
    let again: T = serde_json::from_slice(&text).expect("our own");
    assert_eq!(document, again);
    document
}

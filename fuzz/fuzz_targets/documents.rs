//! Policy, reference values and their envelope: the owner's, until a signature says otherwise.
#![no_main]
use libfuzzer_sys::fuzz_target;
use owner::{AdmissionKeyCertificate, DocumentKind, OwnerPublicKey, SignedDocument};

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else {
        return;
    };
    match which % 4 {
        0 => drop(appraisal::Policy::parse(data)),
        1 => drop(appraisal::ReferenceValues::parse(data)),
        2 => drop(AdmissionKeyCertificate::parse(data)),
        _ => {
            let owner = OwnerPublicKey([1; 32]).fingerprint();
            drop(SignedDocument::open(data, DocumentKind::Policy, &owner));
        }
    }
});

//! Policy, reference values and their envelope, the owner's until a signature says otherwise; bundles of endorsements.
#![no_main]
use appraisal::{
    Appraiser, Policy, ReferenceValues,
    document::{PolicyDocument, ReferenceValuesDocument},
};
use endorsements::{AuthoritySet, Bundle};
use fuzz::got_through;
use libfuzzer_sys::fuzz_target;
use owner::{
    AdmissionKeyCertificate, AkCertificate, DocumentKind, OwnerFingerprint, OwnerKey, Seed,
    SignedDocument,
};
use serde::{Serialize, de::DeserializeOwned};
use snp::UnixTime;
use std::{fmt::Debug, sync::LazyLock};

/// Who signed the seed, of the key of seed `01…`.
static OWNER: LazyLock<OwnerFingerprint> = LazyLock::new(|| {
    let seed = Seed::from_slice(&[1; 32]).expect("32 bytes");
    let key = OwnerKey::from_seed(&seed).expect("a key");
    key.public_key().fingerprint()
});

/// 2025-01-01, when the seeds are valid.
const NOW: UnixTime = UnixTime(1_735_689_600);

static AMD: LazyLock<AuthoritySet> =
    LazyLock::new(|| AuthoritySet::amd().expect("the pinned certificates are good"));

fuzz_target!(|data: &[u8]| got_through(run(data)));

fn run(data: &[u8]) -> bool {
    let Some((which, data)) = data.split_first() else {
        return false;
    };
    match which % 7 {
        0 => policy(data),
        1 => values(data),
        2 => AdmissionKeyCertificate::parse(data).is_ok(),
        3 => {
            let opened = SignedDocument::open(data, DocumentKind::Policy, &OWNER);
            opened.is_ok()
        }
        5 => {
            let Ok(certificate) = AkCertificate::parse(data) else {
                return false;
            };
            let text = certificate.encode();
            assert_eq!(AkCertificate::parse(text.as_bytes()), Ok(certificate));
            true
        }
        6 => bundle(data),
        // Both, one line each.
        _ => {
            let end = data.iter().position(|byte| *byte == b'\n');
            let (first, second) = data.split_at(end.unwrap_or(data.len()));
            match (Policy::parse(first), ReferenceValues::parse(second)) {
                (Ok(policy), Ok(values)) => Appraiser::new(policy, values).is_ok(),
                _ => false,
            }
        }
    }
}

fn policy(data: &[u8]) -> bool {
    let Ok(policy) = Policy::parse(data) else {
        return false;
    };
    let document: PolicyDocument = same_again(data);
    assert_eq!(policy.kinds().len(), document.evidence.len());
    for requirement in policy.requirements() {
        assert_eq!(requirement.pcrs.is_empty(), !requirement.kind.has_quote());
    }
    true
}

fn values(data: &[u8]) -> bool {
    let Ok(values) = ReferenceValues::parse(data) else {
        return false;
    };
    let document: ReferenceValuesDocument = same_again(data);
    assert_eq!(values.images().len(), document.images.len());
    true
}

/// Whoever carries a bundle has written it.
fn bundle(data: &[u8]) -> bool {
    let Ok(bundle) = Bundle::parse(data) else {
        return false;
    };
    let text = bundle.encode().expect("no more than was read");
    assert_eq!(Bundle::parse(text.as_bytes()).ok().as_ref(), Some(&bundle));
    assert!(
        bundle.is_empty() || bundle.check(&AMD, NOW).is_err(),
        "something that AMD did not sign is kept"
    );
    !bundle.is_empty()
}

/// What loads is written as it was read.
fn same_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) -> T {
    let document: T = serde_json::from_slice(data).expect("it loaded");
    let text = serde_json::to_vec(&document).expect("it was read");
    let again: T = serde_json::from_slice(&text).expect("our own");
    assert_eq!(document, again);
    document
}

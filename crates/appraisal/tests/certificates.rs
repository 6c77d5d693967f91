//! Endorsement key certificates: which chains are trusted and which are not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use appraisal::{
    AppraisalError, Appraiser, CertificateError, CredentialSecret, LoadError, Policy,
    REQUIRED_PCRS, ReferenceValues,
};
use evidence::AttesterClaim;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, date_time_ymd,
};
use serde_json::{Value, json};
use software_tpm::keys::{KeyAuthority, KeyTpm};
use std::collections::BTreeMap;

fn secret() -> CredentialSecret {
    CredentialSecret::from_slice(&[0x77; 32]).unwrap()
}

fn policy(authority: &str, intermediates: Option<Vec<&str>>) -> Result<Policy, LoadError> {
    let mut tpm = json!({
        "pcrs": REQUIRED_PCRS,
        "ek_authorities": [{"certificate": authority, "bound_to_platform": true}],
    });
    if let Some(intermediates) = intermediates {
        tpm["ek_intermediates"] = json!(intermediates);
    }
    let policy = json!({"version": 1, "serial": 1, "evidence": ["tpm"], "tpm": tpm});
    Policy::parse(policy.to_string().as_bytes())
}

fn appraiser(policy: Policy) -> Appraiser {
    let zero = ["0".repeat(64)];
    let pcrs: BTreeMap<u32, _> = REQUIRED_PCRS.map(|pcr| (pcr, zero.clone())).into();
    let image: Value = json!({"name": "any", "roles": ["worker"], "pcrs": pcrs});
    let values = json!({"version": 1, "serial": 1, "images": [image]});
    let values = ReferenceValues::parse(values.to_string().as_bytes()).unwrap();
    Appraiser::new(policy, values).unwrap()
}

/// What becomes of `tpm` under a policy that trusts `root` and knows `intermediates`.
fn authenticate(
    tpm: &KeyTpm,
    root: &KeyAuthority,
    intermediates: &[&KeyAuthority],
) -> Result<(), AppraisalError> {
    let pems: Vec<&str> = intermediates
        .iter()
        .map(|authority| authority.pem())
        .collect();
    let policy = policy(root.pem(), (!pems.is_empty()).then_some(pems)).unwrap();
    appraiser(policy)
        .challenge(&AttesterClaim::Tpm(tpm.identity().clone()), secret())
        .map(drop)
}

fn root() -> KeyAuthority {
    KeyAuthority::new("root").unwrap()
}

/// The certificate of a TPM of a trusted root, changed by `edit`, must be refused like this.
fn assert_refused(edit: impl FnOnce(&mut CertificateParams), expected: &CertificateError) {
    let root = root();
    let tpm = root.manufacture_with(edit).unwrap();
    let refused = authenticate(&tpm, &root, &[]);
    assert_eq!(refused, Err(AppraisalError::Certificate(*expected)));
}

#[test]
fn chains_of_up_to_three_certificates_are_trusted() {
    let root = root();
    authenticate(&root.manufacture().unwrap(), &root, &[]).unwrap();
    let one = root.intermediate("one", |_| {}).unwrap();
    authenticate(&one.manufacture().unwrap(), &root, &[&one]).unwrap();
    let two = one.intermediate("two", |_| {}).unwrap();
    let tpm = two.manufacture().unwrap();
    authenticate(&tpm, &root, &[&one, &two]).unwrap();
    authenticate(&tpm, &root, &[&two, &one]).unwrap();

    let three = two.intermediate("three", |_| {}).unwrap();
    let refused = authenticate(&three.manufacture().unwrap(), &root, &[&one, &two, &three]);
    assert_eq!(
        refused,
        Err(AppraisalError::Certificate(CertificateError::Untrusted))
    );
}

#[test]
fn an_intermediate_is_trusted_for_nothing_by_itself() {
    let (root, other) = (root(), KeyAuthority::new("other").unwrap());
    let one = other.intermediate("one", |_| {}).unwrap();
    let untrusted = Err(AppraisalError::Certificate(CertificateError::Untrusted));
    let tpm = one.manufacture().unwrap();
    assert_eq!(authenticate(&tpm, &root, &[&one]), untrusted);
    assert_eq!(authenticate(&tpm, &root, &[&one, &other]), untrusted);
    let below = root.intermediate("below", |_| {}).unwrap();
    assert_eq!(
        authenticate(&below.manufacture().unwrap(), &root, &[]),
        untrusted
    );
}

#[test]
fn a_root_that_only_has_the_trusted_roots_name_is_refused() {
    let (real, fake) = (root(), root());
    let refused = authenticate(&fake.manufacture().unwrap(), &real, &[]);
    assert_eq!(
        refused,
        Err(AppraisalError::Certificate(CertificateError::Untrusted))
    );
}

#[test]
fn path_length_and_key_usage_of_authorities_count() {
    let untrusted = Err(AppraisalError::Certificate(CertificateError::Untrusted));
    let flat = KeyAuthority::with("flat", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    })
    .unwrap();
    authenticate(&flat.manufacture().unwrap(), &flat, &[]).unwrap();
    let below = flat.intermediate("below", |_| {}).unwrap();
    assert_eq!(
        authenticate(&below.manufacture().unwrap(), &flat, &[&below]),
        untrusted
    );
}

#[test]
fn only_a_certificate_authority_loads_as_one() {
    let no_ca = KeyAuthority::with("leaf", |params| params.is_ca = IsCa::ExplicitNoCa).unwrap();
    let v1 = KeyAuthority::with("none", |params| params.is_ca = IsCa::NoCa).unwrap();
    let no_signing = KeyAuthority::with("usage", |params| {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    })
    .unwrap();
    for authority in [no_ca, v1, no_signing] {
        for field in ["tpm.ek_authorities", "tpm.ek_intermediates"] {
            let loaded = if field == "tpm.ek_authorities" {
                policy(authority.pem(), None)
            } else {
                policy(root().pem(), Some(vec![authority.pem()]))
            };
            assert!(matches!(
                loaded,
                Err(LoadError::Certificate {
                    field: got,
                    index: 0,
                    source: CertificateError::NotAuthority,
                }) if got == field
            ));
        }
    }
}

#[test]
fn text_that_is_not_one_pem_certificate_does_not_load() {
    let pem = root().pem().to_owned();
    let key = pem.replace("CERTIFICATE", "PRIVATE KEY");
    let cut = pem.lines().take(3).collect::<Vec<_>>().join("\n");
    for text in [
        "",
        "PEM",
        &key,
        &cut,
        &format!("{pem}{pem}"),
        &format!("x{pem}"),
    ] {
        assert!(policy(text, None).is_err(), "{text}");
    }
}

#[test]
fn a_certificate_of_another_key_is_refused() {
    let root = root();
    let (one, two) = (root.manufacture().unwrap(), root.manufacture().unwrap());
    let mut mixed = one.identity().clone();
    mixed
        .ek_certificate
        .clone_from(&two.identity().ek_certificate);
    let refused = appraiser(policy(root.pem(), None).unwrap())
        .challenge(&AttesterClaim::Tpm(mixed), secret());
    assert!(matches!(
        refused,
        Err(AppraisalError::Certificate(CertificateError::OtherKey))
    ));
}

#[test]
fn a_certificate_that_names_no_use_is_not_for_an_endorsement_key() {
    assert_refused(
        |params| params.key_usages = Vec::new(),
        &CertificateError::NotEndorsementKey("key usage"),
    );
    let root = root();
    let purpose_alone = root.manufacture_with(|params| {
        params.key_usages = Vec::new();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
    });
    authenticate(&purpose_alone.unwrap(), &root, &[]).unwrap();
}

#[test]
fn usages_of_the_endorsement_key_certificate_count_where_present() {
    let ek_purpose = || ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1]);
    let root = root();
    let good = root.manufacture_with(|params| {
        params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        params.extended_key_usages = vec![ek_purpose(), ExtendedKeyUsagePurpose::ClientAuth];
        params.is_ca = IsCa::ExplicitNoCa;
    });
    authenticate(&good.unwrap(), &root, &[]).unwrap();
    assert_refused(
        |params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment],
        &CertificateError::NotEndorsementKey("key usage"),
    );
    assert_refused(
        |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
        &CertificateError::NotEndorsementKey("extended key usage"),
    );
    assert_refused(
        |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        &CertificateError::NotEndorsementKey("basic constraints"),
    );
}

#[test]
fn an_unknown_extension_is_refused_only_when_critical() {
    let extension = |critical| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 9], vec![5, 0]);
        extension.set_criticality(critical);
        extension
    };
    let root = root();
    let tpm = root.manufacture_with(|params| params.custom_extensions = vec![extension(false)]);
    authenticate(&tpm.unwrap(), &root, &[]).unwrap();
    let oid = "1.3.6.1.4.1.9".parse().unwrap();
    assert_refused(
        |params| params.custom_extensions = vec![extension(true)],
        &CertificateError::UnknownExtension(oid),
    );
    assert_refused(
        |params| params.custom_extensions = vec![extension(false), extension(false)],
        &CertificateError::Malformed("duplicate extension"),
    );
}

#[test]
fn validity_dates_do_not_count() {
    let root = root();
    let tpm = root.manufacture_with(|params| {
        params.not_before = date_time_ymd(1970, 1, 1);
        params.not_after = date_time_ymd(1971, 1, 1);
    });
    authenticate(&tpm.unwrap(), &root, &[]).unwrap();
}

#[test]
fn an_issuer_must_have_the_right_name_beside_the_right_key() {
    let root = root();
    let tpm = root.manufacture().unwrap();
    let renamed = root.renamed_pem("another name").unwrap();
    let refused = appraiser(policy(&renamed, None).unwrap())
        .challenge(&AttesterClaim::Tpm(tpm.identity().clone()), secret());
    assert!(matches!(
        refused,
        Err(AppraisalError::Certificate(CertificateError::Untrusted))
    ));
}

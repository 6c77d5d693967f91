use super::*;
use rcgen::PublicKeyData as _;
use x509_cert::{
    der::{Decode, Encode},
    ext::pkix::{SubjectAltName, name::GeneralName},
    request::{CertReq, ExtensionReq},
};

fn made(address: Option<&str>) -> KubeletKeys {
    let address = address.map(|address| address.parse().unwrap());
    KubeletKeys::make(&"worker-0".parse().unwrap(), address).unwrap()
}

/// The alternative names of a serving request, which must be its only extension.
fn names(address: Option<&str>) -> Vec<String> {
    let request = CertReq::from_der(&made(address).requests.kubelet_serving).unwrap();
    let [attribute] = <[_; 1]>::try_from(request.info.attributes.into_vec()).unwrap();
    let [value] = <[_; 1]>::try_from(attribute.values.into_vec()).unwrap();
    let extensions = ExtensionReq::from_der(&value.to_der().unwrap()).unwrap().0;
    let [names] = <[_; 1]>::try_from(extensions).unwrap();
    let names = SubjectAltName::from_der(names.extn_value.as_bytes()).unwrap();
    let name = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => name.to_string(),
        GeneralName::IpAddress(bytes) => hex(bytes.as_bytes()),
        other => panic!("{other:?}"),
    };
    names.0.iter().map(name).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn both_requests_name_the_node_and_its_group_and_nothing_else() {
    let made = made(Some("10.0.2.15"));
    for der in [
        &made.requests.kubelet_client,
        &made.requests.kubelet_serving,
    ] {
        let request = CertReq::from_der(der).unwrap();
        assert_eq!(
            request.info.subject.to_string(),
            "CN=system:node:worker-0,O=system:nodes"
        );
        assert!(der.len() < 1024, "{}", der.len());
    }
    let client = CertReq::from_der(&made.requests.kubelet_client).unwrap();
    assert!(client.info.attributes.is_empty(), "no extension");
}

#[test]
fn the_serving_request_has_the_name_and_at_most_the_address_dialled_from() {
    assert_eq!(names(None), ["worker-0"]);
    for (dialled_from, written) in [
        ("10.0.2.15", "0a00020f"),
        ("::ffff:10.0.2.15", "0a00020f"),
        ("fd00::1", "fd000000000000000000000000000001"),
    ] {
        assert_eq!(names(Some(dialled_from)), ["worker-0", written]);
    }
}

#[test]
fn each_key_is_its_own_and_each_boots_too() {
    let (first, second) = (made(None), made(None));
    let keys = [&first, &second].map(|made| made.keys.each_ref().map(|key| key.to_string()));
    let mut all = keys.concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4);
    for (key, der) in first.keys.iter().zip([
        &first.requests.kubelet_client,
        &first.requests.kubelet_serving,
    ]) {
        let key = KeyPair::from_pem(key).unwrap();
        assert!(
            der.windows(key.der_bytes().len())
                .any(|part| part == key.der_bytes())
        );
    }
}

#[test]
fn debug_shows_no_key() {
    assert_eq!(format!("{:?}", made(None)), "KubeletKeys(worker-0)");
}

use super::*;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, SanType,
};

const PEER: &str = "10.0.0.7";

/// What a node may ask for, and how a test departs from it.
struct Asked {
    subject: Vec<(DnType, String)>,
    names: Vec<SanType>,
}

impl Asked {
    fn client() -> Self {
        Self {
            subject: vec![
                (DnType::OrganizationName, "system:nodes".into()),
                (DnType::CommonName, "system:node:worker-0".into()),
            ],
            names: Vec::new(),
        }
    }

    fn serving() -> Self {
        Self::named(&["worker-0", PEER])
    }

    fn named(names: &[&str]) -> Self {
        let name = |name: &&str| match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*name).try_into().unwrap()),
        };
        Self {
            names: names.iter().map(name).collect(),
            ..Self::client()
        }
    }

    fn params(self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, text) in self.subject {
            params.distinguished_name.push(kind, text);
        }
        params.subject_alt_names = self.names;
        params
    }

    fn der(self) -> Vec<u8> {
        signed(&self.params())
    }
}

fn signed(params: &CertificateParams) -> Vec<u8> {
    let request = params.serialize_request(&KeyPair::generate().unwrap());
    request.unwrap().der().to_vec()
}

fn cluster() -> KubernetesMaterial {
    KubernetesMaterial {
        api_endpoint: "10.0.0.1:6443".into(),
        certificate_authority: "pem".into(),
        pod_subnet: "10.244.0.0/16".into(),
        service_subnet: "10.96.0.0/12,fd00:1::/112".into(),
        dns_domain: "cluster.local".into(),
        version: "v1.20.2".into(),
    }
}

fn parse(client: Vec<u8>, serving: Vec<u8>) -> Result<ParsedRequests, RequestError> {
    ParsedRequests::parse(CertificateRequests {
        kubelet_client: client,
        kubelet_serving: serving,
    })
}

/// Judges the requests of `worker-0`.
fn judge(client: Vec<u8>, serving: Vec<u8>, role: Role, peer: &str) -> Result<(), RequestError> {
    let parsed = parse(client, serving)?;
    let node = "worker-0".parse().unwrap();
    let checked = parsed.check(&node, role, peer.parse().unwrap(), &cluster());
    checked.map(drop)
}

fn serve(names: &[&str], role: Role, peer: &str) -> Result<(), RequestError> {
    judge(Asked::client().der(), Asked::named(names).der(), role, peer)
}

#[test]
fn a_node_may_have_its_name_and_its_address() {
    for names in [&["worker-0", PEER][..], &["worker-0"], &[PEER, "worker-0"]] {
        serve(names, Role::Worker, PEER).unwrap();
    }
    serve(&["worker-0", "fd00::7"], Role::Worker, "fd00::7").unwrap();
    let mut turned = Asked::client();
    turned.subject.reverse();
    judge(turned.der(), Asked::serving().der(), Role::Worker, PEER).unwrap();
}

#[test]
fn no_other_subject() {
    let subjects: [&[(DnType, &str)]; 8] = [
        &[],
        &[(DnType::CommonName, "system:node:worker-0")],
        &[(DnType::OrganizationName, "system:nodes")],
        &[
            (DnType::OrganizationName, "system:nodes"),
            (DnType::CommonName, "system:node:worker-1"),
        ],
        &[
            (DnType::OrganizationName, "system:masters"),
            (DnType::CommonName, "system:node:worker-0"),
        ],
        &[
            (DnType::OrganizationName, "system:nodes"),
            (DnType::CommonName, "system:node:worker-0 "),
        ],
        &[
            (DnType::OrganizationName, "system:nodes"),
            (DnType::OrganizationalUnitName, "system:masters"),
            (DnType::CommonName, "system:node:worker-0"),
        ],
        &[
            (DnType::OrganizationalUnitName, "system:nodes"),
            (DnType::CommonName, "system:node:worker-0"),
        ],
    ];
    for subject in subjects {
        let text = |(kind, text): &(DnType, &str)| (kind.clone(), (*text).to_owned());
        let asked = |names| Asked {
            subject: subject.iter().map(text).collect(),
            names,
        };
        let client = asked(Vec::new()).der();
        let serving = asked(Asked::serving().names).der();
        let wrong = [
            judge(client, Asked::serving().der(), Role::Worker, PEER),
            judge(Asked::client().der(), serving, Role::Worker, PEER),
        ];
        for (wrong, expected) in wrong.into_iter().zip([Signer::Client, Signer::Serving]) {
            let Err(RequestError::Subject { signer, .. }) = wrong else {
                panic!("{subject:?}: {wrong:?}")
            };
            assert_eq!(signer, expected);
        }
    }
}

#[test]
fn no_other_name() {
    let lists: [&[&str]; 8] = [
        &[],
        &[PEER],
        &["worker-1"],
        &["worker-0", "kubernetes"],
        &["worker-0", "kubernetes.default.svc"],
        &["worker-0", "worker-0"],
        &["worker-0", PEER, PEER],
        &["*"],
    ];
    for names in lists {
        let wrong = serve(names, Role::Worker, PEER);
        assert!(
            matches!(wrong, Err(RequestError::Names { .. })),
            "{names:?}: {wrong:?}"
        );
    }
    for name in [
        SanType::URI("spiffe://worker-0".try_into().unwrap()),
        SanType::Rfc822Name("worker-0".try_into().unwrap()),
    ] {
        let mut asked = Asked::serving();
        asked.names.push(name);
        let wrong = judge(Asked::client().der(), asked.der(), Role::Worker, PEER);
        assert!(
            matches!(wrong, Err(RequestError::Names { .. })),
            "{wrong:?}"
        );
    }
}

#[test]
fn no_address_but_its_own_and_none_of_an_api_server() {
    // Another one than the peer's: perhaps it was translated, so nothing final.
    let other = serve(&["worker-0", "10.0.0.8"], Role::Worker, PEER).unwrap_err();
    assert!(
        matches!(other, RequestError::OtherAddress { .. }),
        "{other}"
    );
    assert_eq!(other.class(), Class::Unavailable);
    for asked in ["10.0.0.1", "::1"] {
        let wrong = serve(&["worker-0", asked], Role::Worker, PEER);
        assert!(
            matches!(wrong, Err(RequestError::Address { .. })),
            "{asked}"
        );
    }
    // Its own, if the network says so; but what is there is somebody else.
    let reserved = [
        "10.0.0.1",
        "10.96.0.1",
        "10.111.255.255",
        "fd00:1::1",
        "127.0.0.1",
        "127.1.2.3",
        "::1",
        "0.0.0.0",
        "224.0.0.1",
    ];
    for address in reserved {
        let wrong = serve(&["worker-0", address], Role::Worker, address);
        assert!(
            matches!(wrong, Err(RequestError::Address { .. })),
            "{address}"
        );
    }
    serve(
        &["worker-0", "10.95.255.255"],
        Role::Worker,
        "10.95.255.255",
    )
    .unwrap();
    // A control-plane node is the endpoint, and has the authority's key.
    serve(&["worker-0", "10.0.0.1"], Role::ControlPlane, "10.0.0.1").unwrap();
    assert!(serve(&["worker-0", "10.96.0.1"], Role::ControlPlane, "10.96.0.1").is_err());
}

/// A range that nobody can read refuses everything.
#[test]
fn ranges() {
    let v4 = "10.96.0.1".parse().unwrap();
    for all in [
        "",
        "10.96.0.0",
        "10.96.0.0/33",
        "x/8",
        "10.0.0.0/8,nonsense",
        "0.0.0.0/0",
    ] {
        assert!(contains(all, v4), "{all}");
    }
    for none in ["10.97.0.0/16", "fd00::/8", "10.96.0.0/32"] {
        assert!(!contains(none, v4), "{none}");
    }
    assert!(contains("fd00::/8", "fd12::1".parse().unwrap()));
    assert!(contains("::/0", "fd12::1".parse().unwrap()));
}

#[test]
fn no_name_of_the_api_server() {
    for name in ["kubernetes", "localhost", "api"] {
        let asked = |names: Vec<SanType>| Asked {
            subject: vec![
                (DnType::OrganizationName, "system:nodes".into()),
                (DnType::CommonName, format!("system:node:{name}")),
            ],
            names,
        };
        let serving = asked(vec![SanType::DnsName(name.try_into().unwrap())]).der();
        let parsed = parse(asked(Vec::new()).der(), serving).unwrap();
        let facts = KubernetesMaterial {
            api_endpoint: "API.:6443".into(),
            ..cluster()
        };
        let node = name.parse().unwrap();
        assert!(parsed.are_of(&node));
        let wrong = parsed.check(&node, Role::ControlPlane, PEER.parse().unwrap(), &facts);
        assert!(
            matches!(wrong, Err(RequestError::Reserved(_))),
            "{name}: {wrong:?}"
        );
    }
}

#[test]
fn nothing_but_names() {
    let mut params = Asked::serving().params();
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let with_usage = signed(&params);
    let mut params = Asked::client().params();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let with_purpose = signed(&params);
    for (client, serving) in [
        (Asked::client().der(), with_usage),
        (with_purpose, Asked::serving().der()),
        (Asked::serving().der(), Asked::serving().der()),
    ] {
        let wrong = judge(client, serving, Role::Worker, PEER);
        assert!(
            matches!(wrong, Err(RequestError::Extension(_))),
            "{wrong:?}"
        );
    }
}

#[test]
fn no_other_key_and_none_that_is_somebody_elses() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let request = Asked::client().params().serialize_request(&key).unwrap();
    let wrong = parse(request.der().to_vec(), Asked::serving().der());
    assert!(
        matches!(wrong, Err(RequestError::Key(Signer::Client))),
        "{wrong:?}"
    );
    let mut forged = Asked::serving().der();
    *forged.last_mut().unwrap() ^= 1;
    let wrong = parse(Asked::client().der(), forged);
    assert!(matches!(
        wrong,
        Err(RequestError::Signature(Signer::Serving) | RequestError::Malformed { .. })
    ));
}

/// Every byte counts: a changed request is malformed or refused, and never panics.
#[test]
fn hostile_bytes() {
    let honest = Asked::serving().der();
    for index in 0..honest.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut hostile = honest.clone();
            hostile[index] ^= flip;
            let judged = judge(Asked::client().der(), hostile, Role::Worker, PEER);
            assert!(judged.is_err(), "byte {index} by {flip:#x}");
        }
    }
    for length in 0..honest.len() {
        assert!(parse(Asked::client().der(), honest[..length].to_vec()).is_err());
    }
    let mut longer = honest;
    longer.push(0);
    assert!(parse(Asked::client().der(), longer).is_err());
}

#[test]
fn the_object_is_named_after_node_and_request() {
    let (client, serving) = (Asked::client().der(), Asked::serving().der());
    let named = |client: &[u8]| {
        let parsed = parse(client.to_vec(), serving.clone()).unwrap();
        let node = "worker-0".parse().unwrap();
        let checked = parsed.check(&node, Role::Worker, PEER.parse().unwrap(), &cluster());
        let checked = checked.unwrap();
        [Signer::Client, Signer::Serving].map(|signer| checked.object_name(signer))
    };
    let [one, other] = named(&client);
    assert_ne!(one, other);
    assert_eq!(named(&client)[0], one);
    assert_ne!(named(&Asked::client().der())[0], one);
    assert!(one.len() < 253 && one.starts_with("constellation-kubelet-client-"));
}

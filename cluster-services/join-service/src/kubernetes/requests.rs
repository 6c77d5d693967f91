//! What a node asks to be certified: PKCS #10, read as hostile bytes, and the rules for it.
//!
//! The authority that signs kubelet certificates is the cluster's own, which every client of the API
//! server trusts. So a request may name its node and nothing else, and no name or address that is, or
//! might be, an API server's.

use api::{CertificateRequests, Class};
use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey},
};
use hand_off::KubernetesMaterial;
use identity::{NodeName, Role};
use std::{fmt, net::IpAddr};
use x509_cert::{
    attr::AttributeTypeAndValue,
    der::{
        Decode, Encode,
        asn1::{ObjectIdentifier, PrintableStringRef, Utf8StringRef},
        oid::db::{rfc4519, rfc5280, rfc5912},
    },
    ext::pkix::{SubjectAltName, name::GeneralName},
    name::Name,
    request::{CertReq, ExtensionReq},
};

/// The two certificates of a kubelet, by who signs them (Kubernetes, "Certificate Signing Requests").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signer {
    /// To the API server.
    Client,
    /// For whoever asks the kubelet.
    Serving,
}

/// Why nothing is certified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// An address that an API server might have, or nobody.
    #[error("{signer}: address {got}, which might be an API server's")]
    Address {
        /// Which request.
        signer: Signer,
        /// The address in it.
        got: IpAddr,
    },
    /// An address other than the one that the peer dials from: another's, or there is a translation of
    /// addresses in between, for the operator to mend.
    #[error("{signer}: address {got}, expected none but the peer's {peer}")]
    OtherAddress {
        /// Which request.
        signer: Signer,
        /// The address in it.
        got: IpAddr,
        /// Where the peer dials from.
        peer: IpAddr,
    },
    /// A node of a cluster asked for no certificates.
    #[error("no certificate requests")]
    Absent,
    /// It asks for more than a subject and names.
    #[error("{0}: an attribute or extension that is not allowed")]
    Extension(Signer),
    /// The key is not on P-256.
    #[error("{0}: not a key on P-256")]
    Key(Signer),
    /// It is not PKCS #10.
    #[error("{signer}: malformed")]
    Malformed {
        /// Which request.
        signer: Signer,
        /// Where.
        source: x509_cert::der::Error,
    },
    /// A name other than the node's.
    #[error("{signer}: name `{got}`, expected `{expected}` once and nothing else")]
    Names {
        /// Which request.
        signer: Signer,
        /// The name in it.
        got: String,
        /// The node's.
        expected: String,
    },
    /// The node's name is one of the API server's.
    #[error("node name `{0}` is a name of the API server")]
    Reserved(NodeName),
    /// Whoever asks does not have the key.
    #[error("{0}: not signed by its own key")]
    Signature(Signer),
    /// The subject is not a node's, or not this node's.
    #[error("{signer}: subject `{got}`, expected `O=system:nodes, CN=system:node:{expected}`")]
    Subject {
        /// Which request.
        signer: Signer,
        /// The subject in it.
        got: String,
        /// The node's name.
        expected: String,
    },
}

/// Both requests of a node, well-formed and by the holders of their keys. What they ask for was not
/// judged yet.
#[derive(Debug)]
pub struct ParsedRequests {
    client: Request,
    serving: Request,
}

/// Both requests of one node, which may be certified.
#[derive(Debug)]
pub struct CheckedRequests {
    node: NodeName,
    client: Request,
    serving: Request,
}

/// One request.
#[derive(Debug)]
pub(super) struct Request {
    /// As it was received.
    pub(super) der: Vec<u8>,
    /// The key, DER of its SubjectPublicKeyInfo.
    pub(super) public_key: Vec<u8>,
    pub(super) subject: Name,
    /// `None` where there is no extension.
    pub(super) names: Option<Vec<GeneralName>>,
}

/// Group of every kubelet (Kubernetes, "Using Node Authorization").
const GROUP: &str = "system:nodes";
const USER: &str = "system:node:";

/// Names of one label under which an API server is asked for, inside a cluster and on its machines.
const RESERVED: [&str; 2] = ["kubernetes", "localhost"];

impl ParsedRequests {
    /// Parses both requests and checks that whoever made them has the keys.
    ///
    /// # Errors
    /// [`RequestError`] names the request.
    pub fn parse(requests: CertificateRequests) -> Result<Self, RequestError> {
        Ok(Self {
            client: Request::parse(requests.kubelet_client, Signer::Client)?,
            serving: Request::parse(requests.kubelet_serving, Signer::Serving)?,
        })
    }

    /// Whether both ask for this node.
    #[must_use]
    pub fn are_of(&self, node: &NodeName) -> bool {
        [&self.client, &self.serving]
            .iter()
            .all(|request| request.is_of(node))
    }

    /// Judges what is asked for: by the node of this name and role, which dials from `peer`.
    ///
    /// # Errors
    /// [`RequestError`] says what is too much.
    pub fn check(
        self,
        node: &NodeName,
        role: Role,
        peer: IpAddr,
        cluster: &KubernetesMaterial,
    ) -> Result<CheckedRequests, RequestError> {
        if RESERVED.contains(&node.as_str())
            || endpoint_host(cluster).eq_ignore_ascii_case(node.as_str())
        {
            return Err(RequestError::Reserved(node.clone()));
        }
        self.client.check_subject(node, Signer::Client)?;
        self.serving.check_subject(node, Signer::Serving)?;
        if self.client.names.is_some() {
            return Err(RequestError::Extension(Signer::Client));
        }
        let served = Served {
            node,
            role,
            peer,
            cluster,
        };
        served.check(self.serving.names.as_deref().unwrap_or_default())?;
        Ok(CheckedRequests {
            node: node.clone(),
            client: self.client,
            serving: self.serving,
        })
    }
}

impl CheckedRequests {
    /// The node.
    #[must_use]
    pub const fn node(&self) -> &NodeName {
        &self.node
    }

    pub(super) const fn request(&self, signer: Signer) -> &Request {
        match signer {
            Signer::Client => &self.client,
            Signer::Serving => &self.serving,
        }
    }

    /// The name of the object: the same request of the same node is the same object, whichever replica
    /// makes it and however often.
    pub(super) fn object_name(&self, signer: Signer) -> String {
        let node = self.node.as_str().as_bytes();
        let input = [node, b"\0", &self.request(signer).der].concat();
        let hash = digest(&SHA256, &input);
        format!("constellation-{signer}-{}", hex::encode(hash))
    }
}

impl Request {
    fn parse(der: Vec<u8>, signer: Signer) -> Result<Self, RequestError> {
        let malformed = |source| RequestError::Malformed { signer, source };
        let request = CertReq::from_der(&der).map_err(malformed)?;
        let key = &request.info.public_key;
        let parameters = key.algorithm.parameters.as_ref();
        let curve = parameters.and_then(|curve| curve.decode_as().ok());
        if key.algorithm.oid != rfc5912::ID_EC_PUBLIC_KEY || curve != Some(rfc5912::SECP_256_R_1) {
            return Err(RequestError::Key(signer));
        }
        let signed = x509::signed_part(&der).zip(request.signature.as_bytes());
        let point = key.subject_public_key.as_bytes();
        let (signed, point) = signed.zip(point).ok_or(RequestError::Signature(signer))?;
        if request.algorithm.oid != rfc5912::ECDSA_WITH_SHA_256
            || request.algorithm.parameters.is_some()
        {
            return Err(RequestError::Signature(signer));
        }
        let verifier = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
        verifier
            .verify(signed.0, signed.1)
            .map_err(|_| RequestError::Signature(signer))?;
        Ok(Self {
            public_key: key.to_der().map_err(malformed)?,
            names: names(&request, signer)?,
            subject: request.info.subject,
            der,
        })
    }

    fn is_of(&self, node: &NodeName) -> bool {
        is_subject_of(&self.subject, node)
    }

    fn check_subject(&self, node: &NodeName, signer: Signer) -> Result<(), RequestError> {
        if self.is_of(node) {
            return Ok(());
        }
        Err(RequestError::Subject {
            signer,
            got: self.subject.to_string(),
            expected: node.to_string(),
        })
    }
}

/// Exactly the group and the node's user, each once, in either order.
pub(super) fn is_subject_of(subject: &Name, node: &NodeName) -> bool {
    let attributes: Vec<_> = subject.iter().collect();
    let has = |oid, text: &str| {
        let is_it = |attribute: &&&AttributeTypeAndValue| {
            attribute.oid == oid && text_of(attribute) == Some(text)
        };
        attributes.iter().filter(is_it).count() == 1
    };
    let user = format!("{USER}{node}");
    attributes.len() == 2 && has(rfc4519::ORGANIZATION_NAME, GROUP) && has(rfc4519::CN, &user)
}

fn text_of(attribute: &AttributeTypeAndValue) -> Option<&str> {
    let utf8 = attribute.value.decode_as::<Utf8StringRef<'_>>();
    let printable = || attribute.value.decode_as::<PrintableStringRef<'_>>();
    match utf8 {
        Ok(text) => Some(text.as_str()),
        Err(_) => printable().ok().map(|text| text.as_str()),
    }
}

/// The names that are asked for; nothing but names may be.
fn names(request: &CertReq, signer: Signer) -> Result<Option<Vec<GeneralName>>, RequestError> {
    let malformed = |source| RequestError::Malformed { signer, source };
    let attributes: Vec<_> = request.info.attributes.iter().collect();
    let attribute = match attributes.as_slice() {
        [] => return Ok(None),
        [one] if one.oid == ID_EXTENSION_REQUEST => one,
        _ => return Err(RequestError::Extension(signer)),
    };
    let [value] = attribute.values.as_slice() else {
        return Err(RequestError::Extension(signer));
    };
    let extensions: ExtensionReq = value.decode_as().map_err(malformed)?;
    match extensions.0.as_slice() {
        [] => Ok(None),
        [one] if one.extn_id == rfc5280::ID_CE_SUBJECT_ALT_NAME => {
            let names = SubjectAltName::from_der(one.extn_value.as_bytes()).map_err(malformed)?;
            Ok(Some(names.0))
        }
        _ => Err(RequestError::Extension(signer)),
    }
}

/// RFC 2985, section 5.4.2.
const ID_EXTENSION_REQUEST: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.14");

/// Whose serving certificate it is to be.
struct Served<'a> {
    node: &'a NodeName,
    role: Role,
    peer: IpAddr,
    cluster: &'a KubernetesMaterial,
}

impl Served<'_> {
    /// The node's name once, and at most the address that it dials from.
    fn check(&self, names: &[GeneralName]) -> Result<(), RequestError> {
        let signer = Signer::Serving;
        let wrong = |got: String| RequestError::Names {
            signer,
            got,
            expected: self.node.to_string(),
        };
        let (mut dns, mut addresses) = (0, 0);
        for name in names {
            match name {
                GeneralName::DnsName(name) if name.as_str() == self.node.as_str() => dns += 1,
                GeneralName::DnsName(name) => return Err(wrong(name.to_string())),
                GeneralName::IpAddress(bytes) => {
                    let bytes = bytes.as_bytes();
                    let got = address(bytes).ok_or_else(|| wrong(hex::encode(bytes)))?;
                    self.check_address(got)?;
                    addresses += 1;
                }
                _ => return Err(wrong("of another type".into())),
            }
        }
        if dns == 1 && addresses <= 1 {
            return Ok(());
        }
        Err(wrong(format!("{dns} names and {addresses} addresses")))
    }

    /// The signer's authority also vouches for the API server: whoever gets an address of one can
    /// pose as it. A control-plane node is one, and has the authority's key.
    fn check_address(&self, got: IpAddr) -> Result<(), RequestError> {
        let is_endpoint =
            self.role == Role::Worker && endpoint_host(self.cluster).parse() == Ok(got);
        let is_service = contains(&self.cluster.service_subnet, got);
        let nobody = got.is_loopback() || got.is_unspecified() || got.is_multicast();
        let (signer, peer) = (Signer::Serving, self.peer);
        if is_endpoint || is_service || nobody {
            return Err(RequestError::Address { signer, got });
        }
        if got != peer {
            return Err(RequestError::OtherAddress { signer, got, peer });
        }
        Ok(())
    }
}

/// The host of `host:port`, where an address of IPv6 is in brackets and a name may end in a dot.
fn endpoint_host(cluster: &KubernetesMaterial) -> &str {
    let endpoint = cluster.api_endpoint.as_str();
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    let host = host.trim_end_matches('.');
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Whether a range in CIDR notation, or one of several after commas, has the address. What does not
/// parse has every address.
fn contains(ranges: &str, address: IpAddr) -> bool {
    ranges.split(',').any(|range| {
        let Some((network, bits)) = range.trim().split_once('/') else {
            return true;
        };
        match (network.parse(), bits.parse::<u32>(), address) {
            (Ok(IpAddr::V4(network)), Ok(bits @ 0..=32), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            (Ok(IpAddr::V6(network)), Ok(bits @ 0..=128), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            (Ok(IpAddr::V4(_)), Ok(0..=32), IpAddr::V6(_))
            | (Ok(IpAddr::V6(_)), Ok(0..=128), IpAddr::V4(_)) => false,
            _ => true,
        }
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| v6()).ok()
}

impl RequestError {
    /// Who is to blame.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Absent | Self::Malformed { .. } => Class::Malformed,
            Self::OtherAddress { .. } => Class::Unavailable,
            _ => Class::Refused,
        }
    }
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "kubelet-client",
            Self::Serving => "kubelet-serving",
        })
    }
}

#[cfg(test)]
mod tests;

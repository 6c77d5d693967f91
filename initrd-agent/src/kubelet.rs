//! The kubelet's keys: made anew in each boot, and asked to be certified along with the ticket.
//!
//! The agent does not know whether there is a Kubernetes behind the service it asks. It always asks,
//! which costs about a millisecond and a kilobyte; a service without one answers without material, and the keys are
//! dropped.

use api::CertificateRequests;
use identity::NodeName;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use std::net::IpAddr;
use zeroize::Zeroizing;

/// Group of every kubelet (Kubernetes, "Using Node Authorization").
const GROUP: &str = "system:nodes";

/// Two keys and the requests to certify them for one name.
pub struct KubeletKeys {
    /// The name in the requests.
    pub name: NodeName,
    /// The requests.
    pub requests: CertificateRequests,
    /// The private keys of client and serving certificate: PKCS #8, PEM.
    pub keys: [Zeroizing<String>; 2],
}

/// No keys or no requests.
#[derive(Debug, thiserror::Error)]
#[error("ask for the kubelet's certificates")]
pub struct KubeletKeysError(#[from] rcgen::Error);

impl KubeletKeys {
    /// Makes P-256 keys for the node of this name, which dials from `address` if that is known.
    ///
    /// # Errors
    /// When the library fails.
    pub fn make(name: &NodeName, address: Option<IpAddr>) -> Result<Self, KubeletKeysError> {
        let mut names = vec![SanType::DnsName(name.as_str().try_into()?)];
        names.extend(address.map(|address| SanType::IpAddress(address.to_canonical())));
        let (kubelet_client, client) = request(name, Vec::new())?;
        let (kubelet_serving, serving) = request(name, names)?;
        Ok(Self {
            name: name.clone(),
            requests: CertificateRequests {
                kubelet_client,
                kubelet_serving,
            },
            keys: [client, serving],
        })
    }
}

impl std::fmt::Debug for KubeletKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KubeletKeys({})", self.name)
    }
}

/// PKCS #10, DER, and its key. The signers of Kubernetes allow no extension but the names.
fn request(
    name: &NodeName,
    names: Vec<SanType>,
) -> Result<(Vec<u8>, Zeroizing<String>), rcgen::Error> {
    let key = Zeroizing::new(KeyPair::generate()?);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, GROUP);
    params
        .distinguished_name
        .push(DnType::CommonName, format!("system:node:{name}"));
    params.subject_alt_names = names;
    let request = params.serialize_request(&*key)?;
    Ok((request.der().to_vec(), Zeroizing::new(key.serialize_pem())))
}

#[cfg(test)]
mod tests;

use crate::secrets::{Secrets, SecretsError};
use hand_off::{AdmissionMaterial, ClusterMaterial, ControlPlaneFiles, KubernetesMaterial};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the templates are filled with.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Values {
    /// The tag of the images, the version of this release.
    pub version: String,
    /// The cluster as its nodes see it.
    pub kubernetes: KubernetesMaterial,
    /// Where nodes mount their state disk.
    pub state_folder: String,
    /// What nodes attest with.
    pub attestation: Attestation,
    /// What an init writes once. `None` for an upgrade, which leaves it alone.
    pub cluster: Option<Cluster>,
}

/// What nodes attest with. The default is what machines have; nodes that are none have other paths.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// Where the measured command line is, which names the kind of evidence.
    pub command_line: String,
    /// The TPM: a device, or `unix:` and the path of a socket.
    pub tpm: String,
}

/// The measured command line of a machine.
const COMMAND_LINE: &str = "/proc/cmdline";

impl Default for Attestation {
    fn default() -> Self {
        Self {
            command_line: COMMAND_LINE.into(),
            tpm: "/dev/tpmrm0".into(),
        }
    }
}

impl Attestation {
    /// Paths of the node that the pod needs beyond the devices, which a privileged one sees.
    fn host_paths(&self) -> Vec<&str> {
        let command_line = Some(self.command_line.as_str()).filter(|path| *path != COMMAND_LINE);
        let socket = self.tpm.strip_prefix("unix:");
        command_line.into_iter().chain(socket).collect()
    }
}

/// What is written once, by the init of a cluster.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The master secret and its parameters.
    pub keys: ClusterMaterial,
    /// The join service's admission key.
    pub admission: AdmissionMaterial,
    /// The policy, as the owner signed it.
    pub policy: String,
    /// The reference values, as the owner signed them.
    pub reference_values: String,
    /// What makes a control-plane node.
    pub control_plane_files: ControlPlaneFiles,
}

/// A folder on a node's state disk that a service writes to. Whoever sets up the node makes it,
/// mode 0700, for this user and group alone; without it the service's pod does not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFolder {
    /// The folder.
    pub path: String,
    /// The user and group.
    pub user: u32,
    /// Whether every node needs it, or control-plane nodes alone.
    pub every_node: bool,
}

/// The range of Services is no address range, or has no room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("service subnet `{0}`: expected an address range with room for 16 addresses")]
pub struct SubnetError(pub String);

/// Users of the services inside their pods; of no meaning anywhere else.
const JOIN_SERVICE_USER: u32 = 65_532;
const KEY_SERVICE_USER: u32 = 65_533;

/// Which address of the Services' range the key service has. kubeadm takes the first for the API
/// server and the tenth for the cluster's name service.
const KEY_SERVICE_OFFSET: u8 = 9;

/// The port of the API server where the endpoint does not say.
const API_PORT: u16 = 6443;

impl Values {
    /// The folders that nodes must have before the services' pods start.
    #[must_use]
    pub fn host_folders(&self) -> Vec<HostFolder> {
        let Folders {
            join_service_audit,
            join_service_endorsements,
            key_service_audit,
        } = self.folders();
        [
            (join_service_audit, JOIN_SERVICE_USER),
            (join_service_endorsements, JOIN_SERVICE_USER),
            (key_service_audit, KEY_SERVICE_USER),
        ]
        .map(|(path, user)| HostFolder {
            path,
            user,
            every_node: false,
        })
        .into()
    }

    /// The address of the key service, the same for the life of the cluster.
    ///
    /// # Errors
    /// [`SubnetError`].
    pub fn key_service_ip(&self) -> Result<IpAddr, SubnetError> {
        let subnet = &self.kubernetes.service_subnet;
        nth(subnet, KEY_SERVICE_OFFSET).ok_or_else(|| SubnetError(subnet.clone()))
    }

    fn folders(&self) -> Folders {
        let folder = |name: &str| format!("{}/constellation/{name}", self.state_folder);
        Folders {
            join_service_audit: folder("join-service/audit"),
            join_service_endorsements: folder("join-service/endorsements"),
            key_service_audit: folder("key-service/audit"),
        }
    }
}

/// What the templates see of [`Values`].
#[derive(Serialize)]
pub(crate) struct View<'a> {
    kubernetes: &'a KubernetesMaterial,
    api_port: u16,
    attestation: AttestationView<'a>,
    folders: Folders,
    images: Images,
    key_service_address: String,
    key_service_ip: String,
    listen: Listen,
    users: Users,
    #[serde(flatten)]
    cluster: Option<Secrets<'a>>,
}

#[derive(Serialize)]
struct AttestationView<'a> {
    command_line: &'a str,
    host_paths: Vec<&'a str>,
    tpm: &'a str,
}

#[derive(Serialize)]
struct Folders {
    join_service_audit: String,
    join_service_endorsements: String,
    key_service_audit: String,
}

#[derive(Serialize)]
struct Images {
    join_service: String,
    key_service: String,
    verification_service: String,
}

#[derive(Serialize)]
struct Listen {
    admin: String,
    join_service: String,
    key_service: String,
    verification_grpc: String,
    verification_http: String,
}

#[derive(Serialize)]
struct Users {
    join_service: u32,
    key_service: u32,
}

/// Why values make no view.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ViewError {
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error(transparent)]
    Subnet(#[from] SubnetError),
}

impl<'a> View<'a> {
    pub(crate) fn new(values: &'a Values) -> Result<Self, ViewError> {
        let ip = values.key_service_ip()?;
        let any: IpAddr = match ip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let listen = |port: u16| std::net::SocketAddr::new(any, port).to_string();
        let image = |name| format!("constellation.internal/{name}:{}", values.version);
        let cluster = values.cluster.as_ref();
        Ok(Self {
            kubernetes: &values.kubernetes,
            api_port: api_port(&values.kubernetes.api_endpoint),
            attestation: AttestationView {
                command_line: &values.attestation.command_line,
                host_paths: values.attestation.host_paths(),
                tpm: &values.attestation.tpm,
            },
            folders: values.folders(),
            images: Images {
                join_service: image("join-service"),
                key_service: image("key-service"),
                verification_service: image("verification-service"),
            },
            key_service_address: std::net::SocketAddr::new(ip, 9000).to_string(),
            key_service_ip: ip.to_string(),
            listen: Listen {
                admin: listen(9001),
                join_service: listen(30090),
                key_service: listen(9000),
                verification_grpc: listen(30081),
                verification_http: listen(30080),
            },
            users: Users {
                join_service: JOIN_SERVICE_USER,
                key_service: KEY_SERVICE_USER,
            },
            cluster: cluster.map(Secrets::new).transpose()?,
        })
    }
}

/// What follows the last colon, unless that is inside an IPv6 address.
fn api_port(endpoint: &str) -> u16 {
    let port = endpoint.rsplit_once(':').map(|(_, port)| port.parse());
    port.and_then(Result::ok).unwrap_or(API_PORT)
}

/// Address `offset` of a range in CIDR notation; of several, separated by commas, of the first.
fn nth(subnet: &str, offset: u8) -> Option<IpAddr> {
    let (network, length) = subnet.split(',').next()?.split_once('/')?;
    let length: u32 = length.parse().ok()?;
    match network.parse().ok()? {
        IpAddr::V4(network) => {
            let mask = u32::MAX.checked_shl(32_u32.checked_sub(length)?);
            let first = u32::from(network) & mask.unwrap_or(0);
            (length <= 28).then(|| Ipv4Addr::from(first + u32::from(offset)).into())
        }
        IpAddr::V6(network) => {
            let mask = u128::MAX.checked_shl(128_u32.checked_sub(length)?);
            let first = u128::from(network) & mask.unwrap_or(0);
            (length <= 124).then(|| Ipv6Addr::from(first + u128::from(offset)).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_service_has_a_fixed_address_in_the_range() {
        for (subnet, address) in [
            ("10.96.0.0/12", "10.96.0.9"),
            ("10.97.1.7/12", "10.96.0.9"),
            ("10.96.0.0/28", "10.96.0.9"),
            ("10.96.0.0/12,fd00::/112", "10.96.0.9"),
            ("fd00:1::/112", "fd00:1::9"),
        ] {
            assert_eq!(nth(subnet, 9), address.parse().ok(), "{subnet}");
        }
        for bad in [
            "",
            "10.96.0.0",
            "10.96.0.0/29",
            "10.96.0.0/33",
            "fd00::/125",
            "x/8",
        ] {
            assert_eq!(nth(bad, 9), None, "{bad}");
        }
    }

    #[test]
    fn the_port_of_the_api_server_is_in_its_endpoint() {
        assert_eq!(api_port("10.0.0.1:443"), 443);
        assert_eq!(api_port("[fd00::1]:8443"), 8443);
        assert_eq!(api_port("api.example"), API_PORT);
    }
}

//! What the phases of a run work on.

use crate::{
    config::Config,
    program::{Program, ProgramError},
    progress::Progress,
    state::{Origin, State, StateError, StateFile},
    templates::Subject,
    version::{KubernetesVersion, UnknownVersion},
};
use evidence::AdmissionPath;
use hand_off::{HandOff, InitMaterial, JoinMaterial, KubernetesMaterial, ReadError};
use identity::Role;
use std::{
    io,
    net::{IpAddr, ToSocketAddrs as _, UdpSocket},
    sync::Arc,
};

/// What came with the admission of this boot.
#[derive(Debug)]
pub enum Material {
    /// Of an init, for the first node.
    Init(Box<InitMaterial>),
    /// Of a join or rejoin.
    Join(Box<JoinMaterial>),
    /// None: a recovery, or a boot whose material was used already.
    None,
}

/// The node that is being made.
#[derive(Debug)]
pub struct Node {
    /// The configuration.
    pub config: Config,
    /// What the agent said.
    pub hand_off: HandOff,
    /// What came along.
    pub material: Material,
    /// What was done so far.
    pub state: StateFile,
    /// This node's address.
    pub address: IpAddr,
    /// The version of the kubelet.
    pub version: KubernetesVersion,
    /// Who follows.
    pub progress: Arc<Progress>,
}

/// A boot of which no node can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The node's address is not to be found.
    #[error("no address of this node leads to the API endpoint `{endpoint}`")]
    Address {
        /// The API endpoint.
        endpoint: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The hand-off cannot be read.
    #[error("no hand-off of the agent")]
    HandOff(#[source] ReadError),
    /// A document of the hand-off is of another time.
    #[error("`{what}` of the hand-off has format version {got}, expected 1")]
    HandOffVersion {
        /// Which document.
        what: &'static str,
        /// What it says.
        got: u32,
    },
    /// The first boot of a node came without material: there is nothing to make a node of.
    #[error(
        "the admission of this boot brought no material, and this node never was part of a cluster: \
         `constellation node forget` it and let it join again"
    )]
    NoMaterial,
    /// The state file does not serve.
    #[error("the state of this node cannot be used")]
    State(#[source] StateError),
    /// The kubelet does not say its version.
    #[error("the kubelet does not say its version")]
    Kubelet(#[source] ProgramError),
    /// The kubelet is of a version that is not supported.
    #[error("unsupported kubelet")]
    Version(#[source] UnknownVersion),
}

impl Node {
    /// Reads the hand-off and the state, or begins the state.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn read(config: Config) -> Result<Self, NodeError> {
        let hand_off = HandOff::read(&config.hand_off).map_err(NodeError::HandOff)?;
        expect_version("handoff.json", hand_off.version)?;
        let material = read_material(&config, &hand_off)?;
        let state = state(&config, &hand_off, &material)?;
        let address = match config.node_address {
            Some(address) => address,
            None => address_towards(&state.get().kubernetes.api_endpoint)?,
        };
        let version = Program::new(
            &config.programs.kubelet,
            ["--version"],
            config.limits.program_seconds.duration(),
        );
        let version = version.output().await.map_err(NodeError::Kubelet)?;
        Ok(Self {
            version: version.parse().map_err(NodeError::Version)?,
            config,
            hand_off,
            material,
            state,
            address,
            progress: Arc::default(),
        })
    }

    /// The cluster.
    #[must_use]
    pub const fn kubernetes(&self) -> &KubernetesMaterial {
        &self.state.get().kubernetes
    }

    /// Whether this node runs a control plane.
    #[must_use]
    pub fn is_control_plane(&self) -> bool {
        self.hand_off.role == Role::ControlPlane
    }

    /// What templates are filled with.
    #[must_use]
    pub const fn subject(&self) -> Subject<'_> {
        Subject {
            config: &self.config,
            kubernetes: self.kubernetes(),
            node_name: &self.hand_off.node_name,
            address: self.address,
            version: self.version,
        }
    }
}

fn read_material(config: &Config, hand_off: &HandOff) -> Result<Material, NodeError> {
    let folder = &config.hand_off;
    let material = match hand_off.path {
        AdmissionPath::Init => hand_off::read_material::<InitMaterial>(folder)
            .map_err(NodeError::HandOff)?
            .map(|material| (material.version, Material::Init(Box::new(material)))),
        AdmissionPath::Join | AdmissionPath::Rejoin => {
            hand_off::read_material::<JoinMaterial>(folder)
                .map_err(NodeError::HandOff)?
                .map(|material| (material.version, Material::Join(Box::new(material))))
        }
        AdmissionPath::Recover => None,
    };
    let Some((version, material)) = material else {
        return Ok(Material::None);
    };
    expect_version("material.json", version)?;
    Ok(material)
}

const fn expect_version(what: &'static str, got: u32) -> Result<(), NodeError> {
    match got {
        1 => Ok(()),
        _other => Err(NodeError::HandOffVersion { what, got }),
    }
}

fn state(config: &Config, hand_off: &HandOff, material: &Material) -> Result<StateFile, NodeError> {
    let (origin, kubernetes) = match material {
        Material::Init(material) => (Origin::Init, Some(&material.kubernetes)),
        Material::Join(material) => (Origin::Join, Some(&material.kubernetes)),
        Material::None => (Origin::Join, None),
    };
    if let Some(mut file) = StateFile::load(&config.state, hand_off).map_err(NodeError::State)? {
        // Of an init the same parameters come again; a ticket brings what changed since.
        if let Some(kubernetes) = kubernetes.filter(|new| **new != file.get().kubernetes) {
            file.change(|state| state.kubernetes = kubernetes.clone())
                .map_err(NodeError::State)?;
        }
        return Ok(file);
    }
    let state = State {
        version: 1,
        cluster_id: hand_off.cluster_id,
        node_name: hand_off.node_name.clone(),
        role: hand_off.role,
        disk_uuid: hand_off.disk_uuid,
        origin,
        kubernetes: kubernetes.ok_or(NodeError::NoMaterial)?.clone(),
        done: Vec::new(),
        images: std::collections::BTreeMap::new(),
    };
    StateFile::create(&config.state, state).map_err(NodeError::State)
}

/// The address that packets to the API endpoint leave from. Nothing is sent.
fn address_towards(endpoint: &str) -> Result<IpAddr, NodeError> {
    let address = || {
        let peer = endpoint
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| io::Error::other("the name has no address"))?;
        let any: IpAddr = if peer.is_ipv4() {
            std::net::Ipv4Addr::UNSPECIFIED.into()
        } else {
            std::net::Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(peer)?;
        Ok(socket.local_addr()?.ip())
    };
    address().map_err(|source| NodeError::Address {
        endpoint: endpoint.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;

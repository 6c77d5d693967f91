//! Ticket messages to and from domain values.

use identity::{ClusterId, DiskId, Generation, KeyVersion, NodeName, Role};
use owner::AkCertificate;

use crate::{
    Malformed, join,
    malformed::{filled, fixed, name, required},
};

/// A certificate request is one key and one name; this is several times that.
const MAX_CERTIFICATE_REQUEST: usize = 8 << 10;

/// The longest sealed secret but for material: a data key is far below.
const MAX_CIPHERTEXT: usize = 1 << 10;

/// The longest sealed material: certificates, keys of a control plane, an owner's two documents.
const MAX_MATERIAL: usize = 1 << 20;

/// A secret that only the attester's sealing key opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSecret {
    /// The encapsulated key of DHKEM(X25519, HKDF-SHA256) (RFC 9180, section 7.1).
    pub encapsulated_key: [u8; 32],
    /// The ciphertext with its tag.
    pub ciphertext: Vec<u8>,
}

/// What a new node asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinTicketRequest {
    /// The uuid that `RegisterDisk` minted.
    pub disk: DiskId,
    /// The name it wants.
    pub node_name: NodeName,
    /// The role it wants.
    pub role: Role,
    /// What the kubelet's certificates are asked for with; absent outside Kubernetes.
    pub certificate_requests: Option<CertificateRequests>,
}

/// PKCS #10 certification requests (RFC 2986), DER. Nothing in them is parsed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequests {
    /// For the kubelet's client certificate.
    pub kubelet_client: Vec<u8>,
    /// For the kubelet's serving certificate.
    pub kubelet_serving: Vec<u8>,
}

/// What a new node gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinTicket {
    /// The cluster it joined.
    pub cluster_id: ClusterId,
    /// The version under which the data key was derived.
    pub key_version: KeyVersion,
    /// The state disk's data key.
    pub data_key: SealedSecret,
    /// What the bootstrapper needs (crate `hand-off`); absent outside Kubernetes.
    pub material: Option<SealedSecret>,
    /// That the attestation key of this session is the machine's (`owner::AkCertificate`), as its signer
    /// wrote it: the node hands it on and is not its reader. Absent for evidence without a TPM's key.
    pub ak_certificate: Option<String>,
}

/// What the first node of a cluster asks for: the operator says what it will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitTicketRequest {
    /// The uuid that `RegisterDisk` gave.
    pub disk: DiskId,
}

/// What the first node of a cluster gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitTicket {
    /// As on a join.
    pub ticket: JoinTicket,
    /// The node's name.
    pub node_name: NodeName,
    /// The node's role.
    pub role: Role,
}

/// What a known node asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejoinTicketRequest {
    /// From the header of its disk.
    pub disk: DiskId,
    /// From the cleartext of the header.
    pub key_version: KeyVersion,
    /// As in [`JoinTicketRequest`].
    pub certificate_requests: Option<CertificateRequests>,
}

/// What a known node gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejoinTicket {
    /// The cluster the record belongs to.
    pub cluster_id: ClusterId,
    /// The recorded generation, 0 when no Commit was ever recorded; an older header is refused by the
    /// agent.
    pub generation: Generation,
    /// The state disk's data key.
    pub data_key: SealedSecret,
    /// The recorded name.
    pub node_name: NodeName,
    /// The recorded role.
    pub role: Role,
    /// As in [`JoinTicket`].
    pub material: Option<SealedSecret>,
    /// As in [`JoinTicket`].
    pub ak_certificate: Option<String>,
}

/// A header that is on the disk and was read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitRequest {
    /// The disk.
    pub disk: DiskId,
    /// The generation of its newest header.
    pub generation: Generation,
}

impl From<Role> for join::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::ControlPlane => Self::ControlPlane,
            Role::Worker => Self::Worker,
        }
    }
}

impl TryFrom<join::Role> for Role {
    type Error = Malformed;

    fn try_from(role: join::Role) -> Result<Self, Malformed> {
        match role {
            join::Role::Unspecified => Err(Malformed::Missing { field: "role" }),
            join::Role::ControlPlane => Ok(Self::ControlPlane),
            join::Role::Worker => Ok(Self::Worker),
        }
    }
}

impl From<SealedSecret> for join::SealedSecret {
    fn from(sealed: SealedSecret) -> Self {
        Self {
            encapsulated_key: sealed.encapsulated_key.to_vec(),
            ciphertext: sealed.ciphertext,
        }
    }
}

impl TryFrom<join::SealedSecret> for SealedSecret {
    type Error = Malformed;

    fn try_from(message: join::SealedSecret) -> Result<Self, Malformed> {
        sealed(message, MAX_CIPHERTEXT)
    }
}

impl From<CertificateRequests> for join::CertificateRequests {
    fn from(requests: CertificateRequests) -> Self {
        Self {
            kubelet_client: requests.kubelet_client,
            kubelet_serving: requests.kubelet_serving,
        }
    }
}

impl TryFrom<join::CertificateRequests> for CertificateRequests {
    type Error = Malformed;

    fn try_from(message: join::CertificateRequests) -> Result<Self, Malformed> {
        let request = |field, bytes| filled(field, bounded(field, MAX_CERTIFICATE_REQUEST, bytes)?);
        Ok(Self {
            kubelet_client: request(
                "certificate_requests.kubelet_client",
                message.kubelet_client,
            )?,
            kubelet_serving: request(
                "certificate_requests.kubelet_serving",
                message.kubelet_serving,
            )?,
        })
    }
}

impl From<JoinTicketRequest> for join::IssueJoinTicketRequest {
    fn from(request: JoinTicketRequest) -> Self {
        Self {
            disk_uuid: request.disk.to_string(),
            node_name: request.node_name.to_string(),
            role: join::Role::from(request.role).into(),
            certificate_requests: request.certificate_requests.map(Into::into),
        }
    }
}

impl TryFrom<join::IssueJoinTicketRequest> for JoinTicketRequest {
    type Error = Malformed;

    fn try_from(message: join::IssueJoinTicketRequest) -> Result<Self, Malformed> {
        Ok(Self {
            disk: name("disk_uuid", &message.disk_uuid)?,
            node_name: name("node_name", &message.node_name)?,
            role: role(message.role)?,
            certificate_requests: requests(message.certificate_requests)?,
        })
    }
}

impl From<JoinTicket> for join::IssueJoinTicketResponse {
    fn from(ticket: JoinTicket) -> Self {
        Self {
            cluster_id: ticket.cluster_id.as_bytes().to_vec(),
            key_version: ticket.key_version.0,
            data_key: Some(ticket.data_key.into()),
            material: ticket.material.map(Into::into),
            node_name: String::new(),
            role: join::Role::Unspecified.into(),
            ak_certificate: ticket.ak_certificate.unwrap_or_default(),
        }
    }
}

impl From<InitTicketRequest> for join::IssueJoinTicketRequest {
    fn from(request: InitTicketRequest) -> Self {
        Self {
            disk_uuid: request.disk.to_string(),
            ..Self::default()
        }
    }
}

impl TryFrom<join::IssueJoinTicketRequest> for InitTicketRequest {
    type Error = Malformed;

    fn try_from(message: join::IssueJoinTicketRequest) -> Result<Self, Malformed> {
        let request = Self {
            disk: name("disk_uuid", &message.disk_uuid)?,
        };
        // A node that says more asks for something else than an init.
        if message != request.into() {
            return Err(Malformed::Unexpected {
                field: "node_name, role or certificate_requests",
            });
        }
        Ok(request)
    }
}

impl From<InitTicket> for join::IssueJoinTicketResponse {
    fn from(ticket: InitTicket) -> Self {
        Self {
            node_name: ticket.node_name.to_string(),
            role: join::Role::from(ticket.role).into(),
            ..ticket.ticket.into()
        }
    }
}

impl TryFrom<join::IssueJoinTicketResponse> for InitTicket {
    type Error = Malformed;

    fn try_from(message: join::IssueJoinTicketResponse) -> Result<Self, Malformed> {
        Ok(Self {
            node_name: name("node_name", &message.node_name)?,
            role: role(message.role)?,
            ticket: message.try_into()?,
        })
    }
}

impl TryFrom<join::IssueJoinTicketResponse> for JoinTicket {
    type Error = Malformed;

    fn try_from(message: join::IssueJoinTicketResponse) -> Result<Self, Malformed> {
        Ok(Self {
            cluster_id: cluster_id(&message.cluster_id)?,
            key_version: key_version(message.key_version)?,
            data_key: required("data_key", message.data_key)?.try_into()?,
            material: material(message.material)?,
            ak_certificate: ak_certificate(message.ak_certificate)?,
        })
    }
}

impl From<RejoinTicketRequest> for join::IssueRejoinTicketRequest {
    fn from(request: RejoinTicketRequest) -> Self {
        Self {
            disk_uuid: request.disk.to_string(),
            key_version: request.key_version.0,
            certificate_requests: request.certificate_requests.map(Into::into),
        }
    }
}

impl TryFrom<join::IssueRejoinTicketRequest> for RejoinTicketRequest {
    type Error = Malformed;

    fn try_from(message: join::IssueRejoinTicketRequest) -> Result<Self, Malformed> {
        Ok(Self {
            disk: name("disk_uuid", &message.disk_uuid)?,
            key_version: key_version(message.key_version)?,
            certificate_requests: requests(message.certificate_requests)?,
        })
    }
}

impl From<RejoinTicket> for join::IssueRejoinTicketResponse {
    fn from(ticket: RejoinTicket) -> Self {
        Self {
            cluster_id: ticket.cluster_id.as_bytes().to_vec(),
            generation: ticket.generation.0,
            data_key: Some(ticket.data_key.into()),
            node_name: ticket.node_name.to_string(),
            role: join::Role::from(ticket.role).into(),
            material: ticket.material.map(Into::into),
            ak_certificate: ticket.ak_certificate.unwrap_or_default(),
        }
    }
}

impl TryFrom<join::IssueRejoinTicketResponse> for RejoinTicket {
    type Error = Malformed;

    fn try_from(message: join::IssueRejoinTicketResponse) -> Result<Self, Malformed> {
        Ok(Self {
            cluster_id: cluster_id(&message.cluster_id)?,
            // 0 is a value here: no Commit was ever recorded (docs/protocol.md, "Rejoin").
            generation: Generation(message.generation),
            data_key: required("data_key", message.data_key)?.try_into()?,
            node_name: name("node_name", &message.node_name)?,
            role: role(message.role)?,
            material: material(message.material)?,
            ak_certificate: ak_certificate(message.ak_certificate)?,
        })
    }
}

impl From<CommitRequest> for join::CommitRequest {
    fn from(request: CommitRequest) -> Self {
        Self {
            disk_uuid: request.disk.to_string(),
            generation: request.generation.0,
        }
    }
}

impl TryFrom<join::CommitRequest> for CommitRequest {
    type Error = Malformed;

    fn try_from(message: join::CommitRequest) -> Result<Self, Malformed> {
        Ok(Self {
            disk: name("disk_uuid", &message.disk_uuid)?,
            generation: generation(message.generation)?,
        })
    }
}

impl TryFrom<join::RegisterDiskResponse> for DiskId {
    type Error = Malformed;

    fn try_from(message: join::RegisterDiskResponse) -> Result<Self, Malformed> {
        name("disk_uuid", &message.disk_uuid)
    }
}

impl From<DiskId> for join::RegisterDiskResponse {
    fn from(disk: DiskId) -> Self {
        Self {
            disk_uuid: disk.to_string(),
        }
    }
}

impl TryFrom<join::CommitResponse> for Generation {
    type Error = Malformed;

    fn try_from(message: join::CommitResponse) -> Result<Self, Malformed> {
        generation(message.generation)
    }
}

fn sealed(message: join::SealedSecret, max: usize) -> Result<SealedSecret, Malformed> {
    Ok(SealedSecret {
        encapsulated_key: fixed("sealed.encapsulated_key", &message.encapsulated_key)?,
        ciphertext: filled(
            "sealed.ciphertext",
            bounded("sealed.ciphertext", max, message.ciphertext)?,
        )?,
    })
}

fn material(message: Option<join::SealedSecret>) -> Result<Option<SealedSecret>, Malformed> {
    message
        .map(|message| sealed(message, MAX_MATERIAL))
        .transpose()
}

/// An absent field is an empty one.
fn ak_certificate(text: String) -> Result<Option<String>, Malformed> {
    if text.len() > AkCertificate::MAX_LEN {
        return Err(Malformed::TooLong {
            field: "ak_certificate",
            max: AkCertificate::MAX_LEN,
            got: text.len(),
        });
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn requests(
    message: Option<join::CertificateRequests>,
) -> Result<Option<CertificateRequests>, Malformed> {
    message.map(TryInto::try_into).transpose()
}

fn role(number: i32) -> Result<Role, Malformed> {
    join::Role::try_from(number)
        .map_err(|_| Malformed::Unknown {
            field: "role",
            got: number,
        })?
        .try_into()
}

fn cluster_id(bytes: &[u8]) -> Result<ClusterId, Malformed> {
    fixed("cluster_id", bytes).map(ClusterId::from_bytes)
}

/// Generations count from 1; 0 is an absent field.
fn generation(number: u64) -> Result<Generation, Malformed> {
    required("generation", (number > 0).then_some(Generation(number)))
}

/// Key versions count from 1; 0 is an absent field.
fn key_version(number: u32) -> Result<KeyVersion, Malformed> {
    required("key_version", (number > 0).then_some(KeyVersion(number)))
}

fn bounded(field: &'static str, max: usize, bytes: Vec<u8>) -> Result<Vec<u8>, Malformed> {
    if bytes.len() > max {
        return Err(Malformed::TooLong {
            field,
            max,
            got: bytes.len(),
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;

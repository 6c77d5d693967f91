//! Why a phase failed.

use crate::{
    certificates::CertificateError, file::FileError, program::ProgramError, state::StateError,
    templates::TemplateError, version::UnknownVersion,
};
use std::time::Duration;

/// Why a phase failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PhaseError {
    /// The first node's record was refused.
    #[error("write this node's record")]
    Adopt(#[source] Box<kube_store::DecisionError>),
    /// A service's object was refused.
    #[error("deploy the services")]
    Apply(#[source] Box<manifests::ApplyError>),
    /// The API server, or etcd, said no, or nothing.
    #[error("{what}")]
    Api {
        /// What was to be done.
        what: &'static str,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// A certificate cannot be made.
    #[error("sign the kubelet's certificates")]
    Certificate(#[source] CertificateError),
    /// The kubelet cannot do anything with the certificate that it has.
    #[error(
        "the kubelet's client certificate ended, and this boot brought no other: boot again when a join service answers"
    )]
    Ended,
    /// This node's credentials of etcd do not serve.
    #[error("use this node's credentials of etcd")]
    Etcd(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Somebody forgot this node while it was made.
    #[error("this node's record is not active: its disk is dead, begin with a blank one")]
    InactiveRecord,
    /// A kubeconfig of this node's own does not serve.
    #[error("use the kubeconfig `{path}`")]
    Kubeconfig {
        /// Which.
        path: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A path in the material leads out of its folder, or is none of those that are expected.
    #[error("`{0}` is no file of a control-plane node")]
    ForeignFile(String),
    /// The init material names an attester that is none.
    #[error("malformed attester in the init material")]
    MalformedAttester,
    /// What a phase needs came with no admission and is not on the disk.
    #[error("no {0} came with the admission of this boot, and none is on the state disk")]
    Missing(&'static str),
    /// Folders cannot be mounted.
    #[error("mount `{}`", path.display())]
    Mount {
        /// The folder.
        path: std::path::PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A member of etcd that lives is at this node's address.
    #[error(
        "this node has the address of etcd's member `{member}`: give one of them another, or forget that node"
    )]
    AddressTaken {
        /// The member's name.
        member: String,
    },
    /// Without a member, etcd would have no majority.
    #[error(
        "the member `{member}` of etcd stays: only {healthy} of the {others} others are healthy"
    )]
    NoMajority {
        /// The member's name.
        member: String,
        /// Who is well.
        healthy: usize,
        /// Who would be left.
        others: usize,
    },
    /// Programs of the node do not fit the cluster.
    #[error("kubeadm is {kubeadm}, the cluster is to be {cluster}")]
    OtherVersion {
        /// The program's.
        kubeadm: String,
        /// The cluster's.
        cluster: String,
    },
    /// The cluster's range of pods is none.
    #[error("`{0}` is no range of IPv4 addresses for pods")]
    PodSubnet(String),
    /// A program failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The state file cannot be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// A template cannot be filled.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The record is another machine's.
    #[error("this disk's record is of the attester {recorded}, not of {expected}")]
    OtherAttester {
        /// In the record.
        recorded: String,
        /// In the init material.
        expected: String,
    },
    /// The services' objects cannot be made.
    #[error("render the services' manifests")]
    Render(#[source] Box<manifests::RenderError>),
    /// The records cannot be read.
    #[error("read a node's record")]
    Store(#[source] Box<kube_store::StoreError>),
    /// Something did not come about in time.
    #[error("{what} not within {} s", limit.as_secs())]
    TookTooLong {
        /// What.
        what: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// Nobody listens there yet.
    #[error("the API server at `{endpoint}` cannot be reached")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The nodes of the cluster cannot be watched.
    #[error("watch the nodes of the cluster")]
    Watch(#[source] Box<kube::runtime::watcher::Error>),
    /// kubeadm is of a version that is not supported.
    #[error(transparent)]
    Version(#[from] UnknownVersion),
}

impl PhaseError {
    /// The API server's answer to `what`.
    pub(crate) fn api(what: &'static str) -> impl Fn(kube::Error) -> Self {
        move |error| Self::Api {
            what,
            source: Box::new(error),
        }
    }
}

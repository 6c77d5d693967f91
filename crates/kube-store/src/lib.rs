//! The admission core's objects in a Kubernetes cluster, and the names that a cluster's parts share.
//!
//! [`KubeStore`] drives decisions of the core on custom resources. What a decision rests on is read by
//! quorum: each read names neither a resource version nor a watch. A write is either create-only or
//! compare-and-set on the version that was read, so replicas and operators may decide at the same time.
//! Writes of one decision are applied one by one; the core's writes are ordered so that every prefix
//! heals.
//!
//! It trusts the API server and what stands behind it, as the rest of the cluster does, and checks
//! that what it reads is an object of ours all the same: rubbish refuses, naming the object. It does
//! not know who asks; a Kubernetes identity that may write these objects may admit nodes.
//!
//! The resources are defined in `manifests/crds.yaml`, who may use them in the other manifests there.

mod cluster;
mod error;
mod objects;
mod serials;
mod store;

pub use cluster::{ClusterError, ClusterFacts};
pub use error::{DecisionError, SerialError, StoreError, is_unavailable};
pub use objects::{Malformation, ObservedNode};
pub use store::{CALL_TIMEOUT, KubeStore};

/// The namespace of everything of ours.
pub const NAMESPACE: &str = "constellation-system";

/// The API group of our resources.
pub const GROUP: &str = "constellation.internal";

/// The version of our resources.
pub const VERSION: &str = "v1";

/// The ConfigMap with [`ClusterFacts`].
pub const CLUSTER_CONFIG_MAP: &str = "constellation-cluster";

/// The ConfigMap with the signed policy.
pub const POLICY_CONFIG_MAP: &str = "constellation-policy";

/// The key of the signed policy in its ConfigMap.
pub const POLICY_KEY: &str = "policy.json";

/// The ConfigMap with the signed reference values.
pub const REFERENCE_VALUES_CONFIG_MAP: &str = "constellation-reference-values";

/// The key of the signed reference values in their ConfigMap.
pub const REFERENCE_VALUES_KEY: &str = "reference-values.json";

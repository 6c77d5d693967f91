//! What is handed over at a node's two borders, and by whom it is written and read.
//!
//! * [`HandOff`]: the agent writes it when the disk is unlocked, the bootstrapper reads it.
//! * [`JoinMaterial`] and [`InitMaterial`]: a join service, or the CLI on an init, seals it to the node.
//!   The agent opens the seal and leaves the bytes as they are in [`MATERIAL`], unparsed.
//!
//! All of it is in [`FOLDER`], on a tmpfs that only root reads. JSON, format version 1 in each document,
//! unknown fields refused. docs/formats.md has the fields.
//!
//! What this crate is not: a check of who wrote it. The folder is as trusted as the verified root.

mod file;
mod material;
mod secret_text;

pub use file::{
    Attachments, AttestationKey, HandOff, MATERIAL, MAX_FILE, ReadError, WriteError, read_material,
};
pub use material::{
    AdmissionMaterial, ClusterMaterial, ControlPlaneFiles, InitMaterial, JoinMaterial,
    KubeletMaterial, KubernetesMaterial, ProgressMaterial,
};
pub use secret_text::SecretText;

/// The folder of all files, readable by root only.
pub const FOLDER: &str = "/run/constellation";

/// The private key that the kubelet's client certificate was asked for with: PKCS #8, PEM.
pub const KUBELET_CLIENT_KEY: &str = "kubelet-client.key";

/// The private key that the kubelet's serving certificate was asked for with: PKCS #8, PEM.
pub const KUBELET_SERVING_KEY: &str = "kubelet-serving.key";

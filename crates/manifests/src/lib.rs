//! The Kubernetes objects of the services: rendered from the templates that the repository publishes in
//! `manifests/`, and applied in order.
//!
//! [`render()`] fills the templates from [`Values`]. A variable that is not there is an error, and each
//! value is written as JSON, so none can add a field or an object. [`apply()`] hands the objects to the
//! API server by server-side apply: running it again changes nothing, running it with the next
//! version's templates is the upgrade.
//!
//! What it is not: a package manager. It removes nothing, and it knows the kinds of its own templates
//! only. It trusts its values; the secrets among them are in the rendered objects, so drop those soon.

mod apply;
mod render;
mod secrets;
mod values;

pub use apply::{Applied, ApplyError, FIELD_MANAGER, apply};
pub use render::{Object, Ownership, RenderError, render};
pub use secrets::SecretsError;
pub use values::{Attestation, Cluster, HostFolder, SubnetError, Values};

//! Container images written without a registry or a tool: archives that `ctr images import` takes.
//!
//! [`kubernetes_images`] are those of the cluster itself, [`service_image`] one of ours, and [`demo_image`] is what a
//! demonstration runs in pods. An OS image has them inside, [`arrange`]d; nodes in namespaces import the same ones.

mod archive;
mod folder;
mod image;
mod kubernetes;
mod ours;

pub use folder::{arrange, is_control_plane};
pub use image::Image;
pub use kubernetes::{PAUSE, kubernetes_images};
pub use ours::{SERVICES, demo_image, service_image};

//! Container images written without a registry or a tool: archives that `ctr images import` takes.
//!
//! [`kubernetes_images`] are those of the cluster itself, [`service_image`] one of ours, and [`demo_image`] is what a
//! demonstration runs in pods. An OS image has them inside; nodes in namespaces import the same ones.

mod archive;
mod image;
mod kubernetes;
mod ours;

pub use image::Image;
pub use kubernetes::{PAUSE, kubernetes_images};
pub use ours::{SERVICES, demo_image, service_image};

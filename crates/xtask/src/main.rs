//! Build tasks: protobuf generation, demo images, set-up.
fn main() {}

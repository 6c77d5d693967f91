//! Build tasks: protobuf generation, demo images, set-up.

mod protos;

use clap::Parser;

#[derive(Parser)]
#[command(about, version)]
enum Task {
    /// Generate the Rust code of the protobuf files
    Protos(protos::Args),
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Protos(args) => protos::run(&args),
    }
}

//! Build tasks: protobuf generation, demo images, set-up, measurements.

mod apt;
mod bench;
mod fuzz;
mod image;
mod kubernetes;
mod protos;
mod setup;
mod test;
mod tool;

use clap::Parser;

#[derive(Parser)]
#[command(about, version)]
enum Task {
    /// Measure, print a table and write target/bench.json
    Bench(bench::Args),
    /// Put a UKI into a boot partition image
    Esp(image::EspArgs),
    /// Run the fuzz targets
    Fuzz(fuzz::Args),
    /// Build UKI, root file system and boot partition from Debian packages
    Image(image::Args),
    /// Get real Kubernetes: built from Debian's source package, or named by `KUBERNETES_BIN`
    Kubernetes(kubernetes::Args),
    /// Generate the Rust code of the protobuf files
    Protos(protos::Args),
    /// Unpack what must be newer than the release; `setup.sh` calls this
    Setup,
    /// Run the tests tier by tier, with a summary
    Test(test::Args),
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Bench(args) => bench::run(&args),
        Task::Esp(args) => image::run_esp(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Image(args) => image::run(&args),
        Task::Kubernetes(args) => kubernetes::run(&args),
        Task::Protos(args) => protos::run(&args),
        Task::Setup => setup::run(),
        Task::Test(args) => test::run(&args),
    }
}

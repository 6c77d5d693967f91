//! `xtask protos`: generates the Rust code of `protos/proto` into `protos/src/generated`.
//!
//! The generated files are checked in, so that nobody needs a protobuf compiler to build and every
//! change of them is visible in review. `--check` compares instead of writing; CI runs that.

use anyhow::{Context, bail};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

const SOURCES: [&str; 6] = [
    "admin.proto",
    "atls.proto",
    "bootstrap.proto",
    "join.proto",
    "key.proto",
    "verify.proto",
];

/// Messages with a secret in them: `api` writes their `Debug` by hand.
const WITHOUT_DEBUG: [&str; 4] = [
    ".constellation.atls.v1.Evidence",
    ".constellation.bootstrap.v1.GetResultResponse",
    ".constellation.key.v1.GetControlPlaneFilesResponse",
    ".constellation.key.v1.GetDataKeyResponse",
];

/// Arguments of `xtask protos`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Compare with the checked-in files and fail on a difference, write nothing
    #[arg(long)]
    check: bool,
}

/// Writes or compares the generated files.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../protos");
    let generated = generate(&protos.join("proto"))?;
    let folder = protos.join("src/generated");
    if args.check {
        compare(&folder, &generated)
    } else {
        write(&folder, &generated)
    }
}

/// The package whose messages others use, and where they find them.
const SHARED: (&str, &str) = (".constellation.atls.v1", "crate::atls");

/// What the stubs encode and decode with.
const CODEC: &str = "crate::codec::SmallCodec";

fn generate(sources: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let descriptors = protox::compile(SOURCES, [sources])?;
    let mut elsewhere = prost_build::Config::new();
    elsewhere.extern_path(SHARED.0, SHARED.1);
    let mut generated = BTreeMap::new();
    // A package that is somewhere else is not generated, so each run gives what the other leaves out.
    for (mut config, shared) in [(elsewhere, false), (prost_build::Config::new(), true)] {
        let stubs = tonic_prost_build::configure()
            .build_transport(false)
            .codec_path(CODEC)
            .client_mod_attribute(".", "#[cfg(feature = \"tonic\")]")
            .server_mod_attribute(".", "#[cfg(feature = \"tonic\")]");
        let module = prost_build::Module::from_protobuf_package_name;
        let files = descriptors.file.iter().cloned();
        let requests = files.map(|file| (module(file.package()), file)).collect();
        let modules = config
            .skip_debug(WITHOUT_DEBUG)
            .service_generator(stubs.service_generator())
            .generate(requests)?;
        let of_this_run = modules
            .into_iter()
            .filter(|(found, _)| (*found == module(SHARED.0.trim_start_matches('.'))) == shared);
        generated.extend(of_this_run.map(|(module, code)| (module.to_file_name_or("root"), code)));
    }
    Ok(generated)
}

fn compare(folder: &Path, generated: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let mut stale = strangers(folder, generated)?;
    for (name, code) in generated {
        if fs::read_to_string(folder.join(name)).ok().as_ref() != Some(code) {
            stale.push(name.clone());
        }
    }
    if !stale.is_empty() {
        bail!(
            "generated code differs: {}\nhint: run `cargo run -p xtask -- protos` and commit the result",
            stale.join(", ")
        );
    }
    Ok(())
}

fn write(folder: &Path, generated: &BTreeMap<String, String>) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for name in strangers(folder, generated)? {
        fs::remove_file(folder.join(&name)).context(name)?;
    }
    for (name, code) in generated {
        let path: PathBuf = folder.join(name);
        fs::write(&path, code).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Files in the folder that no source generates any more.
fn strangers(folder: &Path, generated: &BTreeMap<String, String>) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !generated.contains_key(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

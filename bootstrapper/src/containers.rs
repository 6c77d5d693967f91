//! The container runtime, and the images that came with the verified root.
//!
//! Images are imported through `ctr`, not from a folder that the runtime imports by itself: not every
//! build of it has that folder, and here a failed import is a failed phase that names the image.

use crate::{
    error::PhaseError,
    file::{self, FileError},
    node::Node,
    program::{Program, until},
};
use aws_lc_rs::digest::{Context, SHA256};
use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// The namespace in which the kubelet looks for images.
const NAMESPACE: &str = "k8s.io";

/// SHA-256, hexadecimal.
const DIGEST_LENGTH: u64 = 64;

/// Below the folder of archives: those that only control planes run.
const CONTROL_PLANE: &str = "control-plane";

/// Waits until the runtime answers.
///
/// # Errors
/// [`PhaseError`].
pub async fn wait_for_runtime(node: &Node) -> Result<(), PhaseError> {
    let limit = node.config.limits.program_seconds.duration();
    let version = || ctr(node, &["version"], Duration::from_secs(10)).output();
    until(limit, Duration::from_millis(100), version).await?;
    Ok(())
}

/// Imports each archive that was not imported as it is.
///
/// # Errors
/// [`PhaseError`].
pub async fn import_images(node: &mut Node) -> Result<(), PhaseError> {
    let mut paths = archives(&node.config.images)?;
    if node.is_control_plane() {
        paths.extend(archives(&node.config.images.join(CONTROL_PLANE))?);
    }
    for path in paths {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let digest = known_digest(&path)?.map_or_else(|| digest(&path), Ok)?;
        if node.state.get().images.get(&name) == Some(&digest) {
            continue;
        }
        tracing::info!(image = %name, "importing");
        let arguments = ["--namespace", NAMESPACE, "images", "import"];
        let path = path.to_string_lossy();
        let arguments: Vec<&str> = arguments.into_iter().chain([path.as_ref()]).collect();
        ctr(
            node,
            &arguments,
            node.config.limits.image_seconds.duration(),
        )
        .run(&node.progress)
        .await?;
        node.state.change(|state| {
            state.images.insert(name, digest);
        })?;
    }
    Ok(())
}

fn ctr<'a>(node: &'a Node, arguments: &[&str], limit: Duration) -> Program<'a> {
    let socket = node.config.runtime_socket.to_string_lossy();
    let arguments = ["--address", socket.as_ref()]
        .into_iter()
        .chain(arguments.iter().copied());
    Program::new(&node.config.programs.ctr, arguments, limit)
}

/// All archives, in the order of their names. A root without the folder has none.
fn archives(folder: &Path) -> Result<Vec<PathBuf>, PhaseError> {
    let failed = || FileError::new("list", folder);
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed())?,
    };
    let mut archives = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed())?.path();
        if path.extension().is_some_and(|extension| extension == "tar") {
            archives.push(path);
        }
    }
    archives.sort();
    Ok(archives)
}

/// The digest that whoever built the image wrote beside the archive: the verified root says it, and reading is
/// slow on small machines.
fn known_digest(path: &Path) -> Result<Option<String>, PhaseError> {
    let beside = path.with_extension("tar.sha256");
    let text = file::read_if_present(&beside, DIGEST_LENGTH)?;
    Ok(text.map(|text| String::from_utf8_lossy(&text).into_owned()))
}

fn digest(path: &Path) -> Result<String, PhaseError> {
    let read = || {
        let mut file = File::open(path)?;
        let mut context = Context::new(&SHA256);
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hex::encode(context.finish())),
                read => context.update(buffer.get(..read).unwrap_or_default()),
            }
        }
    };
    Ok(read().map_err(FileError::new("read", path))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_come_in_order_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.tar", "a.tar", "README", "c.tar.gz"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let names = archives(folder.path()).unwrap();
        let names: Vec<_> = names.iter().filter_map(|path| path.file_name()).collect();
        assert_eq!(names, ["a.tar", "b.tar"]);
        assert!(archives(&folder.path().join("absent")).unwrap().is_empty());
    }

    #[test]
    fn a_digest_beside_the_archive_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("a.tar");
        fs::write(&archive, "abc").unwrap();
        assert_eq!(known_digest(&archive).unwrap(), None);
        fs::write(folder.path().join("a.tar.sha256"), "00ff").unwrap();
        assert_eq!(known_digest(&archive).unwrap().as_deref(), Some("00ff"));
        fs::write(folder.path().join("a.tar.sha256"), [b'0'; 65]).unwrap();
        assert!(known_digest(&archive).is_err());
        let found = archives(folder.path()).unwrap();
        assert_eq!(found, [archive]);
    }

    #[test]
    fn a_digest_is_of_the_whole_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), vec![0; (1 << 20) + 1]).unwrap();
        let long = digest(file.path()).unwrap();
        fs::write(file.path(), "abc").unwrap();
        // FIPS 180-4, the example of one block.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(file.path()).unwrap(), abc);
        assert_ne!(long, abc);
    }
}

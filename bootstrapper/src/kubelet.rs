//! The kubelet: its certificates, its configuration, its start.
//!
//! No program asks the cluster for anything here. A worker's certificates came with its ticket, signed for
//! exactly its name; a control-plane node holds the authority and signs its own.

use crate::{
    certificates::{Pair, sign_kubelet},
    error::PhaseError,
    file,
    node::{Material, Node},
};
use hand_off::{JoinMaterial, KUBELET_CLIENT_KEY, KUBELET_SERVING_KEY};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};
use x509::Certificate;

/// Where kubeadm keeps the cluster's certificates.
pub const PKI: &str = "/etc/kubernetes/pki";

/// Where it looks for static pods.
pub const MANIFESTS: &str = "/etc/kubernetes/manifests";

/// The kubelet's kubeconfig.
pub const KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";

/// Where the kubelet keeps its own certificates.
const KUBELET_PKI: &str = "/var/lib/kubelet/pki";

/// Appears when the kubelet may start.
pub const START: &str = "start-kubelet";

/// Of the AWS SDK in kubelets before 1.27, in the environment: do not look for credentials of a registry at the
/// link-local address of the cloud's metadata. That is the host, or nobody: then each start waits for six seconds.
const NO_AWS: &str = "AWS_EC2_METADATA_DISABLED=true";

/// Places the kubelet's certificates.
///
/// # Errors
/// [`PhaseError`].
pub fn certificates(node: &Node) -> Result<(), PhaseError> {
    let authority_key = Path::new(PKI).join("ca.key");
    let [client, serving] = if authority_key.exists() {
        // Also with a ticket: this certificate names all that the node's own API server asks for.
        sign_kubelet(
            &file::read_text(&authority_key)?,
            node.hand_off.node_name.as_str(),
            node.address,
            SystemTime::now(),
        )
        .map_err(PhaseError::Certificate)?
    } else {
        match issued(node)? {
            Some(pairs) => pairs,
            None if Path::new(KUBELET_PKI).join(CURRENT).exists() => {
                let current = file::read_text(&Path::new(KUBELET_PKI).join(CURRENT))?;
                must_be_valid(&current, SystemTime::now())?;
                tracing::info!("no ticket came: the kubelet goes on with the certificates it has");
                return Ok(());
            }
            None => return Err(PhaseError::Missing("certificate of the kubelet")),
        }
    };
    file::make_folder(Path::new(KUBELET_PKI), 0o700)?;
    let folder = Path::new(KUBELET_PKI);
    file::replace(
        &folder.join("kubelet-serving.key"),
        serving.key.as_bytes(),
        0o600,
    )?;
    file::replace(
        &folder.join("kubelet-serving.crt"),
        serving.certificate.as_bytes(),
        0o644,
    )?;
    place_client(folder, &client)
}

const CURRENT: &str = "kubelet-client-current.pem";

/// A kubelet whose client certificate ended never gets another one by itself; only a ticket brings one.
fn must_be_valid(pem: &str, now: SystemTime) -> Result<(), PhaseError> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes());
    let certificate = der.ok().and_then(|der| Certificate::parse(&der).ok());
    let certificate = certificate.ok_or(PhaseError::Missing("certificate of the kubelet"))?;
    let end = certificate.fields().validity().not_after;
    match end.to_system_time() < now {
        true => Err(PhaseError::Ended),
        false => Ok(()),
    }
}

/// The certificates of the ticket with the keys that the agent made, and the authority's certificate beside them.
fn issued(node: &Node) -> Result<Option<[Pair; 2]>, PhaseError> {
    let Material::Join(material) = &node.material else {
        return Ok(None);
    };
    let JoinMaterial {
        kubernetes,
        kubelet,
        ..
    } = material.as_ref();
    file::make_folder(Path::new(PKI), 0o755)?;
    let authority = Path::new(PKI).join("ca.crt");
    file::replace(
        &authority,
        kubernetes.certificate_authority.as_bytes(),
        0o644,
    )?;
    let pair = |certificate: &String, key| {
        let key = file::read_text(&node.config.hand_off.join(key))?;
        let certificate = certificate.clone();
        Ok::<_, PhaseError>(Pair { certificate, key })
    };
    Ok(Some([
        pair(&kubelet.client_certificate, KUBELET_CLIENT_KEY)?,
        pair(&kubelet.serving_certificate, KUBELET_SERVING_KEY)?,
    ]))
}

/// As the kubelet leaves it when it rotates the certificate: a file with both, and a link to it. A plain file
/// in the link's place would stop the next rotation.
fn place_client(folder: &Path, client: &Pair) -> Result<(), PhaseError> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    let name = format!("kubelet-client-{seconds}.pem");
    let content = format!("{}{}", client.certificate, client.key);
    file::replace(&folder.join(&name), content.as_bytes(), 0o600)?;
    file::replace_link(&folder.join(CURRENT), Path::new(&name))?;
    for old in others(folder, &name) {
        file::delete(&old)?;
    }
    Ok(())
}

/// Earlier client certificates. A folder that cannot be listed has none worth deleting.
fn others(folder: &Path, current: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let others = entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("kubelet-client-") && name != current && name != CURRENT
    });
    others.map(|entry| entry.path()).collect()
}

/// Writes what the kubelet reads at its start.
///
/// # Errors
/// [`PhaseError`].
pub fn files(node: &Node) -> Result<(), PhaseError> {
    let subject = node.subject();
    let kubelet = Path::new("/var/lib/kubelet");
    file::make_folder(Path::new(MANIFESTS), 0o700)?;
    let configuration = subject.kubelet_configuration()?;
    file::replace(
        &kubelet.join("config.yaml"),
        configuration.as_bytes(),
        0o644,
    )?;
    let flags = flags(node).join(" ");
    let environment = format!("KUBELET_KUBEADM_ARGS=\"{flags}\"\n{NO_AWS}\n");
    file::replace(
        &kubelet.join("kubeadm-flags.env"),
        environment.as_bytes(),
        0o644,
    )?;
    let kubeconfig = subject.kubelet_kubeconfig()?;
    Ok(file::replace(
        Path::new(KUBECONFIG),
        kubeconfig.as_bytes(),
        0o600,
    )?)
}

fn flags(node: &Node) -> Vec<String> {
    let mut flags = vec![
        format!("--hostname-override={}", node.hand_off.node_name),
        format!("--node-ip={}", node.address),
    ];
    flags.extend(
        node.version
            .runtime_flags(&node.subject().runtime_endpoint()),
    );
    let more = node.config.kubelet.flags.iter();
    flags.extend(more.map(|flag| flag.as_str().to_owned()));
    flags
}

/// Lets the kubelet start: a path unit waits for the file.
///
/// # Errors
/// [`PhaseError`].
pub fn start(node: &Node) -> Result<(), PhaseError> {
    Ok(file::replace(
        &node.config.hand_off.join(START),
        b"",
        0o600,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_kubelet_does_not_start_with_a_certificate_that_ended() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        let now = SystemTime::now();
        params.not_after = (now + Duration::from_secs(60)).into();
        let pem = params.self_signed(&key).unwrap().pem() + &key.serialize_pem();
        must_be_valid(&pem, now).unwrap();
        let later = must_be_valid(&pem, now + Duration::from_secs(120));
        assert!(matches!(later, Err(PhaseError::Ended)));
        assert!(must_be_valid("no certificate", now).is_err());
    }

    #[test]
    fn a_client_certificate_replaces_those_before_it() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["kubelet-client-2020-01-01.pem", "kubelet.crt"] {
            fs::write(folder.path().join(name), "old").unwrap();
        }
        let pair = Pair {
            certificate: "certificate\n".into(),
            key: "key\n".into(),
        };
        place_client(folder.path(), &pair).unwrap();
        let current = folder.path().join(CURRENT);
        assert_eq!(file::read_text(&current).unwrap(), "certificate\nkey\n");
        assert!(fs::symlink_metadata(&current).unwrap().is_symlink());
        assert!(!folder.path().join("kubelet-client-2020-01-01.pem").exists());
        assert!(folder.path().join("kubelet.crt").exists());
    }
}

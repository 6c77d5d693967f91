//! Which certificates of a control plane have lived too long.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use kube::config::Kubeconfig;
use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};
use x509::Certificate;

/// What `kubeadm certs renew all` renews, below `/etc/kubernetes` (kubeadm's certificate list; the same
/// in all versions but for `super-admin.conf`, which is there from 1.29 on).
const CERTIFICATES: [&str; 7] = [
    "pki/apiserver.crt",
    "pki/apiserver-etcd-client.crt",
    "pki/apiserver-kubelet-client.crt",
    "pki/etcd/healthcheck-client.crt",
    "pki/etcd/peer.crt",
    "pki/etcd/server.crt",
    "pki/front-proxy-client.crt",
];
const KUBECONFIGS: [&str; 3] = ["admin.conf", "controller-manager.conf", "scheduler.conf"];
const SUPER_ADMIN: &str = "super-admin.conf";

/// The first file, of those below `folder`, whose certificate is not in the first quarter of its life at
/// `now`, or cannot be read. After a boot that finds none, three quarters of a year are left.
pub(super) fn first_aged(folder: &Path, now: SystemTime) -> Option<&'static str> {
    let super_admin = [SUPER_ADMIN].into_iter();
    let super_admin = super_admin.filter(|name| folder.join(name).exists());
    let mut certificates = CERTIFICATES.into_iter();
    let mut kubeconfigs = KUBECONFIGS.into_iter().chain(super_admin);
    let aged = |pem: Option<String>| pem.is_none_or(|pem| !is_young(&pem, now));
    certificates
        .find(|name| aged(fs::read_to_string(folder.join(name)).ok()))
        .or_else(|| kubeconfigs.find(|name| aged(of_kubeconfig(&folder.join(name)))))
}

fn of_kubeconfig(path: &Path) -> Option<String> {
    let kubeconfig = Kubeconfig::read_from(path).ok()?;
    let user = kubeconfig.auth_infos.into_iter().next()?.auth_info?;
    let pem = BASE64_STANDARD.decode(user.client_certificate_data?).ok()?;
    String::from_utf8(pem).ok()
}

/// A clock that stands before the certificate's life makes it old, too.
fn is_young(pem: &str, now: SystemTime) -> bool {
    let Ok(certificate) = Certificate::parse_pem(pem) else {
        return false;
    };
    let validity = certificate.fields().validity();
    let begin = validity.not_before.to_system_time();
    let end = validity.not_after.to_system_time();
    let life = end.duration_since(begin).unwrap_or(Duration::ZERO);
    now.duration_since(begin)
        .is_ok_and(|lived| lived < life / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// A certificate of 400 days that began `age` ago.
    fn pem(now: SystemTime, age: Duration) -> String {
        let mut params = CertificateParams::default();
        params.not_before = (now - age).into();
        params.not_after = (now - age + 400 * DAY).into();
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    fn kubeconfig(pem: &str) -> String {
        let data = BASE64_STANDARD.encode(pem);
        format!(
            "apiVersion: v1\nkind: Config\nusers:\n- name: a\n  user:\n    client-certificate-data: {data}\n"
        )
    }

    fn write(folder: &Path, name: &str, pem: &str) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let content = match name.ends_with(".conf") {
            true => kubeconfig(pem),
            false => pem.to_owned(),
        };
        fs::write(path, content).unwrap();
    }

    #[test]
    fn each_file_counts() {
        let now = SystemTime::now();
        let folder = tempfile::tempdir().unwrap();
        let young = pem(now, 99 * DAY);
        let every = || CERTIFICATES.into_iter().chain(KUBECONFIGS);
        assert_eq!(first_aged(folder.path(), now), Some(CERTIFICATES[0]));
        for name in every() {
            write(folder.path(), name, &young);
        }
        assert_eq!(first_aged(folder.path(), now), None);
        for name in every().chain([SUPER_ADMIN]) {
            write(folder.path(), name, &pem(now, 101 * DAY));
            assert_eq!(first_aged(folder.path(), now), Some(name));
            write(folder.path(), name, "no certificate");
            assert_eq!(first_aged(folder.path(), now), Some(name));
            write(folder.path(), name, &young);
        }
        fs::write(folder.path().join(SUPER_ADMIN), "no kubeconfig").unwrap();
        assert_eq!(first_aged(folder.path(), now), Some(SUPER_ADMIN));
    }

    #[test]
    fn a_clock_that_stands_wrong_makes_certificates_old() {
        let now = SystemTime::now();
        let pem = pem(now, DAY);
        assert!(is_young(&pem, now));
        assert!(!is_young(&pem, now - 2 * DAY));
        assert!(!is_young(&pem, now + 4000 * DAY));
    }
}

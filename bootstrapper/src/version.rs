//! Versions of Kubernetes programs, and what of the configuration depends on them.

use std::str::FromStr;

/// A version, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KubernetesVersion {
    /// 1.
    pub major: u32,
    /// Such as 20.
    pub minor: u32,
}

/// A text that is no version, or one that this program cannot work with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no version of Kubernetes from 1.20 on")]
pub struct UnknownVersion(String);

impl KubernetesVersion {
    /// The version of kubeadm's configuration format that kubeadm of this version writes itself.
    #[must_use]
    pub const fn kubeadm_api(self) -> &'static str {
        match self.minor {
            ..=21 => "v1beta2",
            22..=30 => "v1beta3",
            31.. => "v1beta4",
        }
    }

    /// The kubelet's flags for its container runtime. From 1.27 on the configuration file names the socket.
    #[must_use]
    pub fn runtime_flags(self, endpoint: &str) -> Vec<String> {
        if self.minor >= 27 {
            return Vec::new();
        }
        vec![
            "--container-runtime=remote".to_owned(),
            format!("--container-runtime-endpoint={endpoint}"),
        ]
    }
}

impl FromStr for KubernetesVersion {
    type Err = UnknownVersion;

    /// `v1.20.2`, also with `Kubernetes ` before it, as the kubelet says it.
    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        let unknown = || UnknownVersion(text.trim().chars().take(64).collect());
        let version = text.trim();
        let version = version.strip_prefix("Kubernetes ").unwrap_or(version);
        let mut parts = version
            .strip_prefix('v')
            .ok_or_else(unknown)?
            .splitn(3, '.');
        let mut number = || parts.next()?.parse().ok();
        let (major, minor) = number().zip(number()).ok_or_else(unknown)?;
        if parts.next().is_none() || (major, minor) < (1, 20) || major > 1 {
            return Err(unknown());
        }
        Ok(Self { major, minor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_programs_parse_and_others_do_not() {
        let minor = |text: &str| {
            text.parse::<KubernetesVersion>()
                .map(|version| version.minor)
        };
        assert_eq!(minor("v1.20.2\n"), Ok(20));
        assert_eq!(minor("Kubernetes v1.33.0-rc.1\n"), Ok(33));
        for wrong in ["", "1.20.2", "v1.20", "v1.19.16", "v2.0.0", "v1.x.2", "v1"] {
            assert!(minor(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn formats_follow_the_version() {
        let api = |minor| KubernetesVersion { major: 1, minor }.kubeadm_api();
        assert_eq!(
            [20, 21, 22, 30, 31, 34].map(api),
            [
                "v1beta2", "v1beta2", "v1beta3", "v1beta3", "v1beta4", "v1beta4"
            ]
        );
        let flags = |minor| KubernetesVersion { major: 1, minor }.runtime_flags("unix:///s");
        assert_eq!(flags(20).len(), 2);
        assert!(flags(27).is_empty());
    }
}

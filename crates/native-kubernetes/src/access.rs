//! Ways into an API server: a kubeconfig, and a client of the `kube` crate.

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::{Client, Config, config::AuthInfo};

/// Who somebody is to an API server.
#[derive(Clone)]
pub(crate) enum Credential {
    /// `system:anonymous`.
    Anonymous,
    /// A client certificate and its key, PEM.
    Certificate { certificate: String, key: String },
    /// Another user by the word of an administrator, whose certificate it is.
    Impersonation {
        certificate: String,
        key: String,
        user: String,
        groups: Vec<String>,
    },
    /// A bearer token.
    Token(String),
}

/// An API server's address, its authority, and somebody's credential for it.
#[derive(Clone)]
pub struct Access {
    pub(crate) server: String,
    pub(crate) ca_pem: String,
    pub(crate) ca_der: Vec<u8>,
    pub(crate) credential: Credential,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Access {
    /// A client; call it inside a tokio runtime, which has to outlive the client.
    ///
    /// # Errors
    /// If the `kube` crate does not take the credential.
    pub fn client(&self) -> Result<Client> {
        let mut config = Config::new(self.server.parse().context("address of the API server")?);
        config.root_cert = Some(vec![self.ca_der.clone()]);
        config.auth_info = self.auth_info();
        // A test wants the first answer, not the one after the client's own retries.
        config.default_retry = false;
        Client::try_from(config).context("make a Kubernetes client")
    }

    /// The same as a file for `kubectl` and Kubernetes' own programs. It carries the secret.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        let mut user = String::new();
        let info = self.auth_info();
        if let Some(certificate) = info.client_certificate_data {
            user += &format!("client-certificate-data: {certificate}, ");
        }
        match &self.credential {
            Credential::Anonymous => {}
            Credential::Certificate { key, .. } => {
                user += &format!("client-key-data: {}", STANDARD.encode(key));
            }
            Credential::Impersonation {
                key,
                user: name,
                groups,
                ..
            } => {
                let key = STANDARD.encode(key);
                user += &format!("client-key-data: {key}, as: {name:?}, as-groups: {groups:?}");
            }
            Credential::Token(token) => user += &format!("token: {token:?}"),
        }
        let ca = STANDARD.encode(&self.ca_pem);
        format!(
            "apiVersion: v1\nkind: Config\n\
             clusters: [{{name: cluster, cluster: {{server: {:?}, certificate-authority-data: {ca}}}}}]\n\
             users: [{{name: user, user: {{{user}}}}}]\n\
             contexts: [{{name: context, context: {{cluster: cluster, user: user}}}}]\n\
             current-context: context\n",
            self.server
        )
    }

    fn auth_info(&self) -> AuthInfo {
        let certified = |certificate: &str, key: &str| AuthInfo {
            client_certificate_data: Some(STANDARD.encode(certificate)),
            client_key_data: Some(STANDARD.encode(key).into()),
            ..AuthInfo::default()
        };
        match &self.credential {
            Credential::Anonymous => AuthInfo::default(),
            Credential::Certificate { certificate, key } => certified(certificate, key),
            Credential::Impersonation {
                certificate,
                key,
                user,
                groups,
            } => AuthInfo {
                impersonate: Some(user.clone()),
                impersonate_groups: Some(groups.clone()),
                ..certified(certificate, key)
            },
            Credential::Token(token) => AuthInfo {
                token: Some(token.clone().into()),
                ..AuthInfo::default()
            },
        }
    }
}

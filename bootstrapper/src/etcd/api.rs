//! etcd's API in JSON, as each version from 3.4 on serves it beside gRPC
//! (`etcd-io/etcd`, `api/etcdserverpb/rpc.proto`: `Cluster`), with the client certificate of the API server.

use crate::{error::PhaseError, file, kubelet::PKI};
use http::Request;
use kube::{Client, Config, config::AuthInfo};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

/// kubeadm's ports of etcd, for clients and for peers.
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// Bounds of one question.
const CONNECT: Duration = Duration::from_secs(3);
const READ: Duration = Duration::from_secs(10);

/// One etcd.
pub(super) struct Etcd(Client);

/// A member, as all of them tell it. Its name is what it says itself; one that never started has none.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Member {
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default, rename = "peerURLs")]
    pub(super) peer_urls: Vec<String>,
    #[serde(default, rename = "clientURLs")]
    pub(super) client_urls: Vec<String>,
}

#[derive(Deserialize)]
struct Members {
    members: Vec<Member>,
}

/// A text in some versions, a boolean in none that is known.
#[derive(Deserialize)]
struct Health {
    health: String,
}

impl Etcd {
    /// kubeadm's etcd of a node.
    pub(super) fn at(address: IpAddr) -> Result<Self, PhaseError> {
        Self::new(&format!(
            "https://{}",
            SocketAddr::from((address, CLIENT_PORT))
        ))
    }

    fn new(url: &str) -> Result<Self, PhaseError> {
        let unusable = |error: Box<dyn std::error::Error + Send + Sync>| PhaseError::Etcd(error);
        let pki = Path::new(PKI);
        let authority = file::read_text(&pki.join("etcd/ca.crt"))?;
        let authority = CertificateDer::from_pem_slice(authority.as_bytes());
        let authority = authority.map_err(|error| unusable(error.into()))?;
        let mut config = Config::new(
            url.parse()
                .map_err(|error: http::uri::InvalidUri| unusable(error.into()))?,
        );
        config.root_cert = Some(vec![authority.to_vec()]);
        let file = |name: &str| Some(pki.join(name).display().to_string());
        config.auth_info = AuthInfo {
            client_certificate: file("apiserver-etcd-client.crt"),
            client_key: file("apiserver-etcd-client.key"),
            ..AuthInfo::default()
        };
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(READ);
        config.default_retry = false;
        Ok(Self(
            Client::try_from(config).map_err(|error| unusable(error.into()))?,
        ))
    }

    pub(super) async fn members(&self) -> Result<Vec<Member>, PhaseError> {
        let answer: Members = self
            .post(
                "list the members of etcd",
                "/v3/cluster/member/list",
                &json!({}),
            )
            .await?;
        Ok(answer.members)
    }

    pub(super) async fn remove(&self, member: &Member) -> Result<(), PhaseError> {
        let body = json!({"ID": member.id});
        let what = "remove a member of etcd";
        self.post::<Value>(what, "/v3/cluster/member/remove", &body)
            .await
            .map(drop)
    }

    async fn post<T: DeserializeOwned>(
        &self,
        what: &'static str,
        path: &str,
        body: &Value,
    ) -> Result<T, PhaseError> {
        let failed = PhaseError::api(what);
        let request = Request::post(path).body(body.to_string().into_bytes());
        let request = request.map_err(|error| failed(kube::Error::HttpError(error)))?;
        self.0.request(request).await.map_err(failed)
    }

    async fn health(&self) -> Result<bool, PhaseError> {
        let failed = PhaseError::api("ask etcd for its health");
        let request = Request::get("/health").body(Vec::new());
        let request = request.map_err(|error| failed(kube::Error::HttpError(error)))?;
        let health: Health = self.0.request(request).await.map_err(failed)?;
        Ok(health.health == "true")
    }
}

impl Member {
    /// Whether it answers, and has a leader.
    pub(super) async fn is_healthy(&self) -> bool {
        for url in &self.client_urls {
            let Ok(etcd) = Etcd::new(url) else { continue };
            if etcd.health().await.unwrap_or(false) {
                return true;
            }
        }
        false
    }
}

/// Where other members find the etcd of a node.
pub(super) fn peer_url(address: IpAddr) -> String {
    format!("https://{}", SocketAddr::from((address, PEER_PORT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As etcd 3.4 writes them; what is 0 or empty is left out.
    #[test]
    fn members_are_read_as_etcd_writes_them() {
        let text = r#"{
            "header": {"cluster_id": "1", "member_id": "2", "raft_term": "3"},
            "members": [
                {"ID": "18446744073709551615", "name": "control-0", "peerURLs": ["https://10.0.0.1:2380"], "clientURLs": ["https://10.0.0.1:2379"]},
                {"ID": "7", "peerURLs": ["https://10.0.0.2:2380"]}
            ]}"#;
        let members = serde_json::from_str::<Members>(text).unwrap().members;
        assert_eq!(members[0].id, "18446744073709551615");
        assert_eq!(members[1].name, "");
        assert_eq!(members[1].peer_urls, [peer_url([10, 0, 0, 2].into())]);
        assert!(members[1].client_urls.is_empty());
    }
}

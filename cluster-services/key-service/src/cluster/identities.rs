//! The certificates of the services: our own in memory, those of our callers in Secrets.
//!
//! Every replica does the same, without a leader: it looks whether what is there is still good, and
//! replaces it by compare-and-set if not. Who comes second finds it good.

use super::authority::{AuthorityError, Purpose, ServiceAuthority};
use crate::config::{ClientConfig, ClusterConfig};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{Api, api::PostParams};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, pem::PemObject},
};
use service_runtime::{
    Chain, Readiness, Shutdown,
    mtls::{MtlsAcceptor, PeerName, TlsPem},
};
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::watch, time::timeout};
use x509_cert::{Certificate, der::Decode};

/// The ConfigMap with the authority, and its key; the key is the same in Secrets.
const AUTHORITY: &str = "service-ca";
const CA: &str = "ca.crt";

/// Keys of a caller's Secret, as `kubernetes.io/tls` has them.
const CERTIFICATE: &str = "tls.crt";
const PRIVATE_KEY: &str = "tls.key";

/// The condition of readiness: the API server has what callers need.
const CONDITION: &str = "kubernetes";

/// The longest pause between two looks.
const PAUSE: Duration = Duration::from_secs(30);

/// How long one look may take.
const LOOK: Duration = Duration::from_secs(10);

/// Tries of a compare-and-set in one look.
const TRIES: usize = 8;

/// Keeps certificates fresh.
#[derive(Debug)]
pub(crate) struct Identities {
    authority: ServiceAuthority,
    server_name: PeerName,
    lifetime: Duration,
    clients: Vec<ClientConfig>,
    config_maps: Api<ConfigMap>,
    secrets: Api<Secret>,
    readiness: Readiness,
    serving: watch::Sender<Arc<ServerConfig>>,
    serving_until: u64,
}

/// Why the API server does not have what callers need.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error("cannot make a certificate")]
    Authority(#[source] AuthorityError),
    #[error("`{0}` changes all the time")]
    Contended(String),
    #[error("cannot {verb} `{name}`")]
    Kubernetes {
        verb: &'static str,
        name: String,
        source: Box<kube::Error>,
    },
    #[error("no answer in time")]
    Timeout,
}

impl Identities {
    /// The acceptor has the first serving certificate already and gets the next ones.
    pub(crate) fn new(
        authority: ServiceAuthority,
        config: &ClusterConfig,
        config_maps: Api<ConfigMap>,
        secrets: Api<Secret>,
        readiness: Readiness,
    ) -> Result<(Self, MtlsAcceptor), AuthorityError> {
        readiness.set(CONDITION, false);
        let server_name = PeerName::dns(&config.server_name);
        let lifetime = config.certificate_seconds.duration();
        // Names that no certificate can have are found now, not at the first renewal.
        for client in &config.client {
            authority.issue(&client.name, Purpose::Client, now(), lifetime)?;
        }
        let (first, until) = serving(&authority, &server_name, lifetime)?;
        let (sender, receiver) = watch::channel(first);
        let identities = Self {
            authority,
            server_name,
            lifetime,
            clients: config.client.clone(),
            config_maps,
            secrets,
            readiness,
            serving: sender,
            serving_until: until,
        };
        Ok((identities, MtlsAcceptor::following(receiver)))
    }

    /// Looks after the certificates until shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let pause = PAUSE.min(self.lifetime / 8);
        loop {
            let look = async {
                let published = match timeout(LOOK, self.look()).await {
                    Ok(published) => published,
                    Err(_) => Err(PublishError::Timeout),
                };
                self.report(&published);
                // A failure is looked at again soon, but not at once.
                let failed = Duration::from_secs(1).min(pause);
                tokio::time::sleep(if published.is_ok() { pause } else { failed }).await;
            };
            tokio::select! {
                () = shutdown.requested() => return,
                () = look => {}
            }
        }
    }

    fn report(&self, published: &Result<(), PublishError>) {
        self.readiness.set(CONDITION, published.is_ok());
        if let Err(error) = published {
            metrics::counter!("service_certificates_failed_total").increment(1);
            tracing::warn!(error = %Chain(error), "certificates of the services not looked after");
        }
    }

    async fn look(&mut self) -> Result<(), PublishError> {
        if is_due(self.serving_until, self.lifetime) {
            let renewed = serving(&self.authority, &self.server_name, self.lifetime);
            let (config, until) = renewed.map_err(PublishError::Authority)?;
            self.serving.send_replace(config);
            self.serving_until = until;
            renewed_one(&self.server_name);
        }
        self.publish_authority().await?;
        for client in &self.clients {
            self.publish_client(client).await?;
        }
        Ok(())
    }

    async fn publish_authority(&self) -> Result<(), PublishError> {
        for _ in 0..TRIES {
            let mut map = read(self.config_maps.get(AUTHORITY).await, AUTHORITY)?;
            let data = map.data.get_or_insert_default();
            if data.get(CA).map(String::as_str) == Some(self.authority.certificate()) {
                return Ok(());
            }
            data.insert(CA.into(), self.authority.certificate().into());
            let parameters = PostParams::default();
            let put = self.config_maps.replace(AUTHORITY, &parameters, &map).await;
            if written(put, AUTHORITY)? {
                return Ok(());
            }
        }
        Err(PublishError::Contended(AUTHORITY.into()))
    }

    async fn publish_client(&self, client: &ClientConfig) -> Result<(), PublishError> {
        let name = client.secret.as_str();
        for _ in 0..TRIES {
            let mut secret = read(self.secrets.get(name).await, name)?;
            if self.is_good(&secret, &client.name) {
                return Ok(());
            }
            let issued = self
                .authority
                .issue(&client.name, Purpose::Client, now(), self.lifetime)
                .map_err(PublishError::Authority)?;
            let data = secret.data.get_or_insert_default();
            for (key, text) in [
                (CERTIFICATE, issued.certificate.as_str()),
                (PRIVATE_KEY, issued.private_key.as_str()),
                (CA, self.authority.certificate()),
            ] {
                data.insert(key.into(), ByteString(text.as_bytes().to_vec()));
            }
            let parameters = PostParams::default();
            let put = self.secrets.replace(name, &parameters, &secret).await;
            if written(put, name)? {
                renewed_one(&client.name);
                return Ok(());
            }
        }
        Err(PublishError::Contended(name.into()))
    }

    /// Whether a caller with this Secret is let in as `name`, and will be for a while.
    fn is_good(&self, secret: &Secret, name: &PeerName) -> bool {
        let part = |key: &str| -> &[u8] {
            let part = secret.data.as_ref().and_then(|data| data.get(key));
            part.map_or(&[][..], |part| part.0.as_slice())
        };
        let pem = TlsPem {
            certificate: part(CERTIFICATE),
            private_key: part(PRIVATE_KEY),
            peer_ca: part(CA),
        };
        // What was tampered with, a key that does not fit above all, is replaced as well.
        pem.peer_ca == self.authority.certificate().as_bytes()
            && pem.client_config().is_ok()
            && until(&self.authority, pem.certificate, name)
                .is_some_and(|until| !is_due(until, self.lifetime))
    }
}

/// Until when (seconds since 1970) the authority's certificate names `name`; `None` if it does not.
fn until(authority: &ServiceAuthority, pem: &[u8], name: &PeerName) -> Option<u64> {
    let leaf = CertificateDer::from_pem_slice(pem).ok()?;
    let named = PeerName::of_peer(Some(std::slice::from_ref(&leaf))).ok()?;
    if named != *name || !authority.vouches_for(&leaf, now()) {
        return None;
    }
    let certificate = Certificate::from_der(&leaf).ok()?;
    let not_after = certificate.tbs_certificate().validity().not_after;
    Some(not_after.to_unix_duration().as_secs())
}

/// Half of its life is over, or it was made by a clock that was far ahead.
fn is_due(until: u64, lifetime: Duration) -> bool {
    let left = until.saturating_sub(now());
    left <= lifetime.as_secs() / 2 || left > lifetime.as_secs().saturating_mul(2)
}

fn serving(
    authority: &ServiceAuthority,
    name: &PeerName,
    lifetime: Duration,
) -> Result<(Arc<ServerConfig>, u64), AuthorityError> {
    let issued = authority.issue(name, Purpose::Server, now(), lifetime)?;
    let config = issued.with(authority).server_config();
    Ok((config.map_err(AuthorityError::Tls)?, issued.not_after))
}

fn renewed_one(name: &PeerName) {
    metrics::counter!("service_certificates_renewed_total").increment(1);
    tracing::info!(%name, "certificate renewed");
}

fn read<T>(answer: Result<T, kube::Error>, name: &str) -> Result<T, PublishError> {
    answer.map_err(|error| failed("read", name, error))
}

/// Whether a compare-and-set was done; somebody else may have been faster.
fn written<T>(answer: Result<T, kube::Error>, name: &str) -> Result<bool, PublishError> {
    match answer {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(failed("write", name, error)),
    }
}

fn failed(verb: &'static str, name: &str, error: kube::Error) -> PublishError {
    PublishError::Kubernetes {
        verb,
        name: name.to_owned(),
        source: Box::new(error),
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

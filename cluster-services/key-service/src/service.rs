//! From a configuration to a running service.

use crate::{
    callers::{Callers, DuplicateCaller},
    cluster::{Cluster, ClusterError, Identities},
    config::{Config, KeyConfig},
    release::KeyRelease,
};
use api::key::key_service_server::KeyServiceServer;
use identity::KeyVersion;
use key_hierarchy::{KeyEncryptionKey, KeyHierarchy};
use secret::MasterSecret;
use secret_file::{SecretFileError, SecretKind};
use service_runtime::{
    Chain, Readiness, Shutdown, admin,
    audit_log::{AuditLog, OpenError},
    config::ConfigError,
    mtls::{MtlsAcceptor, MtlsError},
    program::Service,
    serve::{self, BindError, Protocol, Server},
    shutdown,
};
use std::{io, net::SocketAddr, time::Duration};
use tokio::net::TcpListener;

/// A key service whose sockets are bound and whose secrets are loaded.
#[derive(Debug)]
pub struct KeyService {
    listener: TcpListener,
    admin: TcpListener,
    acceptor: MtlsAcceptor,
    release: KeyRelease,
    audit: AuditLog,
    readiness: Readiness,
    server: Server,
    identities: Option<Identities>,
}

/// Why the key service did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The audit log cannot be opened.
    #[error("no audit log, no key service")]
    Audit(#[source] OpenError),
    /// An address cannot be used.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The table of callers is ambiguous.
    #[error("the table of callers is ambiguous")]
    Callers(#[source] DuplicateCaller),
    /// The cluster's material cannot be used.
    #[error("no cluster, no key service")]
    Cluster(#[source] ClusterError),
    /// Neither one kind of service nor the other.
    #[error("expected either `[cluster]`, or `[tls]` and `[[key]]`")]
    Mode,
    /// The name of this replica cannot be read.
    #[error("this replica has no name")]
    Replica(#[source] ConfigError),
    /// A version is there twice, or is 0.
    #[error("key version {0} is listed twice, or is 0")]
    KeyVersion(KeyVersion),
    /// There is no key to begin with.
    #[error("no `[[key]]` is configured")]
    NoKey,
    /// A master secret cannot be loaded.
    #[error("cannot load the master secret of key version {version}")]
    Secret {
        /// Its version.
        version: KeyVersion,
        /// Why.
        source: SecretFileError,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] MtlsError),
}

impl KeyService {
    /// Loads everything that the configuration names and binds the sockets.
    ///
    /// # Errors
    /// [`StartError`]; nothing is served then.
    pub async fn bind(config: &Config) -> Result<Self, StartError> {
        let readiness = admin::begin();
        let replica = config.replica.name().map_err(StartError::Replica)?;
        let audit =
            AuditLog::open(&config.audit, &replica, &readiness).map_err(StartError::Audit)?;
        let callers = Callers::new(&config.caller).map_err(StartError::Callers)?;
        let release = |keys| KeyRelease::new(keys, callers, config.limits, audit.clone());
        let (acceptor, release, identities) = match (&config.cluster, &config.tls) {
            (None, Some(tls)) => {
                let acceptor = MtlsAcceptor::new(tls).map_err(StartError::Tls)?;
                (acceptor, release(keys(&config.key)?), None)
            }
            (Some(cluster), None) if config.key.is_empty() => {
                let cluster = Cluster::new(cluster, &readiness)
                    .await
                    .map_err(StartError::Cluster)?;
                let release = release(cluster.keys).in_cluster(cluster.gate);
                (cluster.acceptor, release, Some(cluster.identities))
            }
            _ => return Err(StartError::Mode),
        };
        Ok(Self {
            listener: serve::bind(config.listen).await?,
            admin: serve::bind(config.admin_listen).await?,
            acceptor,
            release,
            audit,
            readiness,
            server: server(config),
            identities,
        })
    }

    /// Where callers connect, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// When the system does not know.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where probes and metrics are served.
    ///
    /// # Errors
    /// When the system does not know.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// The audit log, for whoever keeps its heads elsewhere.
    #[must_use]
    pub const fn audit_log(&self) -> &AuditLog {
        &self.audit
    }

    /// Serves until shutdown is requested and what was begun is answered and recorded.
    pub async fn serve(self, shutdown: Shutdown) {
        let admin = tokio::spawn(admin::run(
            self.admin,
            self.readiness.clone(),
            shutdown.clone(),
        ));
        let identities = self.identities;
        let identities = identities.map(|own| tokio::spawn(own.run(shutdown.clone())));
        let service = KeyServiceServer::new(self.release).max_decoding_message_size(MAX_REQUEST);
        self.readiness.set("serving", true);
        self.server
            .run(self.listener, self.acceptor, service, shutdown)
            .await;
        if let Err(error) = self.audit.finish().await {
            tracing::error!(error = %Chain(&error), "the audit log is not signed to its end");
        }
        shutdown::join([Some(admin), identities].into_iter().flatten()).await;
    }
}

impl Service for KeyService {
    type Config = Config;
    type Error = StartError;
    const NAME: &'static str = "key-service";

    async fn run(config: Config, shutdown: Shutdown) -> Result<(), StartError> {
        let service = Self::bind(&config).await?;
        tracing::info!(
            listen = %config.listen,
            admin_listen = %config.admin_listen,
            callers = config.caller.len(),
            "key service starts"
        );
        service.serve(shutdown).await;
        Ok(())
    }
}

/// The longest request: a volume id of 256 bytes and three numbers.
const MAX_REQUEST: usize = 4 * 1024;

fn server(config: &Config) -> Server {
    let connections = config.limits.connections.get() as usize;
    Server {
        protocol: Protocol::Http2,
        connections,
        // Callers are few and share addresses (a host's, a pod network's).
        connections_per_peer: connections,
        handshake: Duration::from_secs(10),
        idle: Duration::from_secs(30),
        request: Duration::from_secs(10),
        drain: config.drain_seconds.duration(),
    }
}

fn keys(configs: &[KeyConfig]) -> Result<KeyHierarchy, StartError> {
    let (first, more) = configs.split_first().ok_or(StartError::NoKey)?;
    let mut keys = KeyHierarchy::new(version(first)?, key(first)?);
    for config in more {
        keys.add(version(config)?, key(config)?)
            .map_err(|_| StartError::KeyVersion(config.version))?;
    }
    Ok(keys)
}

fn version(config: &KeyConfig) -> Result<KeyVersion, StartError> {
    if config.version < KeyVersion::FIRST {
        return Err(StartError::KeyVersion(config.version));
    }
    Ok(config.version)
}

fn key(config: &KeyConfig) -> Result<KeyEncryptionKey, StartError> {
    let secret = config
        .secret
        .load(SecretKind::MasterSecret, MasterSecret::from_slice)
        .map_err(|source| StartError::Secret {
            version: config.version,
            source,
        })?;
    Ok(KeyEncryptionKey {
        secret,
        salt: config.salt,
    })
}

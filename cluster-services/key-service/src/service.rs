//! From a configuration to a running service.

use crate::{
    callers::{Callers, DuplicateCaller},
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
    mtls::{MtlsAcceptor, MtlsError},
    program::Service,
    serve::{Protocol, Server},
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
}

/// Why the key service did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The audit log cannot be opened.
    #[error("no audit log, no key service")]
    Audit(#[source] OpenError),
    /// An address cannot be used.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The table of callers is ambiguous.
    #[error("the table of callers is ambiguous")]
    Callers(#[source] DuplicateCaller),
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
        let readiness = Readiness::default();
        readiness.set("serving", false);
        admin::install_metrics();
        let audit = AuditLog::open(&config.audit, &config.replica, &readiness)
            .map_err(StartError::Audit)?;
        let callers = Callers::new(&config.caller).map_err(StartError::Callers)?;
        let keys = keys(&config.key)?;
        Ok(Self {
            listener: listen(config.listen).await?,
            admin: listen(config.admin_listen).await?,
            acceptor: MtlsAcceptor::new(&config.tls).map_err(StartError::Tls)?,
            release: KeyRelease::new(keys, callers, config.limits, audit.clone()),
            audit,
            readiness,
            server: server(config),
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
        let service = KeyServiceServer::new(self.release).max_decoding_message_size(MAX_REQUEST);
        self.readiness.set("serving", true);
        self.server
            .run(self.listener, self.acceptor, service, shutdown)
            .await;
        if let Err(error) = self.audit.finish().await {
            tracing::error!(error = %Chain(&error), "the audit log is not signed to its end");
        }
        // Ends by itself: it has seen the same shutdown.
        if let Err(error) = admin.await {
            tracing::error!(error = %Chain(&error), "the administrative server failed");
        }
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

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Bind { address, source })
}

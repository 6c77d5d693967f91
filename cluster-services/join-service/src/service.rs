//! From a configuration to a running service.

use crate::{
    config::{AdmissionKeyConfig, Config, Mode, ModeError, Serves, Standalone, StoreConfig},
    documents::{self, DocumentWatch, DocumentsError},
    endorse::Endorsers,
    handshake::{Desk, Door},
    keys::{self, KeyClient},
    kubernetes::{self, ConfigMapError, ConfigMapWatch, ConnectError, Kubernetes, NodeWatch},
    operator::{self, Admin, OperatorDoor},
    records::Records,
    store::{self, Store},
    tickets::Tickets,
};
use api::{
    admin::join_admin_server::JoinAdminServer, join::join_service_server::JoinServiceServer,
};
use appraisal::Appraiser;
use kube::Client;
use kube_store::ClusterFacts;
use owner::{AdmissionKey, AdmissionKeyCertificate, KeyError, OwnerFingerprint, Seed};
use secret_file::{SecretFileError, SecretKind};
use service_runtime::{
    Chain, Readiness, Shutdown, admin,
    audit_log::{AuditLog, OpenError},
    config::ConfigError,
    program::Service,
    serve::{self, BindError, Protocol, Server},
    shutdown,
    watch::{WatchError, Watched},
};
use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, UnixListener},
    task::JoinSet,
};
use tonic_web::GrpcWebLayer;
use tower::Layer;

/// A join service whose sockets are bound and whose files are open.
pub struct JoinService {
    listener: TcpListener,
    admin_address: Option<SocketAddr>,
    probes: JoinSet<()>,
    door: Door,
    tickets: Tickets,
    audit: AuditLog,
    readiness: Readiness,
    backing: Backing,
    server: Server,
}

/// What the service has beside its sockets, alone or in a cluster.
enum Backing {
    Cluster {
        client: Client,
        config_maps: Box<ConfigMapWatch>,
        nodes: Box<NodeWatch>,
    },
    Standalone {
        store: Store,
        watch: DocumentWatch,
        operator: UnixListener,
        operator_socket: PathBuf,
        operator_door: OperatorDoor,
    },
}

/// What is opened together with a [`Backing`].
struct Opened {
    serves: Serves,
    backing: Backing,
    rules: Watched<Appraiser>,
    records: Records,
    kubernetes: Option<Kubernetes>,
}

/// Why the join service did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The admission key's certificate does not fit the key.
    #[error("the admission key and its certificate do not fit")]
    AdmissionKey(#[source] KeyError),
    /// The admission key is certified by another owner.
    #[error("the admission key is certified by owner {got}, expected {expected}")]
    AdmissionOwner {
        /// The configured owner.
        expected: OwnerFingerprint,
        /// The owner of the certificate.
        got: OwnerFingerprint,
    },
    /// The audit log cannot be opened.
    #[error("no audit log, no join service")]
    Audit(#[source] OpenError),
    /// An address cannot be used.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The admission key's certificate cannot be read.
    #[error("cannot read the admission key's certificate `{}`", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There are no rules to appraise by in the cluster.
    #[error("no policy and reference values, no join service")]
    ConfigMaps(#[source] ConfigMapError),
    /// There is no way to the API server.
    #[error("no API server, no join service")]
    Connect(#[source] ConnectError),
    /// There are no rules to appraise by.
    #[error("no policy and reference values, no join service")]
    Documents(#[source] WatchError<DocumentsError>),
    /// The folder of certificates cannot be used.
    #[error("no endorsements, no join service")]
    Endorsements(#[source] endorsements::OpenError),
    /// The client of the key service cannot be set up.
    #[error("cannot set up the client of the key service")]
    KeyService(#[source] keys::SetupError),
    /// The configuration is neither of a standalone service nor of one in a cluster.
    #[error("configuration")]
    Mode(#[source] ModeError),
    /// The operator's socket cannot be used.
    #[error("cannot listen on `{}`", path.display())]
    OperatorSocket {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The replica has no name.
    #[error("no name for this replica")]
    Replica(#[source] ConfigError),
    /// The admission key cannot be loaded.
    #[error("cannot load the admission key")]
    Secret(#[source] SecretFileError),
    /// It was told to stop while it still waited for the API server.
    #[error("stopped before the API server answered")]
    Stopped,
    /// The store cannot be opened.
    #[error("no store, no join service")]
    Store(#[source] store::OpenError),
    /// Attested TLS cannot be set up.
    #[error("cannot set up attested TLS")]
    Tls(#[source] attested_tls::SetupError),
}

impl JoinService {
    /// Opens everything that the configuration names and binds the sockets. Probes and metrics are served at
    /// once, because an API server that is not there yet is waited for.
    ///
    /// # Errors
    /// [`StartError`]; no node was served then, and probes are not any more.
    pub async fn bind(config: &Config, shutdown: &Shutdown) -> Result<Self, StartError> {
        let readiness = admin::begin();
        let admin = serve::bind(config.admin_listen).await?;
        let admin_address = admin.local_addr().ok();
        let mut probes = JoinSet::new();
        probes.spawn(admin::run(admin, readiness.clone(), shutdown.clone()));
        let replica = config.replica.name().map_err(StartError::Replica)?;
        let audit =
            AuditLog::open(&config.audit, &replica, &readiness).map_err(StartError::Audit)?;
        let opened = match config.mode().map_err(StartError::Mode)? {
            Mode::Cluster { kubeconfig } => {
                open_cluster(kubeconfig, &audit, &readiness, shutdown).await?
            }
            Mode::Standalone(standalone) => open_standalone(standalone)?,
        };
        let (serves, rules) = (opened.serves, opened.rules);
        let key = Arc::new(admission_key(&config.admission_key, serves.owner)?);
        log_rules(&rules.current());
        let endorsers = Endorsers::open(config.endorsements.as_ref(), rules.current().policy())
            .map_err(StartError::Endorsements)?;
        let desk = Desk::new(rules.clone(), endorsers, Arc::clone(&key), audit.clone());
        let keys = KeyClient::new(&config.key_service, readiness.clone())
            .map_err(StartError::KeyService)?;
        Ok(Self {
            listener: serve::bind(config.listen).await?,
            admin_address,
            probes,
            door: Door::new(desk, &config.limits).map_err(StartError::Tls)?,
            tickets: Tickets {
                rules,
                records: opened.records,
                kubernetes: opened.kubernetes,
                audit: audit.clone(),
                keys,
                admission_key: key,
                cluster: serves.cluster,
                key_version: serves.key_version,
            },
            audit,
            readiness,
            backing: opened.backing,
            server: server(config),
        })
    }

    /// Where nodes connect, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// When the system does not know.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where probes and metrics are served, if the system knows.
    #[must_use]
    pub const fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// The audit log, for whoever keeps its heads elsewhere.
    #[must_use]
    pub const fn audit_log(&self) -> &AuditLog {
        &self.audit
    }

    /// Serves until shutdown is requested and what was begun is answered and recorded.
    pub async fn serve(mut self, shutdown: Shutdown) {
        let mut tasks = Vec::new();
        let mut left_over = None;
        match self.backing {
            Backing::Cluster {
                client,
                config_maps,
                nodes,
            } => {
                tasks.push(tokio::spawn(config_maps.run(shutdown.clone())));
                tasks.push(tokio::spawn(nodes.run(client, shutdown.clone())));
                let keys = self.tickets.keys.clone();
                tasks.push(tokio::spawn(probe(keys, shutdown.clone())));
            }
            Backing::Standalone {
                store,
                watch,
                operator,
                operator_socket,
                operator_door,
            } => {
                tasks.push(tokio::spawn(watch.run(shutdown.clone())));
                let admin = Admin {
                    store: store.clone(),
                    audit: self.audit.clone(),
                    key_version: self.tickets.key_version,
                };
                let admin = JoinAdminServer::new(admin).max_decoding_message_size(MAX_REQUEST);
                let server = Server {
                    protocol: Protocol::Http2,
                    connections: 16,
                    connections_per_peer: 16,
                    ..self.server
                };
                let serving = server.run(operator, operator_door, admin, shutdown.clone());
                tasks.push(tokio::spawn(serving));
                left_over = Some((store, operator_socket));
            }
        }
        let tickets = JoinServiceServer::new(self.tickets).max_decoding_message_size(MAX_REQUEST);
        let tickets = GrpcWebLayer::new().layer(tickets);
        self.readiness.set("serving", true);
        self.server
            .run(self.listener, self.door, tickets, shutdown)
            .await;
        shutdown::join(tasks).await;
        while let Some(ended) = self.probes.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "probes and metrics");
            }
        }
        let (store, socket) = left_over.unzip();
        if let Some(store) = store {
            store.close().await;
        }
        if let Err(error) = self.audit.finish().await {
            tracing::error!(error = %Chain(&error), "the audit log is not signed to its end");
        }
        if let Some(socket) = socket {
            // The next start removes it if this one cannot.
            drop(fs::remove_file(&socket));
        }
    }
}

fn open_standalone(config: Standalone<'_>) -> Result<Opened, StartError> {
    let Serves { cluster, owner, .. } = config.serves;
    let store = Store::open(config.store, cluster).map_err(StartError::Store)?;
    let (watch, rules) =
        documents::open(config.documents, owner, store.clone()).map_err(StartError::Documents)?;
    let socket = |source| StartError::OperatorSocket {
        path: config.operator_socket.to_owned(),
        source,
    };
    Ok(Opened {
        serves: config.serves,
        records: Records::File(store.clone()),
        kubernetes: None,
        rules,
        backing: Backing::Standalone {
            store,
            watch,
            operator: operator::bind(config.operator_socket).map_err(socket)?,
            operator_socket: config.operator_socket.to_owned(),
            operator_door: OperatorDoor::new().map_err(socket)?,
        },
    })
}

async fn open_cluster(
    kubeconfig: Option<&Path>,
    audit: &AuditLog,
    readiness: &Readiness,
    shutdown: &Shutdown,
) -> Result<Opened, StartError> {
    let opening = first_documents(kubeconfig, readiness);
    let (client, (config_maps, rules, facts)) = tokio::select! {
        opened = opening => opened?,
        () = shutdown.requested() => return Err(StartError::Stopped),
    };
    let serves = config_maps.serves();
    let kubernetes = Kubernetes::new(client.clone(), facts, audit.clone(), serves.key_version);
    Ok(Opened {
        serves,
        records: Records::Cluster(kubernetes.store().clone()),
        rules,
        backing: Backing::Cluster {
            client,
            config_maps: Box::new(config_maps),
            nodes: Box::new(NodeWatch::new(kubernetes.clone())),
        },
        kubernetes: Some(kubernetes),
    })
}

/// The documents to begin with. After a power cut this service is up before the API server is reached, and one
/// that stopped for that would be started again ever more slowly, while all nodes wait for it. Each try reads
/// the credentials anew.
async fn first_documents(
    kubeconfig: Option<&Path>,
    readiness: &Readiness,
) -> Result<(Client, FirstDocuments), StartError> {
    const INTERVAL: Duration = Duration::from_secs(1);
    readiness.set(kubernetes::READY, false);
    loop {
        let client = kubernetes::connect(kubeconfig).await;
        let client = client.map_err(StartError::Connect)?;
        match ConfigMapWatch::open(client.clone(), readiness.clone()).await {
            Ok(opened) => {
                readiness.set(kubernetes::READY, true);
                return Ok((client, opened));
            }
            Err(error) if error.may_pass() => {
                tracing::warn!(error = %Chain(&error), "the API server gives no documents yet");
            }
            Err(error) => return Err(StartError::ConfigMaps(error)),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// What [`ConfigMapWatch::open`] gives.
type FirstDocuments = (ConfigMapWatch, Watched<Appraiser>, Watched<ClusterFacts>);

/// Finds out when the key service is back: a replica that is not ready gets no requests.
async fn probe(keys: KeyClient, shutdown: Shutdown) {
    const INTERVAL: Duration = Duration::from_secs(2);
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(INTERVAL) => keys.probe().await,
        }
    }
}

impl std::fmt::Debug for JoinService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinService")
            .field("listener", &self.listener)
            .finish_non_exhaustive()
    }
}

impl Service for JoinService {
    type Config = Config;
    type Error = StartError;
    const NAME: &'static str = "join-service";

    async fn run(config: Config, shutdown: Shutdown) -> Result<(), StartError> {
        let service = match Self::bind(&config, &shutdown).await {
            Err(StartError::Stopped) => return Ok(()),
            bound => bound?,
        };
        tracing::info!(
            listen = %config.listen,
            admin_listen = %config.admin_listen,
            store = ?config.store,
            cluster = %service.tickets.cluster,
            "join service starts"
        );
        service.serve(shutdown).await;
        Ok(())
    }
}

/// The longest request: a certificate request of 8 KiB and three names.
const MAX_REQUEST: usize = 16 * 1024;

/// Longer than a handshake's own limit, which says more about what was slow.
const HANDSHAKE_SLACK: Duration = Duration::from_secs(5);

fn server(config: &Config) -> Server {
    let limits = &config.limits;
    Server {
        protocol: Protocol::Http1,
        connections: limits.connections.get() as usize,
        connections_per_peer: limits.connections_per_address.get() as usize,
        handshake: limits.handshake_seconds.duration() + HANDSHAKE_SLACK,
        idle: limits.idle_seconds.duration(),
        request: config.key_service.timeout_seconds.duration()
            + match config.store {
                StoreConfig::File { .. } => Duration::from_secs(10),
                StoreConfig::Kubernetes { .. } => kubernetes::TICKET_TIMEOUT,
            },
        drain: config.drain_seconds.duration(),
    }
}

fn admission_key(
    config: &AdmissionKeyConfig,
    owner: OwnerFingerprint,
) -> Result<AdmissionKey, StartError> {
    let text = fs::read(&config.certificate).map_err(|source| StartError::Certificate {
        path: config.certificate.clone(),
        source,
    })?;
    let (certified_by, certificate) =
        AdmissionKeyCertificate::parse(&text).map_err(StartError::AdmissionKey)?;
    let got = certified_by.fingerprint();
    if got != owner {
        return Err(StartError::AdmissionOwner {
            expected: owner,
            got,
        });
    }
    let seed = config
        .secret
        .load(SecretKind::AdmissionKey, Seed::from_slice)
        .map_err(StartError::Secret)?;
    AdmissionKey::new(&seed, certified_by, certificate).map_err(StartError::AdmissionKey)
}

fn log_rules(rules: &Appraiser) {
    let images: Vec<_> = rules.reference_values().images().iter().collect();
    tracing::info!(
        policy_serial = rules.policy().serial(),
        reference_values_serial = rules.reference_values().serial(),
        images = ?images.iter().map(|image| image.name()).collect::<Vec<_>>(),
        "policy and reference values in force"
    );
}

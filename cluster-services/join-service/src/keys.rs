//! The key service, as the join service calls it.

use crate::config::KeyServiceConfig;
use admission::Release;
use api::{
    Class,
    key::{GetControlPlaneFilesRequest, GetDataKeyRequest, key_service_client::KeyServiceClient},
};
use hand_off::ControlPlaneFiles;
use hyper_util::rt::TokioIo;
use secret::DataKey;
use service_runtime::{
    Chain, Readiness,
    mtls::{self, MtlsError, TlsFiles},
};
use std::{io, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::pki_types::{InvalidDnsNameError, ServerName},
};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint, Uri},
};

/// A connection to the key service: made when it is needed, made again when it breaks.
#[derive(Debug, Clone)]
pub struct KeyClient {
    client: KeyServiceClient<Channel>,
    connector: Connector,
    timeout: Duration,
    readiness: Readiness,
}

/// Connects anew with the certificate and the authority that the files hold then: the key service of
/// a cluster rotates both.
#[derive(Debug, Clone)]
struct Connector {
    address: String,
    name: ServerName<'static>,
    tls: TlsFiles,
}

/// Why the client cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The server's name is none.
    #[error("`{name}` is not a server name")]
    Name {
        /// The configured name.
        name: String,
        /// Why.
        source: InvalidDnsNameError,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] MtlsError),
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The files of a control plane do not parse.
    #[error("malformed control-plane files")]
    Files(#[source] serde_json::Error),
    /// The key service answered with a key of another length.
    #[error("expected a key of {} bytes, got {got}", DataKey::LEN)]
    Length {
        /// Its length.
        got: usize,
    },
    /// The key service did not answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The key service cannot be reached, or has reasons of its own.
    #[error("the key service answered {code:?}")]
    Status {
        /// The class of it.
        code: Code,
        /// All of it.
        source: Box<Status>,
    },
}

const READY: &str = "key-service";

impl KeyClient {
    /// A client; nothing is connected yet.
    ///
    /// # Errors
    /// [`SetupError`] names the file or key that does not fit.
    pub fn new(config: &KeyServiceConfig, readiness: Readiness) -> Result<Self, SetupError> {
        // What is wrong with the files now is wrong with the configuration.
        mtls::client_config(&config.tls).map_err(SetupError::Tls)?;
        let name = ServerName::try_from(config.server_name.clone()).map_err(|source| {
            SetupError::Name {
                name: config.server_name.clone(),
                source,
            }
        })?;
        let connector = Connector {
            address: config.address.clone(),
            name,
            tls: config.tls.clone(),
        };
        let shared = connector.clone();
        let connect = tower::service_fn(move |_: Uri| {
            let connector = shared.clone();
            async move { connector.connect().await.map(TokioIo::new) }
        });
        let timeout = config.timeout_seconds.duration();
        let channel = Endpoint::from_static("http://key-service")
            .connect_timeout(timeout)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .connect_with_connector_lazy(connect);
        Ok(Self {
            client: KeyServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER),
            connector,
            timeout,
            readiness,
        })
    }

    /// Fetches the key that may be released.
    ///
    /// # Errors
    /// [`KeyError`]; asking again later loses nothing.
    pub async fn data_key(&self, release: &Release) -> Result<DataKey, KeyError> {
        let key = self.fetch(release).await;
        let reached = !matches!(&key, Err(error) if error.class() == Class::Unavailable);
        self.readiness.set(READY, reached);
        if let Err(error) = &key {
            tracing::error!(disk = %release.disk(), error = %Chain(error), "no data key");
        }
        key
    }

    /// Fetches what makes a control-plane node of the disk that a ticket was issued for. The key
    /// service judges for itself whether it is one.
    ///
    /// # Errors
    /// [`KeyError`]; asking again later loses nothing.
    pub async fn control_plane_files(
        &self,
        release: &Release,
    ) -> Result<ControlPlaneFiles, KeyError> {
        let request = GetControlPlaneFilesRequest {
            disk_uuid: release.disk().to_string(),
        };
        let mut client = self.client.clone();
        let answer = self.answer(client.get_control_plane_files(request)).await?;
        // The message wipes its copy when it is dropped.
        serde_json::from_slice(&answer.files).map_err(KeyError::Files)
    }

    /// Shakes hands, if the last request got no answer: a service that is not ready gets no requests
    /// that could tell it otherwise.
    pub async fn probe(&self) {
        if !self.readiness.missing().contains(&READY) {
            return;
        }
        match tokio::time::timeout(self.timeout, self.connector.connect()).await {
            Ok(Ok(_connected)) => self.readiness.set(READY, true),
            Ok(Err(error)) => tracing::warn!(error = %Chain(&error), "no key service"),
            Err(_) => tracing::warn!("no key service in time"),
        }
    }

    async fn fetch(&self, release: &Release) -> Result<DataKey, KeyError> {
        let request = GetDataKeyRequest {
            data_key_id: format!("state-disk/{}", release.disk()),
            length: KEY_LENGTH,
            key_version: release.key_version().0,
        };
        let mut client = self.client.clone();
        let answer = self.answer(client.get_data_key(request)).await?;
        // The message wipes its copy when it is dropped.
        let bytes = &answer.data_key;
        let key = DataKey::from_slice(bytes).ok_or(KeyError::Length { got: bytes.len() })?;
        Ok(key)
    }

    async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, KeyError> {
        let answer = tokio::time::timeout(self.timeout, call)
            .await
            .map_err(|_| KeyError::Timeout)?;
        answer
            .map(Response::into_inner)
            .map_err(|status| KeyError::Status {
                code: status.code(),
                source: Box::new(status),
            })
    }
}

impl Connector {
    async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let tls = mtls::client_config(&self.tls).map_err(io::Error::other)?;
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(tls);
        connector.connect(self.name.clone(), stream).await
    }
}

/// The length of a state disk's data key; [`DataKey`] refuses any other.
const KEY_LENGTH: u32 = 32;

/// The keys and certificates of a control plane; a data key is far below.
const MAX_ANSWER: usize = 256 << 10;

impl KeyError {
    /// Who is to blame from a node's view: it can only wait, or it is our own fault.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            // `Unknown` is tonic's word for a broken transport; the key service never says it.
            Self::Timeout
            | Self::Status {
                code: Code::Unknown,
                ..
            } => Class::Unavailable,
            Self::Status { code, .. } => match Class::from_grpc_code(*code as u32) {
                Class::Unavailable => Class::Unavailable,
                // The key service refuses us, not the node: the two are configured apart.
                _ => Class::Internal,
            },
            Self::Files(_) | Self::Length { .. } => Class::Internal,
        }
    }
}

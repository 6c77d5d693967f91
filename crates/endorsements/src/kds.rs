//! AMD's key distribution service (AMD 57230, "VCEK Certificate and KDS Interface Specification").

use crate::{EndorsementId, FetchConfig, RejectedLeaf, backoff::Backoff, store::MAX_LEAF};
use rustls::crypto::aws_lc_rs;
use snp::{KeyKind, MAX_REVOCATION_LIST, Product, RevocationError};
use std::{sync::Arc, thread, time::Duration};
use thiserror::Error;
use ureq::{
    Agent,
    http::{Response, StatusCode, Uri, header::RETRY_AFTER},
    tls::{RootCerts, TlsConfig},
};

/// Where the service is.
pub const KDS_URL: &str = "https://kdsintf.amd.com";

/// The longest a server may ask us to wait.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// Why a base URL cannot be used. Class: malformed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{url}` is not an `http` or `https` URL without query and fragment")]
pub struct KdsError {
    url: String,
}

/// Why there is no answer, sorted by what to do next.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The service has none: 400 or 404. Ask again after a while, not at once.
    #[error("the service has no such certificate: status {0}")]
    Absent(u16),
    /// The service does not give out VLEKs to guests. Never ask.
    #[error("VLEK certificates are the provider's to hand out")]
    NotServed,
    /// The service wants fewer requests: 429.
    #[error("the service asks for fewer requests")]
    RateLimited {
        /// For how long, if it says so.
        retry_after: Option<Duration>,
    },
    /// A certificate came that may not be kept.
    #[error("the service sent a certificate that is refused")]
    RejectedLeaf(#[source] RejectedLeaf),
    /// A list came that may not be kept.
    #[error("the service sent a revocation list that is refused")]
    RejectedList(#[source] RevocationError),
    /// Another status.
    #[error("the service answers with status {0}")]
    Status(u16),
    /// The answer is larger than any certificate.
    #[error("the service sent more than {0} bytes")]
    TooLarge(u64),
    /// No connection, no answer in time, or a broken one.
    #[error("the service cannot be reached")]
    Transport(#[source] Box<ureq::Error>),
}

impl FetchError {
    /// Whether the same request may be answered later.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        match self {
            Self::RateLimited { .. } | Self::Status(_) | Self::Transport(_) => true,
            Self::Absent(_)
            | Self::NotServed
            | Self::RejectedLeaf(_)
            | Self::RejectedList(_)
            | Self::TooLarge(_) => false,
        }
    }

    /// How long to leave the service alone.
    pub(crate) fn pause(&self, backoff: &mut Backoff) -> Duration {
        let pause = backoff.next();
        match self {
            Self::RateLimited {
                retry_after: Some(at_least),
            } => pause.max(*at_least),
            _ => pause,
        }
    }
}

/// Tries again up to `attempts` times, with pauses, for somebody who waits.
///
/// # Errors
/// The last failure, or the first that is not temporary.
pub fn with_patience<T>(
    bounds: &FetchConfig,
    attempts: u32,
    mut fetch: impl FnMut() -> Result<T, FetchError>,
) -> Result<T, FetchError> {
    let mut backoff = Backoff::new(bounds.first_pause, bounds.longest_pause);
    for _ in 1..attempts {
        match fetch() {
            Err(error) if error.is_temporary() => thread::sleep(error.pause(&mut backoff)),
            other => return other,
        }
    }
    fetch()
}

/// A client of the service. Redirects are not followed, proxies of the environment are not used.
#[derive(Clone, Debug)]
pub struct Kds {
    agent: Agent,
    base: String,
}

impl Kds {
    /// A client that gives every request `timeout` in all.
    ///
    /// # Errors
    /// [`KdsError`].
    pub fn new(base_url: &str, timeout: Duration) -> Result<Self, KdsError> {
        let base = base_url.trim_end_matches('/');
        let refused = || KdsError {
            url: base_url.to_owned(),
        };
        let uri: Uri = base.parse().map_err(|_| refused())?;
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        if !known || uri.host().is_none() || base.contains(['?', '#']) {
            return Err(refused());
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::WebPki)
            .unversioned_rustls_crypto_provider(provider)
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .max_idle_connections(1)
            .timeout_global(Some(timeout))
            .build();
        Ok(Self {
            agent: config.new_agent(),
            base: base.to_owned(),
        })
    }

    /// Asks for the certificate of a chip. The answer is not verified yet.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn leaf(&self, id: &EndorsementId) -> Result<Vec<u8>, FetchError> {
        if id.kind() == KeyKind::Vlek {
            return Err(FetchError::NotServed);
        }
        self.get(&path(id), MAX_LEAF)
    }

    /// Asks for the revocation list of a product line. The answer is not verified yet.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn revocation_list(&self, product: Product) -> Result<Vec<u8>, FetchError> {
        let path = format!("/vcek/v1/{}/crl", product.kds_name());
        self.get(&path, MAX_REVOCATION_LIST)
    }

    fn get(&self, path: &str, max: usize) -> Result<Vec<u8>, FetchError> {
        let answer = self.agent.get(format!("{}{path}", self.base)).call();
        let mut answer = answer.map_err(transport)?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => {
                return Err(FetchError::Absent(answer.status().as_u16()));
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let retry_after = retry_after(&answer);
                return Err(FetchError::RateLimited { retry_after });
            }
            other => return Err(FetchError::Status(other.as_u16())),
        }
        let max = u64::try_from(max).unwrap_or(u64::MAX);
        let body = answer.body_mut().with_config().limit(max);
        body.read_to_vec().map_err(transport)
    }
}

fn transport(error: ureq::Error) -> FetchError {
    match error {
        ureq::Error::BodyExceedsLimit(limit) => FetchError::TooLarge(limit),
        other => FetchError::Transport(Box::new(other)),
    }
}

/// Seconds only: a date would need the server's clock and ours to agree.
fn retry_after<B>(answer: &Response<B>) -> Option<Duration> {
    let text = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
    let seconds = text.parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

/// Path and query of a VCEK: the versions of all components that the product line has.
fn path(id: &EndorsementId) -> String {
    let parameters: Vec<_> = id
        .tcb()
        .components()
        .map(|(component, version)| format!("{}={version:02}", component.kds_parameter()))
        .collect();
    let (product, chip) = (id.product().kds_name(), id.hardware_id());
    format!("/vcek/v1/{product}/{chip}?{}", parameters.join("&"))
}

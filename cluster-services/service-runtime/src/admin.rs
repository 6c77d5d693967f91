//! The administrative HTTP server: `/healthz`, `/readyz` and `/metrics`.
//!
//! It answers anyone who can reach its address and gives away no secret; bind it to loopback or to a
//! monitoring network.

use crate::{serve, shutdown::Shutdown};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};
use tokio::net::TcpListener;

/// Whether a service can do its work: a set of named conditions, all of which must hold.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, bool>>>);

impl Readiness {
    /// States a condition.
    pub fn set(&self, condition: &'static str, holds: bool) {
        let mut conditions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        conditions.insert(condition, holds);
    }

    /// The conditions that do not hold.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let conditions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = conditions.iter().filter(|(_, holds)| !**holds);
        missing.map(|(condition, _)| *condition).collect()
    }
}

/// What a service begins with: metrics count, and it is not ready before it says that it is `serving`.
#[must_use]
pub fn begin() -> Readiness {
    install_metrics();
    let readiness = Readiness::default();
    readiness.set("serving", false);
    readiness
}

/// Makes this process count. Metrics recorded before the first call are lost.
fn install_metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let handle = HANDLE.get_or_init(|| {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::error!("another metrics recorder is installed; `/metrics` stays empty");
        }
        handle
    });
    handle.clone()
}

/// Most connections at a time: a scraper, probes and an operator.
const MAX_CONNECTIONS: usize = 32;

/// Histograms keep every value until somebody looks: this often we do, where nobody else does.
const UPKEEP: Duration = Duration::from_secs(5);

/// Serves until shutdown.
pub async fn run(listener: TcpListener, readiness: Readiness, shutdown: Shutdown) {
    let metrics = install_metrics();
    let server = serve::Server {
        protocol: serve::Protocol::Http1,
        connections: MAX_CONNECTIONS,
        connections_per_peer: MAX_CONNECTIONS,
        handshake: Duration::from_secs(5),
        idle: Duration::from_secs(60),
        request: Duration::from_secs(5),
        drain: Duration::from_secs(1),
    };
    let shown = metrics.clone();
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, &readiness, &shown);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = server.run(listener, serve::Plain, service, shutdown);
    meanwhile(served, UPKEEP, || metrics.run_upkeep()).await;
}

/// Waits for `work`, and calls `chore` once a `period` until then.
async fn meanwhile(work: impl Future<Output = ()>, period: Duration, chore: impl Fn()) {
    let chores = async {
        loop {
            tokio::time::sleep(period).await;
            chore();
        }
    };
    tokio::select! {
        () = work => {}
        never = chores => never,
    }
}

fn answer(
    request: &Request<Incoming>,
    readiness: &Readiness,
    metrics: &PrometheusHandle,
) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n".into()),
        "/readyz" => match readiness.missing() {
            missing if missing.is_empty() => text(StatusCode::OK, "ready\n".into()),
            missing => text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready: {}\n", missing.join(", ")),
            ),
        },
        "/metrics" => text(StatusCode::OK, metrics.render()),
        _ => text(
            StatusCode::NOT_FOUND,
            "try /healthz, /readyz or /metrics\n".into(),
        ),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; version=0.0.4"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn chores_are_done_meanwhile() {
        let (done, period) = (Cell::new(0), Duration::from_millis(5));
        let work = async {
            while done.get() < 3 {
                tokio::time::sleep(period).await;
            }
        };
        let both = meanwhile(work, period, || done.set(done.get() + 1));
        tokio::time::timeout(Duration::from_secs(30), both)
            .await
            .unwrap();
        assert!(done.get() >= 3);
    }
}

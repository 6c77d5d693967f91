//! The far end of the protocol that an init is followed by, as `protos/proto/bootstrap.proto` has it;
//! what it says is a script.

use api::bootstrap::{
    Ended, FinishRequest, FinishResponse, FollowRequest, GetResultRequest, GetResultResponse,
    Phase, PhaseState, Progress,
    bootstrap_server::{Bootstrap, BootstrapServer},
    progress::Event,
};
use hand_off::ProgressMaterial;
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, mpsc},
    thread,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_stream::Iter;
use tonic::{Request, Response, Status};

/// What happens in one run of `Follow`, in order.
pub(crate) type Script = Vec<Event>;

pub(crate) fn phase(name: &str, number: u32, state: PhaseState) -> Event {
    Event::Phase(Phase {
        name: name.into(),
        number,
        of: 2,
        state: state.into(),
        elapsed_ms: u64::from(number) * 1500,
    })
}

pub(crate) fn ended(error: &str) -> Event {
    Event::Ended(Ended {
        succeeded: error.is_empty(),
        error: error.into(),
    })
}

/// A running bootstrapper; it ends with the test.
pub(crate) struct Scripted {
    finished: mpsc::Receiver<()>,
}

impl Scripted {
    /// Listens on `port`. Each follower gets the next script; one that does not end breaks off.
    pub(crate) fn listen(
        port: u16,
        material: &ProgressMaterial,
        scripts: Vec<Script>,
        result: GetResultResponse,
    ) -> Self {
        let (sender, finished) = mpsc::channel();
        let handler = Handler {
            scripts: Arc::new(Mutex::new(scripts)),
            result: Arc::new(result),
            finished: sender,
        };
        let acceptor = TlsAcceptor::from(Arc::new(tls(material)));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(serve(address, acceptor, handler));
        });
        Self { finished }
    }

    /// How often somebody said that all is stored.
    pub(crate) fn finished(&self) -> usize {
        self.finished.try_iter().count()
    }
}

/// Lets in whoever has the client's certificate and its key.
fn tls(material: &ProgressMaterial) -> ServerConfig {
    let pem = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(material.server_key.expose_secret().as_bytes());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(pem(&material.client_certificate)).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![pem(&material.server_certificate)], key.unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

async fn serve(address: SocketAddr, acceptor: TlsAcceptor, handler: Handler) {
    let listener = TcpListener::bind(address).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, handler) = (acceptor.clone(), handler.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = TowerToHyperService::new(BootstrapServer::new(handler));
            let connection = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            drop(connection.await);
        });
    }
}

#[derive(Clone)]
struct Handler {
    scripts: Arc<Mutex<Vec<Script>>>,
    result: Arc<GetResultResponse>,
    finished: mpsc::Sender<()>,
}

#[tonic::async_trait]
impl Bootstrap for Handler {
    type FollowStream = Iter<std::vec::IntoIter<Result<Progress, Status>>>;

    async fn follow(
        &self,
        _: Request<FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let mut scripts = self.scripts.lock().unwrap();
        if scripts.is_empty() {
            return Err(Status::unavailable("no script left"));
        }
        let script = scripts.remove(0);
        let message = |event| Ok(Progress { event: Some(event) });
        let messages: Vec<_> = script.into_iter().map(message).collect();
        Ok(Response::new(tokio_stream::iter(messages)))
    }

    async fn get_result(
        &self,
        _: Request<GetResultRequest>,
    ) -> Result<Response<GetResultResponse>, Status> {
        Ok(Response::new(GetResultResponse {
            kubeconfig: self.result.kubeconfig.clone(),
            node_record: self.result.node_record.clone(),
        }))
    }

    async fn finish(&self, _: Request<FinishRequest>) -> Result<Response<FinishResponse>, Status> {
        self.finished.send(()).unwrap();
        Ok(Response::new(FinishResponse {}))
    }
}

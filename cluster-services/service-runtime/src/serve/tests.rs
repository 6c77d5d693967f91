use super::*;
use crate::shutdown::Trigger;
use http_body_util::Full;
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, Semaphore},
    task::JoinHandle,
};

const LIMITS: Server = Server {
    protocol: Protocol::Http1,
    connections: 3,
    connections_per_peer: 2,
    handshake: Duration::from_secs(5),
    idle: Duration::from_secs(5),
    request: Duration::from_secs(5),
    drain: Duration::from_secs(5),
};

/// Answers with the peer's address, but each request only when it gets a permit.
struct Setup {
    address: SocketAddr,
    begun: Arc<Notify>,
    permits: Arc<Semaphore>,
    trigger: Trigger,
    serving: JoinHandle<()>,
}

impl Setup {
    async fn start(server: Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (begun, permits) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
        let (trigger, shutdown) = Shutdown::new();
        let gates = (Arc::clone(&begun), Arc::clone(&permits));
        let service = tower::service_fn(move |request: Request<Incoming>| {
            let (begun, permits) = gates.clone();
            async move {
                begun.notify_one();
                permits.acquire().await.unwrap().forget();
                let peer = request.extensions().get::<IpAddr>().unwrap().to_string();
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(peer))))
            }
        });
        let serving = tokio::spawn(server.run(listener, Plain, service, shutdown));
        Self {
            address,
            begun,
            permits,
            trigger,
            serving,
        }
    }

    async fn request(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        stream
    }
}

/// What comes until the server closes; empty after a reset, too.
async fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_drain_answers_what_was_begun() {
    let setup = Setup::start(LIMITS).await;
    let stream = setup.request().await;
    setup.begun.notified().await;
    setup.trigger.request();
    setup.permits.add_permits(1);
    assert!(rest(stream).await.ends_with("127.0.0.1"));
    setup.serving.await.unwrap();
    assert!(TcpStream::connect(setup.address).await.is_err());
}

#[tokio::test]
async fn a_drain_is_cut_off_in_time() {
    let drain = Duration::from_millis(10);
    let setup = Setup::start(Server { drain, ..LIMITS }).await;
    let stream = setup.request().await;
    setup.begun.notified().await;
    setup.trigger.request();
    setup.serving.await.unwrap();
    assert_eq!(rest(stream).await, "");
}

#[tokio::test]
async fn one_peer_has_so_many_connections() {
    let setup = Setup::start(LIMITS).await;
    let first = setup.request().await;
    setup.begun.notified().await;
    let second = setup.request().await;
    setup.begun.notified().await;
    assert_eq!(rest(setup.request().await).await, "");
    setup.permits.add_permits(2);
    setup.trigger.request();
    assert!(rest(first).await.ends_with("127.0.0.1"));
    assert!(rest(second).await.ends_with("127.0.0.1"));
}

#[test]
fn a_whole_ipv6_subnet_is_one_peer() {
    let peer = |address: &str| TcpListener::peer(&address.parse().unwrap());
    assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:0:0:1"));
    assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
    assert_ne!(peer("192.0.2.1"), peer("192.0.2.2"));
}

#[tokio::test]
async fn slow_heads_and_slow_requests_are_closed() {
    let short = Duration::from_millis(50);
    let setup = Setup::start(Server {
        idle: short,
        ..LIMITS
    })
    .await;
    let mut trickle = TcpStream::connect(setup.address).await.unwrap();
    trickle.write_all(b"GET / HT").await.unwrap();
    assert!(!rest(trickle).await.contains("127.0.0.1"));
    let setup = Setup::start(Server {
        request: short,
        ..LIMITS
    })
    .await;
    assert_eq!(rest(setup.request().await).await, "");
    let setup = Setup::start(LIMITS).await;
    let mut large = TcpStream::connect(setup.address).await.unwrap();
    let head = format!(
        "GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n",
        "y".repeat(2 * MAX_HEAD)
    );
    let _reset = large.write_all(head.as_bytes()).await;
    assert!(!rest(large).await.contains("127.0.0.1"));
}

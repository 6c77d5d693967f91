//! A control-plane node, with a key service of the test's: what it is asked, and where it goes.

use crate::{
    setup::CONTROL_PLANE_IMAGE,
    site::{Kubelet, ask_join_as, ask_rejoin, shared, store},
};
use admission::{Context, OperatorAction, Timestamp, operate};
use api::{
    Class,
    key::{
        GetControlPlaneFilesRequest, GetControlPlaneFilesResponse, GetDataKeyRequest,
        GetDataKeyResponse,
        key_service_server::{KeyService, KeyServiceServer},
    },
};
use identity::{KeyVersion, Role};
use join_service::{Config, JoinService};
use service_runtime::{
    Shutdown, config,
    mtls::{MtlsAcceptor, TlsFiles},
    serve::{Protocol, Server},
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

/// Gives every disk the same key and the same files.
#[derive(Clone, Default)]
struct FakeKeys(Arc<Mutex<Vec<String>>>);

#[tonic::async_trait]
impl KeyService for FakeKeys {
    async fn get_data_key(
        &self,
        _: Request<GetDataKeyRequest>,
    ) -> Result<Response<GetDataKeyResponse>, Status> {
        Ok(Response::new(GetDataKeyResponse {
            data_key: vec![7; 32],
        }))
    }

    async fn get_control_plane_files(
        &self,
        request: Request<GetControlPlaneFilesRequest>,
    ) -> Result<Response<GetControlPlaneFilesResponse>, Status> {
        let disk = request.into_inner().disk_uuid;
        self.0.lock().unwrap().push(disk);
        Ok(Response::new(GetControlPlaneFilesResponse {
            files: br#"{"ca.key": "the key"}"#.to_vec(),
        }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_go_to_control_plane_nodes_only() {
    let (control_plane, site) = shared();
    let keys = FakeKeys::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let acceptor = MtlsAcceptor::new(&TlsFiles {
        certificate: site.cluster.path("key-service.pem"),
        private_key: site.cluster.path("key-service.key"),
        peer_ca: site.cluster.path("ca.pem"),
    });
    let server = Server {
        protocol: Protocol::Http2,
        connections: 16,
        connections_per_peer: 16,
        handshake: Duration::from_secs(5),
        idle: Duration::from_secs(60),
        request: Duration::from_secs(5),
        drain: Duration::from_secs(1),
    };
    let (trigger, shutdown) = Shutdown::new();
    let service = KeyServiceServer::new(keys.clone());
    tokio::spawn(server.run(listener, acceptor.unwrap(), service, shutdown.clone()));
    let mut config: Config = config::load(&site.config("127.0.0.1:0")).unwrap();
    config.key_service.address = address;
    let service = JoinService::bind(&config, &shutdown).await.unwrap();
    let at = service.address().unwrap();
    tokio::spawn(service.serve(shutdown));
    let machine = site.cluster.machine();
    machine.set_pcr(crate::setup::IMAGE_PCR, CONTROL_PLANE_IMAGE);
    let node = site.dial(at, &machine, evidence::AdmissionPath::Join).await;
    let disk = node.register().await;
    let wanted = ("control-a", Role::ControlPlane);
    let kubelet = Kubelet::new("control-a");
    // Without the operator's entry nobody is asked for anything.
    let refused = ask_join_as(&node, disk, wanted, Some(&kubelet)).await;
    assert_eq!(refused.unwrap_err(), Class::Refused);
    assert!(keys.0.lock().unwrap().is_empty());
    let action = OperatorAction::OpenControlPlane {
        node: "control-a".parse().unwrap(),
    };
    let context = Context {
        now: Timestamp(1),
        key_version: KeyVersion::FIRST,
        live_until: None,
    };
    let opened = store(control_plane)
        .settle(|snapshot| operate(&action, &context, snapshot))
        .await;
    drop(opened.unwrap().audited());
    let (key, material) = ask_join_as(&node, disk, wanted, Some(&kubelet))
        .await
        .unwrap();
    assert_eq!(key, [7; 32]);
    let files = material.control_plane.unwrap().0;
    assert_eq!(files["ca.key"].expose_secret(), "the key");
    assert_eq!(*keys.0.lock().unwrap(), [disk.to_string()]);
    assert_eq!(node.commit(disk, 1).await, Ok(1));
    let again = site
        .dial(at, &machine.reboot(), evidence::AdmissionPath::Rejoin)
        .await;
    let (_, material) = ask_rejoin(&again, disk, Some(&kubelet)).await.unwrap();
    // The power may have failed before anything was made of the first ones.
    assert!(material.unwrap().control_plane.is_some());
    // A worker, of an image that could be more.
    let machine = site.cluster.machine();
    machine.set_pcr(crate::setup::IMAGE_PCR, CONTROL_PLANE_IMAGE);
    let node = site.dial(at, &machine, evidence::AdmissionPath::Join).await;
    let disk = node.register().await;
    let kubelet = Kubelet::new("modest");
    let ticket = ask_join_as(&node, disk, ("modest", Role::Worker), Some(&kubelet)).await;
    assert!(ticket.unwrap().1.control_plane.is_none());
    assert_eq!(keys.0.lock().unwrap().len(), 2);
    trigger.request();
}

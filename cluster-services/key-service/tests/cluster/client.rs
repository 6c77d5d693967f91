//! A caller of the key service, as a service would be one.

use api::key::{GetDataKeyRequest, key_service_client::KeyServiceClient};
use std::{net::SocketAddr, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, rustls::ClientConfig};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

pub(crate) struct Client(pub(crate) KeyServiceClient<Channel>);

impl Client {
    /// A client that dials when it is first used, and again after that connection broke.
    pub(crate) fn dial(
        address: SocketAddr,
        server_name: &'static str,
        config: Arc<ClientConfig>,
    ) -> Self {
        let connect = tower::service_fn(move |_| {
            let connector = TlsConnector::from(Arc::clone(&config));
            async move {
                let stream = TcpStream::connect(address).await?;
                let name = server_name.try_into().unwrap();
                let stream = connector.connect(name, stream).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        });
        let endpoint = Endpoint::from_static("http://key-service");
        let channel = endpoint.connect_with_connector_lazy(connect);
        Self(KeyServiceClient::new(channel))
    }

    pub(crate) async fn get(&self, id: &str, length: u32, version: u32) -> Result<Vec<u8>, Code> {
        let request = GetDataKeyRequest {
            data_key_id: id.to_owned(),
            length,
            key_version: version,
        };
        let answer = self.0.clone().get_data_key(request).await;
        answer
            .map(|answer| answer.get_ref().data_key.clone())
            .map_err(|status| status.code())
    }
}

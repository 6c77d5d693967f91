//! The gRPC interface.

use crate::desk::{Desk, DeskError, count, count_outcome};
use api::{
    Class, Malformed, StatementRequest, atls,
    verify::{
        GetAttestationRequest, GetAttestationResponse, GetIdentityRequest, GetIdentityResponse,
        verification_service_server,
    },
};
use std::net::IpAddr;
use tonic::{Code, Request, Response, Status};

const PATH: &str = "grpc";

/// Answers gRPC calls.
#[derive(Debug)]
pub(crate) struct Grpc(pub(crate) Desk);

#[tonic::async_trait]
impl verification_service_server::VerificationService for Grpc {
    async fn get_identity(
        &self,
        request: Request<GetIdentityRequest>,
    ) -> Result<Response<GetIdentityResponse>, Status> {
        let node = self.0.identify(address(&request)?).map_err(refusal)?;
        let node = Some(node.into());
        Ok(Response::new(GetIdentityResponse { node }))
    }

    async fn get_attestation(
        &self,
        request: Request<GetAttestationRequest>,
    ) -> Result<Response<GetAttestationResponse>, Status> {
        let address = address(&request)?;
        let request = StatementRequest::try_from(request.into_inner()).map_err(malformed)?;
        let answer = self.0.state(address, request).await;
        count(PATH, answer.as_ref().map(drop).map_err(|error| *error));
        let (node, attested) = answer.map_err(refusal)?;
        let activated = attested.activated.map(|secret| secret.to_vec());
        Ok(Response::new(GetAttestationResponse {
            node: Some(node.into()),
            evidence: Some(atls::Evidence {
                activated_secret: activated.unwrap_or_default(),
                kind: Some(attested.evidence.into()),
            }),
        }))
    }
}

/// Where the server says that the connection comes from.
fn address<T>(request: &Request<T>) -> Result<IpAddr, Status> {
    let address = request.extensions().get::<IpAddr>().copied();
    address.ok_or_else(|| Status::internal("no peer address"))
}

fn malformed(error: Malformed) -> Status {
    count_outcome(PATH, "malformed");
    Status::invalid_argument(error.to_string())
}

fn refusal(error: DeskError) -> Status {
    let code = match (error, error.class()) {
        (DeskError::Address | DeskError::All, _) => Code::ResourceExhausted,
        (_, Class::Malformed) => Code::InvalidArgument,
        _ => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

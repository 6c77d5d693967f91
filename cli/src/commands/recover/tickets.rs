//! The two calls of a node that is recovered.

use admission::Grant;
use api::{
    RejoinTicket, RejoinTicketRequest,
    join::{self, join_service_server::JoinService},
};
use tonic::{Request, Response, Status};

use super::book::Book;
use crate::admit::{Counter, status};

/// Serves the node of one connection.
#[derive(Clone)]
pub(super) struct Tickets {
    pub(super) counter: Counter<Book>,
}

impl Tickets {
    fn rejoin(&self, request: RejoinTicketRequest) -> Result<RejoinTicket, Status> {
        let request = admission::Request::IssueRejoinTicket {
            disk: request.disk,
            key_version: request.key_version,
        };
        let Grant::Ticket(ticket) = self.counter.admit(&request)? else {
            return Err(status(api::Class::Internal));
        };
        let (release, data_key) = self.counter.release(ticket)?;
        Ok(RejoinTicket {
            cluster_id: self.counter.cluster(),
            generation: release.generation(),
            data_key,
            node_name: release.node().clone(),
            role: release.role(),
            material: None,
            ak_certificate: self.counter.ak_certificate(&release),
        })
    }
}

#[tonic::async_trait]
impl JoinService for Tickets {
    async fn register_disk(
        &self,
        _: Request<join::RegisterDiskRequest>,
    ) -> Result<Response<join::RegisterDiskResponse>, Status> {
        Err(status(api::Class::Refused))
    }

    async fn issue_join_ticket(
        &self,
        _: Request<join::IssueJoinTicketRequest>,
    ) -> Result<Response<join::IssueJoinTicketResponse>, Status> {
        Err(status(api::Class::Refused))
    }

    async fn issue_rejoin_ticket(
        &self,
        request: Request<join::IssueRejoinTicketRequest>,
    ) -> Result<Response<join::IssueRejoinTicketResponse>, Status> {
        let request = RejoinTicketRequest::try_from(request.into_inner())
            .map_err(|_| status(api::Class::Malformed))?;
        self.rejoin(request)
            .map(|ticket| Response::new(ticket.into()))
    }

    async fn commit(
        &self,
        request: Request<join::CommitRequest>,
    ) -> Result<Response<join::CommitResponse>, Status> {
        self.counter.commit(request.into_inner()).map(Response::new)
    }
}

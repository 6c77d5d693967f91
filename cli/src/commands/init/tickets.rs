//! The three calls of a node that is initialised.

use admission::Grant;
use api::{
    InitTicket, InitTicketRequest, JoinTicket,
    join::{self, join_service_server::JoinService},
};
use aws_lc_rs::rand;
use hand_off::InitMaterial;
use identity::{DiskId, NodeName, Role};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::ledger::Book;
use crate::admit::{Counter, status};

/// Serves the node of one connection.
#[derive(Clone)]
pub(super) struct Tickets {
    pub(super) counter: Counter<Book>,
    pub(super) node_name: NodeName,
    pub(super) material: Arc<Zeroizing<Vec<u8>>>,
    /// Whether the node took a disk id.
    pub(super) registered: Arc<AtomicBool>,
}

impl Tickets {
    fn register(&self) -> Result<DiskId, Status> {
        let mut random = [0; 16];
        rand::fill(&mut random).map_err(|_| status(api::Class::Internal))?;
        let minted = DiskId::from_random(random);
        match self
            .counter
            .admit(&admission::Request::RegisterDisk { minted })?
        {
            Grant::Registered { disk } => {
                self.registered.store(true, Ordering::Relaxed);
                Ok(disk)
            }
            _ => Err(status(api::Class::Internal)),
        }
    }

    /// The material with who gets it: the bootstrapper writes this node's record.
    fn named_material(&self) -> Result<Zeroizing<Vec<u8>>, Status> {
        let internal = |_: serde_json::Error| status(api::Class::Internal);
        let mut material: InitMaterial =
            serde_json::from_slice(&self.material).map_err(internal)?;
        material.attester = Some(self.counter.attester().to_string());
        serde_json::to_vec(&material)
            .map(Zeroizing::new)
            .map_err(internal)
    }

    fn ticket(&self, request: InitTicketRequest) -> Result<InitTicket, Status> {
        let request = admission::Request::IssueJoinTicket {
            disk: request.disk,
            node: self.node_name.clone(),
            role: Role::ControlPlane,
        };
        let Grant::Ticket(ticket) = self.counter.admit(&request)? else {
            return Err(status(api::Class::Internal));
        };
        let (release, data_key) = self.counter.release(ticket)?;
        let material = self.named_material()?;
        Ok(InitTicket {
            ticket: JoinTicket {
                cluster_id: self.counter.cluster(),
                key_version: release.key_version(),
                data_key,
                material: Some(self.counter.seal_material(&material)?),
                ak_certificate: self.counter.ak_certificate(&release),
            },
            node_name: release.node().clone(),
            role: release.role(),
        })
    }
}

#[tonic::async_trait]
impl JoinService for Tickets {
    async fn register_disk(
        &self,
        _: Request<join::RegisterDiskRequest>,
    ) -> Result<Response<join::RegisterDiskResponse>, Status> {
        self.register().map(|disk| Response::new(disk.into()))
    }

    async fn issue_join_ticket(
        &self,
        request: Request<join::IssueJoinTicketRequest>,
    ) -> Result<Response<join::IssueJoinTicketResponse>, Status> {
        let request = InitTicketRequest::try_from(request.into_inner())
            .map_err(|_| status(api::Class::Malformed))?;
        self.ticket(request)
            .map(|ticket| Response::new(ticket.into()))
    }

    async fn issue_rejoin_ticket(
        &self,
        _: Request<join::IssueRejoinTicketRequest>,
    ) -> Result<Response<join::IssueRejoinTicketResponse>, Status> {
        Err(status(api::Class::Refused))
    }

    async fn commit(
        &self,
        request: Request<join::CommitRequest>,
    ) -> Result<Response<join::CommitResponse>, Status> {
        self.counter.commit(request.into_inner()).map(Response::new)
    }
}

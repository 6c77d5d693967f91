//! The calls of the join service over one admitted channel.

use admission::{RefusalClass, node::Failure};
use api::{
    Class, CommitRequest, InitTicket, InitTicketRequest, JoinTicket, JoinTicketRequest, Malformed,
    RejoinTicket, RejoinTicketRequest,
    grpc_web::CallError,
    join::{
        CommitResponse, IssueJoinTicketRequest, IssueJoinTicketResponse, IssueRejoinTicketRequest,
        IssueRejoinTicketResponse, RegisterDiskRequest, RegisterDiskResponse,
    },
};
use attested_tls::{RpcClient, RpcError};
use identity::{DiskId, Generation};

/// `ABORTED`: the join that made the header was never committed (docs/protocol.md).
const ABORTED: u32 = 10;

/// A call that gave no answer to go on with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallsError {
    /// The answer came and a field of it is not what it should be.
    #[error("{method}")]
    Malformed {
        /// The method.
        method: &'static str,
        /// The field.
        #[source]
        source: Malformed,
    },
    /// The call failed.
    #[error("call")]
    Rpc(#[source] RpcError),
}

impl CallsError {
    /// What it means for the admission. Only a status is the server's own word, and the channel
    /// stands only because that server proved to act for the owner; everything else may be a server
    /// that is about to come back.
    #[must_use]
    pub const fn failure(&self) -> Failure {
        match self {
            Self::Rpc(RpcError::Call {
                source: CallError::Status(status),
                ..
            }) if status.code == ABORTED => Failure::StartOver,
            Self::Rpc(RpcError::Call {
                source: CallError::Status(status),
                ..
            }) => Failure::Refusal {
                class: refusal_class(status.class()),
                owner_proven: true,
            },
            Self::Malformed { .. } | Self::Rpc(_) => Failure::Lost,
        }
    }
}

/// The admission core's word for a class.
#[must_use]
pub const fn refusal_class(class: Class) -> RefusalClass {
    match class {
        Class::Internal => RefusalClass::Internal,
        Class::Malformed => RefusalClass::Malformed,
        Class::Refused => RefusalClass::Refused,
        Class::Unavailable => RefusalClass::Unavailable,
    }
}

/// Asks for a disk id.
///
/// # Errors
/// [`CallsError`].
pub fn register_disk(client: &RpcClient) -> Result<DiskId, CallsError> {
    let answer: RegisterDiskResponse = call(client, "RegisterDisk", &RegisterDiskRequest {})?;
    parsed("RegisterDisk", answer.try_into())
}

/// Asks for a join ticket.
///
/// # Errors
/// [`CallsError`].
pub fn join_ticket(
    client: &RpcClient,
    request: JoinTicketRequest,
) -> Result<JoinTicket, CallsError> {
    let request = IssueJoinTicketRequest::from(request);
    let answer: IssueJoinTicketResponse = call(client, "IssueJoinTicket", &request)?;
    parsed("IssueJoinTicket", answer.try_into())
}

/// Asks for the ticket of an init.
///
/// # Errors
/// [`CallsError`].
pub fn init_ticket(
    client: &RpcClient,
    request: InitTicketRequest,
) -> Result<InitTicket, CallsError> {
    let request = IssueJoinTicketRequest::from(request);
    let answer: IssueJoinTicketResponse = call(client, "IssueJoinTicket", &request)?;
    parsed("IssueJoinTicket", answer.try_into())
}

/// Asks for a rejoin ticket.
///
/// # Errors
/// [`CallsError`].
pub fn rejoin_ticket(
    client: &RpcClient,
    request: RejoinTicketRequest,
) -> Result<RejoinTicket, CallsError> {
    let request = IssueRejoinTicketRequest::from(request);
    let answer: IssueRejoinTicketResponse = call(client, "IssueRejoinTicket", &request)?;
    parsed("IssueRejoinTicket", answer.try_into())
}

/// Says that a header is on the disk.
///
/// # Errors
/// [`CallsError`].
pub fn commit(client: &RpcClient, request: CommitRequest) -> Result<Generation, CallsError> {
    let request = api::join::CommitRequest::from(request);
    let answer: CommitResponse = call(client, "Commit", &request)?;
    parsed("Commit", answer.try_into())
}

fn call<R: prost::Message + Default>(
    client: &RpcClient,
    method: &'static str,
    request: &impl prost::Message,
) -> Result<R, CallsError> {
    client
        .call(
            &format!("constellation.join.v1.JoinService/{method}"),
            request,
        )
        .map_err(CallsError::Rpc)
}

fn parsed<T>(method: &'static str, answer: Result<T, Malformed>) -> Result<T, CallsError> {
    answer.map_err(|source| CallsError::Malformed { method, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::grpc_web::Status;

    fn status(code: u32) -> CallsError {
        CallsError::Rpc(RpcError::Call {
            method: "Commit".into(),
            source: CallError::Status(Status {
                code,
                text: String::new(),
            }),
        })
    }

    fn refusal(class: RefusalClass) -> Failure {
        Failure::Refusal {
            class,
            owner_proven: true,
        }
    }

    #[test]
    fn what_an_answer_means_for_the_admission() {
        assert_eq!(status(10).failure(), Failure::StartOver);
        assert_eq!(status(14).failure(), refusal(RefusalClass::Unavailable));
        assert_eq!(status(7).failure(), refusal(RefusalClass::Refused));
        assert_eq!(status(13).failure(), refusal(RefusalClass::Internal));
        let http = CallsError::Rpc(RpcError::HttpStatus {
            method: "Commit".into(),
            got: 502,
        });
        assert_eq!(http.failure(), Failure::Lost);
        let lost = CallsError::Rpc(RpcError::Transport {
            method: "Commit".into(),
            source: Box::new(ureq::Error::ConnectionFailed),
        });
        assert_eq!(lost.failure(), Failure::Lost);
    }
}

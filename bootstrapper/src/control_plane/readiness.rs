//! The API server's own word on whether it is ready.

use crate::error::PhaseError;
use kube::Client;

/// Asks once.
///
/// # Errors
/// [`PhaseError::Api`], also when it says that it is not ready.
pub(super) async fn readiness(client: &Client) -> Result<(), PhaseError> {
    let failed = PhaseError::api("wait for the API server");
    let request = http::Request::get("/readyz")
        .body(Vec::new())
        .map_err(|error| failed(kube::Error::HttpError(error)))?;
    client.request_text(request).await.map_err(failed)?;
    Ok(())
}

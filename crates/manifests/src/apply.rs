use crate::{Object, Ownership};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Who owns the fields of our objects.
pub const FIELD_MANAGER: &str = "constellation-bootstrapper";

/// An object that the API server has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied<'a> {
    /// Its kind.
    pub kind: &'a str,
    /// Its name.
    pub name: &'a str,
    /// How many there are with this one.
    pub done: usize,
    /// How many there will be.
    pub of: usize,
}

/// Why not all objects are there. Those before the one that failed are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// Somebody else changed what the init wrote; it stays as it is.
    #[error("{object}: changed by somebody else since")]
    Conflict {
        /// Kind and name.
        object: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// The definition of our resources was taken, but is not in force.
    #[error("{object}: not established in time")]
    NotEstablished {
        /// Kind and name.
        object: String,
    },
    /// The API server refused the object.
    #[error("{object}: refused by the API server")]
    Refused {
        /// Kind and name.
        object: String,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("{object}: no answer of the API server in time")]
    Timeout {
        /// Kind and name.
        object: String,
    },
    /// The API server cannot be reached, or cannot answer now.
    #[error("{object}: no answer of the API server")]
    Unavailable {
        /// Kind and name.
        object: String,
        /// What was said.
        source: Box<kube::Error>,
    },
}

impl ApplyError {
    /// Whether applying again later may help without anybody's doing.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::NotEstablished { .. } | Self::Timeout { .. } | Self::Unavailable { .. }
        )
    }

    fn of(object: &Object, error: kube::Error) -> Self {
        let (object, source) = (format!("{object:?}"), Box::new(error));
        match &*source {
            kube::Error::Api(status) if status.code == 409 => Self::Conflict { object, source },
            // Too many requests, or a fault of the server's own: RFC 9110, section 15.6.
            kube::Error::Api(status) if !matches!(status.code, 0 | 408 | 429 | 500..) => {
                Self::Refused { object, source }
            }
            _ => Self::Unavailable { object, source },
        }
    }
}

/// How long one call of the API server may take.
const CALL: Duration = Duration::from_secs(15);

/// How long a resource definition may take to come into force, and how often that is looked at.
const ESTABLISHED: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

/// Applies the objects in order and tells `progress` about each. Doing it again changes nothing; after
/// an error it continues where it stopped.
///
/// # Errors
/// [`ApplyError`] names the object.
pub async fn apply(
    client: &Client,
    objects: &[Object],
    mut progress: impl FnMut(Applied<'_>),
) -> Result<(), ApplyError> {
    for (index, object) in objects.iter().enumerate() {
        let api = api(client, object);
        let parameters = PatchParams {
            force: object.ownership == Ownership::Release,
            ..PatchParams::apply(FIELD_MANAGER)
        };
        let patch = Patch::Apply(&object.json);
        call(object, api.patch(object.name(), &parameters, &patch)).await?;
        if object.kind() == "CustomResourceDefinition" {
            established(&api, object).await?;
        }
        progress(Applied {
            kind: object.kind(),
            name: object.name(),
            done: index + 1,
            of: objects.len(),
        });
    }
    Ok(())
}

async fn established(api: &Api<DynamicObject>, object: &Object) -> Result<(), ApplyError> {
    let end = Instant::now() + ESTABLISHED;
    while Instant::now() < end {
        if is_established(&call(object, api.get(object.name())).await?) {
            return Ok(());
        }
        sleep(LOOK).await;
    }
    Err(ApplyError::NotEstablished {
        object: format!("{object:?}"),
    })
}

fn is_established(definition: &DynamicObject) -> bool {
    let conditions = definition.data.pointer("/status/conditions");
    let conditions = conditions.and_then(Value::as_array).into_iter().flatten();
    conditions
        .filter(|condition| condition["type"] == "Established")
        .any(|condition| condition["status"] == "True")
}

async fn call<T>(
    object: &Object,
    future: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ApplyError> {
    match timeout(CALL, future).await {
        Ok(answer) => answer.map_err(|error| ApplyError::of(object, error)),
        Err(_) => Err(ApplyError::Timeout {
            object: format!("{object:?}"),
        }),
    }
}

/// Our kinds are regular English plurals, so none needs to be looked up.
fn api(client: &Client, object: &Object) -> Api<DynamicObject> {
    let (group, version) = match object.text("/apiVersion").split_once('/') {
        Some(group_version) => group_version,
        None => ("", object.text("/apiVersion")),
    };
    let kind = GroupVersionKind::gvk(group, version, object.kind());
    let resource = ApiResource::from_gvk(&kind);
    match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

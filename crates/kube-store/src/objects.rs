//! Objects of the core as custom resources: names, `spec`, and what may be in one.

use crate::{GROUP, VERSION};
use admission::{Key, NodeRecord, Value};
use kube::core::{ApiResource, DynamicObject, ObjectMeta, TypeMeta};
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

/// The longest `spec`, in bytes of JSON. A record has less than one kibibyte.
const MAX_SPEC: usize = 16 << 10;

/// The two kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Claim,
    Record,
}

/// Why a resource is not an object of the core.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Malformation {
    /// `spec` is not what it should be.
    #[error("`spec` does not parse")]
    Content(#[source] serde_json::Error),
    /// A resource of another name was answered, or one without version.
    #[error("expected `{expected}` with a resource version")]
    Identity {
        /// The name that was asked for.
        expected: String,
    },
    /// A number is beyond what the API server stores exactly (64 bits, signed).
    #[error("a number above {}", i64::MAX)]
    Number,
    /// `spec` is too long.
    #[error("`spec` has more than {MAX_SPEC} bytes")]
    TooLong,
}

/// A record, and the node object that was seen for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedNode {
    /// The record.
    pub record: NodeRecord,
    /// The uid of the node object, once one was seen.
    pub node_uid: Option<String>,
}

impl Kind {
    pub(crate) const fn of(key: &Key) -> Self {
        match key {
            Key::Record(_) => Self::Record,
            _ => Self::Claim,
        }
    }

    pub(crate) fn resource(self) -> ApiResource {
        let (kind, plural) = match self {
            Self::Claim => ("AdmissionClaim", "admissionclaims"),
            Self::Record => ("NodeRecord", "noderecords"),
        };
        ApiResource {
            group: GROUP.into(),
            version: VERSION.into(),
            api_version: format!("{GROUP}/{VERSION}"),
            kind: kind.into(),
            plural: plural.into(),
        }
    }

    /// A new resource.
    pub(crate) fn create(self, name: &str, spec: Json) -> DynamicObject {
        let resource = self.resource();
        DynamicObject {
            types: Some(TypeMeta {
                api_version: resource.api_version,
                kind: resource.kind,
            }),
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            data: json!({"spec": spec}),
        }
    }
}

/// The `spec` of a resource that was asked for by `name`.
pub(crate) fn decode<T: DeserializeOwned>(
    name: &str,
    object: &DynamicObject,
) -> Result<T, Malformation> {
    let metadata = &object.metadata;
    if metadata.name.as_deref() != Some(name) || metadata.resource_version.is_none() {
        return Err(Malformation::Identity {
            expected: name.to_owned(),
        });
    }
    let spec = object.data.get("spec").unwrap_or(&Json::Null);
    let length = serde_json::to_vec(spec).map_err(Malformation::Content)?;
    if length.len() > MAX_SPEC {
        return Err(Malformation::TooLong);
    }
    T::deserialize(spec).map_err(Malformation::Content)
}

/// The `spec` of a value.
pub(crate) fn encode<T: serde::Serialize>(value: &T) -> Result<Json, Malformation> {
    let spec = serde_json::to_value(value).map_err(Malformation::Content)?;
    let text = serde_json::to_vec(&spec).map_err(Malformation::Content)?;
    if text.len() > MAX_SPEC {
        return Err(Malformation::TooLong);
    }
    if has_large_number(&spec) {
        return Err(Malformation::Number);
    }
    Ok(spec)
}

/// The record in a resource, and what was observed about it.
pub(crate) fn decode_record(
    name: &str,
    object: &DynamicObject,
) -> Result<Option<ObservedNode>, Malformation> {
    let Value::Record(record) = decode(name, object)? else {
        return Ok(None);
    };
    // As the core does with a record of another disk.
    if Key::Record(record.disk).to_string() != name {
        return Ok(None);
    }
    let uid = object
        .data
        .pointer("/status/nodeUid")
        .and_then(Json::as_str);
    Ok(Some(ObservedNode {
        record,
        node_uid: uid.filter(|uid| !uid.is_empty()).map(str::to_owned),
    }))
}

/// The API server keeps what fits 64 signed bits and rounds the rest.
fn has_large_number(value: &Json) -> bool {
    match value {
        Json::Array(items) => items.iter().any(has_large_number),
        Json::Number(number) => number.as_i64().is_none(),
        Json::Object(fields) => fields.values().any(has_large_number),
        Json::Bool(_) | Json::Null | Json::String(_) => false,
    }
}

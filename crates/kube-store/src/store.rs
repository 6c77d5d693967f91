use crate::{
    NAMESPACE,
    error::{DecisionError, StoreError},
    objects::{Kind, ObservedNode, decode, decode_record, encode},
};
use admission::{
    BootClaim, Key, NodeRecord, Persisted, Refusal, Rounds, Snapshot, Step, Value, Write,
    WriteOutcome,
};
use futures_util::future::try_join_all;
use identity::DiskId;
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
    core::{DynamicObject, Status},
};
use serde::Serialize;
use serde_json::json;
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long one call of the API server may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Tries of a compare-and-set that no decision drives.
pub(crate) const TRIES: usize = 8;

/// Objects in one answer to a list.
const PAGE: u32 = 500;

/// The store. Clones use the same connection.
#[derive(Clone)]
pub struct KubeStore(Arc<Resources>);

struct Resources {
    claims: Api<DynamicObject>,
    records: Api<DynamicObject>,
}

/// What is stored under a name: the resource as it was read, and what is in it.
#[derive(Debug, Clone)]
pub(crate) struct Stored<T> {
    pub(crate) resource: DynamicObject,
    pub(crate) content: T,
}

/// What was read for a decision, to write against.
type Known = BTreeMap<Key, Option<Stored<Value>>>;

impl KubeStore {
    /// The store of the cluster that `client` talks to.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let api = |kind: Kind, client| Api::namespaced_with(client, NAMESPACE, &kind.resource());
        Self(Arc::new(Resources {
            claims: api(Kind::Claim, client.clone()),
            records: api(Kind::Record, client),
        }))
    }

    /// Lets the core decide on what the cluster holds, with every write durable before it decides on.
    /// Dropping the future leaves a prefix of the writes, which the next try continues from.
    ///
    /// # Errors
    /// [`DecisionError`]; nothing may be granted.
    pub async fn settle<D>(&self, decide: D) -> Result<Persisted, DecisionError>
    where
        D: Fn(&Snapshot) -> Result<Step, Refusal>,
    {
        let mut rounds = Rounds::new(decide);
        let mut known = Known::new();
        loop {
            match rounds.step().map_err(DecisionError::Refused)? {
                Step::Ready(plan) => return Ok(plan.persisted()),
                Step::Read(keys) => {
                    for (key, stored) in self.read_all(keys).await? {
                        rounds.read(key.clone(), content(stored.as_ref()).cloned());
                        known.insert(key, stored);
                    }
                }
                Step::Write(writes) => {
                    self.apply(writes, &known).await?;
                    known.clear();
                }
            }
        }
    }

    /// The object under `key`, by quorum.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read(&self, key: &Key) -> Result<Option<Value>, StoreError> {
        Ok(self.find(key).await?.map(|stored| stored.content))
    }

    /// The record of a disk, by quorum, and the node object that was seen for it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn node(&self, disk: DiskId) -> Result<Option<ObservedNode>, StoreError> {
        let name = Key::Record(disk).to_string();
        let Some(object) = self.get(Kind::Record, &name).await? else {
            return Ok(None);
        };
        decode_record(&name, &object).map_err(|source| corrupt(&name, source))
    }

    /// All records, tombstones included, in the order of their disk ids.
    ///
    /// # Errors
    /// [`StoreError`]. What is not a record is left out, with an error in the log.
    pub async fn observed_nodes(&self) -> Result<Vec<ObservedNode>, StoreError> {
        let mut nodes = Vec::new();
        self.list(Kind::Record, |name, object| {
            match decode_record(name, object) {
                Ok(Some(node)) => nodes.push(node),
                Ok(None) => tracing::error!(object = name, "not a record of ours"),
                Err(error) => tracing::error!(object = name, %error, "not a record of ours"),
            }
        })
        .await?;
        nodes.sort_by_key(|node| node.record.disk);
        Ok(nodes)
    }

    /// [`Self::observed_nodes`], the records alone.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, StoreError> {
        let nodes = self.observed_nodes().await?;
        Ok(nodes.into_iter().map(|node| node.record).collect())
    }

    /// What boots without a latch got, as committed.
    ///
    /// # Errors
    /// [`StoreError`]. What is not a claim is left out, with an error in the log.
    pub async fn spent_boots(&self) -> Result<Vec<BootClaim>, StoreError> {
        let mut claims = Vec::new();
        self.list(Kind::Claim, |name, object| {
            // `admission::Key::Boot` is stored as `boot-<hash>`.
            if !name.starts_with("boot-") {
                return;
            }
            match decode(name, object) {
                Ok(Value::Boot(claim)) if !claim.attester.names_machine() => claims.push(claim),
                Ok(Value::Boot(_)) => {}
                Ok(_) => tracing::error!(object = name, "not a claim of a boot"),
                Err(error) => tracing::error!(object = name, %error, "not a claim of a boot"),
            }
        })
        .await?;
        claims.sort_by_key(|claim| claim.boot);
        Ok(claims)
    }

    /// Remembers in the status of a record which node object was seen for it.
    ///
    /// # Errors
    /// [`StoreError`]; a record that is not there is corrupt.
    pub async fn observe_node(&self, disk: DiskId, uid: &str) -> Result<(), StoreError> {
        let name = Key::Record(disk).to_string();
        for _ in 0..TRIES {
            let Some(mut object) = self.get(Kind::Record, &name).await? else {
                return Ok(());
            };
            let status = json!({"nodeUid": uid});
            if object.data.get("status") == Some(&status) {
                return Ok(());
            }
            if let Some(fields) = object.data.as_object_mut() {
                fields.insert("status".into(), status);
            }
            let parameters = PostParams::default();
            let put = self.0.records.replace_status(&name, &parameters, &object);
            if written("update the status of", &name, call(put).await)? {
                return Ok(());
            }
        }
        Err(StoreError::Timeout {
            verb: "update the status of",
            object: name,
        })
    }

    async fn read_all(
        &self,
        keys: Vec<Key>,
    ) -> Result<Vec<(Key, Option<Stored<Value>>)>, StoreError> {
        let reads = keys.into_iter().map(async |key| {
            let stored = self.find(&key).await?;
            Ok::<_, StoreError>((key, stored))
        });
        try_join_all(reads).await
    }

    /// Applies writes up to the first conflict, which the next round decides about.
    async fn apply(&self, writes: Vec<Write>, known: &Known) -> Result<(), StoreError> {
        for write in writes {
            let stored = match known.get(&write.key) {
                Some(stored) => stored.clone(),
                None => self.find(&write.key).await?,
            };
            let applied = match write.against(content(stored.as_ref())) {
                WriteOutcome::Apply => {
                    let (kind, name) = (Kind::of(&write.key), write.key.to_string());
                    let resource = stored.map(|stored| stored.resource);
                    self.put(kind, &name, resource, &write.value).await?
                }
                WriteOutcome::Equal => true,
                WriteOutcome::Conflict => false,
            };
            if !applied {
                metrics::counter!("store_conflicts_total").increment(1);
                break;
            }
        }
        Ok(())
    }

    async fn find(&self, key: &Key) -> Result<Option<Stored<Value>>, StoreError> {
        self.stored(Kind::of(key), &key.to_string()).await
    }

    pub(crate) async fn stored<T: serde::de::DeserializeOwned>(
        &self,
        kind: Kind,
        name: &str,
    ) -> Result<Option<Stored<T>>, StoreError> {
        let Some(resource) = self.get(kind, name).await? else {
            return Ok(None);
        };
        let content = decode(name, &resource).map_err(|source| corrupt(name, source))?;
        Ok(Some(Stored { resource, content }))
    }

    /// Stores `content` where `stored` was read, or where nothing was. Gives `false` when somebody else
    /// was faster.
    pub(crate) async fn put<T: Serialize>(
        &self,
        kind: Kind,
        name: &str,
        stored: Option<DynamicObject>,
        content: &T,
    ) -> Result<bool, StoreError> {
        let spec = encode(content).map_err(|source| corrupt(name, source))?;
        let parameters = PostParams::default();
        let (verb, answer) = match stored {
            None => {
                let object = kind.create(name, spec);
                let create = self.api(kind).create(&parameters, &object);
                ("create", call(create).await)
            }
            // The rest of the resource stays as it was read, its resource version above all.
            Some(mut object) => {
                object.data["spec"] = spec;
                let replace = self.api(kind).replace(name, &parameters, &object);
                ("update", call(replace).await)
            }
        };
        written(verb, name, answer)
    }

    /// A read without resource version: the API server asks its etcd, which asks its quorum.
    async fn get(&self, kind: Kind, name: &str) -> Result<Option<DynamicObject>, StoreError> {
        match call(self.api(kind).get(name)).await {
            Answer::Done(object) => Ok(Some(object)),
            Answer::Failed(kube::Error::Api(status)) if is_absent(&status, name) => Ok(None),
            answer => Err(answer.failure("get", name)),
        }
    }

    /// All objects of a kind, page by page, by quorum.
    async fn list(
        &self,
        kind: Kind,
        mut each: impl FnMut(&str, &DynamicObject),
    ) -> Result<(), StoreError> {
        let mut parameters = ListParams::default().limit(PAGE);
        loop {
            let page = match call(self.api(kind).list(&parameters)).await {
                Answer::Done(page) => page,
                answer => return Err(answer.failure("list", &kind.resource().plural)),
            };
            for object in &page.items {
                each(object.metadata.name.as_deref().unwrap_or_default(), object);
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => return Ok(()),
            }
        }
    }

    fn api(&self, kind: Kind) -> &Api<DynamicObject> {
        match kind {
            Kind::Claim => &self.0.claims,
            Kind::Record => &self.0.records,
        }
    }
}

impl fmt::Debug for KubeStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KubeStore")
    }
}

/// How a call of the API server ended.
pub(crate) enum Answer<T> {
    Done(T),
    Failed(kube::Error),
    Late,
}

impl<T> Answer<T> {
    pub(crate) fn failure(self, verb: &'static str, object: &str) -> StoreError {
        metrics::counter!("store_failed_total").increment(1);
        let object = object.to_owned();
        match self {
            Self::Failed(error) => StoreError::of(verb, object, error),
            Self::Done(_) | Self::Late => StoreError::Timeout { verb, object },
        }
    }
}

pub(crate) async fn call<T>(future: impl Future<Output = Result<T, kube::Error>>) -> Answer<T> {
    match timeout(CALL_TIMEOUT, future).await {
        Ok(Ok(answer)) => Answer::Done(answer),
        Ok(Err(error)) => Answer::Failed(error),
        Err(_) => Answer::Late,
    }
}

/// Whether a write was done; somebody else may have written first, or deleted what was to be updated.
fn written<T>(verb: &'static str, name: &str, answer: Answer<T>) -> Result<bool, StoreError> {
    match answer {
        Answer::Done(_) => Ok(true),
        Answer::Failed(kube::Error::Api(status))
            if status.code == 409 || verb != "create" && is_absent(&status, name) =>
        {
            Ok(false)
        }
        answer => Err(answer.failure(verb, name)),
    }
}

/// A missing object is named in the status. A missing resource definition is "not found" too, and then
/// nothing is known about the object.
pub(crate) fn is_absent(status: &Status, name: &str) -> bool {
    let named = |details: &kube::core::response::StatusDetails| details.name == name;
    status.code == 404 && status.details.as_ref().is_some_and(named)
}

fn content<T>(stored: Option<&Stored<T>>) -> Option<&T> {
    stored.map(|stored| &stored.content)
}

fn corrupt(name: &str, source: crate::Malformation) -> StoreError {
    StoreError::Corrupt {
        object: name.to_owned(),
        source,
    }
}

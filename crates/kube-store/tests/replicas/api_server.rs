//! An API server made of memory: names, versions and conflicts as the real one has them, and faults
//! that a real one has too seldom. What a schema does to an object only the real one shows
//! (`tests/cluster.rs`).

use http::{Method, Request, Response, StatusCode};
use kube::{Client, client::Body};
use kube_store::KubeStore;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use tower::BoxError;

/// What happens to calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Done, and the answer is lost.
    LostAnswer,
    /// Not done.
    LostRequest,
    /// The resource definition is gone.
    NoResource,
    /// Forbidden.
    Refused,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    calls: usize,
    fault: Option<(usize, Fault)>,
    random: u64,
    reads: Vec<String>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct ApiServer(Arc<Mutex<State>>);

impl ApiServer {
    /// A store with a connection of its own.
    pub(crate) fn store(&self) -> KubeStore {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                server.give_way().await;
                server.answer(&parts, &body)
            }
        });
        KubeStore::new(Client::new(service, "default"))
    }

    /// Faults from this call on, counted from now.
    pub(crate) fn fail_from(&self, call: usize, fault: Fault) {
        let mut state = self.0.lock().unwrap();
        state.calls = 0;
        state.fault = Some((call, fault));
    }

    pub(crate) fn heal(&self) {
        self.0.lock().unwrap().fault = None;
    }

    /// Lets calls overtake each other.
    pub(crate) fn shuffle(&self, seed: u64) {
        self.0.lock().unwrap().random = seed.wrapping_mul(2) + 1;
    }

    pub(crate) fn names(&self, prefix: &str) -> Vec<String> {
        let state = self.0.lock().unwrap();
        let names = state.objects.keys();
        names
            .filter(|name| name.starts_with(prefix))
            .cloned()
            .collect()
    }

    pub(crate) fn set_spec(&self, name: &str, spec: Value) {
        self.0.lock().unwrap().objects.get_mut(name).unwrap()["spec"] = spec;
    }

    /// The queries of all reads.
    pub(crate) fn reads(&self) -> Vec<String> {
        self.0.lock().unwrap().reads.clone()
    }

    async fn give_way(&self) {
        let turns = {
            let mut state = self.0.lock().unwrap();
            if state.random == 0 {
                0
            } else {
                // xorshift64
                for (left, by) in [(true, 13), (false, 7), (true, 17)] {
                    let random = state.random;
                    state.random ^= if left { random << by } else { random >> by };
                }
                state.random % 4
            }
        };
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }

    fn answer(
        &self,
        parts: &http::request::Parts,
        body: &[u8],
    ) -> Result<Response<Body>, BoxError> {
        let mut state = self.0.lock().unwrap();
        let call = state.calls;
        state.calls += 1;
        let fault = state.fault.filter(|(from, _)| call >= *from);
        match fault.map(|(_, fault)| fault) {
            Some(Fault::LostRequest) => return Err("no route to host".into()),
            Some(Fault::Refused) => return Ok(status(403, "Forbidden", "")),
            Some(Fault::NoResource) => return Ok(status(404, "NotFound", "")),
            Some(Fault::LostAnswer) | None => {}
        }
        let answer = state.apply(parts, body);
        if fault.is_some() {
            return Err("connection reset by peer".into());
        }
        Ok(answer)
    }
}

impl State {
    fn apply(&mut self, parts: &http::request::Parts, body: &[u8]) -> Response<Body> {
        let path: Vec<_> = parts.uri.path().split('/').skip(6).collect();
        if parts.method == Method::GET {
            self.reads
                .push(parts.uri.query().unwrap_or_default().to_owned());
        }
        match (parts.method.clone(), path.as_slice()) {
            (Method::GET, [resource]) => self.list(resource, parts.uri.query().unwrap_or_default()),
            (Method::GET, [_, name]) => match self.objects.get(*name) {
                Some(object) => respond(200, object),
                None => status(404, "NotFound", name),
            },
            (Method::POST, [_]) => self.create(serde_json::from_slice(body).unwrap()),
            (Method::PUT, [_, name]) => self.replace(name, "spec", body),
            (Method::PUT, [_, name, "status"]) => self.replace(name, "status", body),
            other => panic!("{other:?}"),
        }
    }

    fn create(&mut self, mut object: Value) -> Response<Body> {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        if self.objects.contains_key(&name) {
            return status(409, "AlreadyExists", &name);
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(name, object.clone());
        respond(201, &object)
    }

    fn replace(&mut self, name: &str, part: &str, body: &[u8]) -> Response<Body> {
        let object: Value = serde_json::from_slice(body).unwrap();
        let Some(stored) = self.objects.get_mut(name) else {
            return status(404, "NotFound", name);
        };
        let version = &object["metadata"]["resourceVersion"];
        assert!(
            version.is_string(),
            "an update without resource version overwrites"
        );
        if *version != stored["metadata"]["resourceVersion"] {
            return status(409, "Conflict", name);
        }
        self.version += 1;
        stored[part] = object[part].clone();
        stored["metadata"]["resourceVersion"] = json!(self.version.to_string());
        respond(200, stored)
    }

    /// Two objects a page; the token is the last name.
    fn list(&self, resource: &str, query: &str) -> Response<Body> {
        assert!(query.contains("limit="), "{query}");
        let after = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("continue="));
        let is_of = |name: &str| (resource == "noderecords") == name.starts_with("node-");
        let names = self.objects.iter().filter(|(name, _)| is_of(name));
        let mut rest = names.filter(|(name, _)| after.is_none_or(|after| name.as_str() > after));
        let page: Vec<_> = rest.by_ref().take(2).collect();
        let token = rest.next().and_then(|_| page.last()).map(|(name, _)| *name);
        let items: Vec<_> = page.iter().map(|(_, object)| *object).collect();
        respond(
            200,
            &json!({
                "apiVersion": "constellation.internal/v1", "kind": "List",
                "metadata": {"resourceVersion": self.version.to_string(), "continue": token},
                "items": items,
            }),
        )
    }
}

fn respond(code: u16, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(serde_json::to_vec(body).unwrap()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn status(code: u16, reason: &str, name: &str) -> Response<Body> {
    let details = json!({"name": name, "group": "constellation.internal"});
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason,
        "reason": reason, "code": code, "details": details,
    });
    respond(code, &status)
}

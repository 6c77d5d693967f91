//! A kubeconfig (Kubernetes API `Config`, `v1`) as far as merging has to know it; everything else in it is
//! carried along.

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

/// The lists that an entry is in.
const LISTS: [&str; 3] = ["clusters", "contexts", "users"];

/// What the user of a file that is merged may have beside [`USER`].
const TOKEN: &str = "token";

/// What the first node's administrator needs, and has: no field of `cluster` or `user` that names a
/// program, a file or another way on this machine is ever taken.
const CLUSTER: [&str; 2] = ["certificate-authority-data", "server"];
const USER: [&str; 2] = ["client-certificate-data", "client-key-data"];
const FILE: [&str; 7] = [
    "apiVersion",
    "clusters",
    "contexts",
    "current-context",
    "kind",
    "preferences",
    "users",
];

/// A whole file.
pub(super) struct Document(Map<String, Value>);

/// One cluster, one context and one user, under the name they will have.
pub(super) struct Entry {
    name: String,
    /// In the order of [`LISTS`].
    items: [Value; 3],
}

impl Document {
    /// What a file that is not there stands for.
    pub(super) fn empty() -> Self {
        let mut document = Map::new();
        document.insert("apiVersion".into(), "v1".into());
        document.insert("kind".into(), "Config".into());
        Self(document)
    }

    pub(super) fn parse(text: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(text).context("not UTF-8")?;
        if text.trim().is_empty() {
            return Ok(Self::empty());
        }
        // The error of the library quotes the text, in which there are keys.
        let parsed = serde_saphyr::from_str(text).ok();
        match parsed.context("malformed YAML")? {
            Value::Object(document) => Ok(Self(document)),
            _ => bail!("expected a kubeconfig"),
        }
    }

    pub(super) fn encode(&self) -> Result<String> {
        serde_saphyr::to_string(&self.0).context("encode the kubeconfig")
    }

    /// Whether this is the file that kubeadm writes for the administrator of the cluster at `endpoint`,
    /// and nothing else.
    pub(super) fn check_administrator(&self, endpoint: &str) -> Result<()> {
        only_fields("file", &self.0, &FILE)?;
        let preferences = self.0.get("preferences");
        if preferences.is_some_and(|preferences| *preferences != json!({})) {
            bail!("file: unexpected content of `preferences`");
        }
        let [cluster, context, user] = [
            self.only("clusters", "cluster", &CLUSTER)?,
            self.only("contexts", "context", &["cluster", "user"])?,
            self.only("users", "user", &USER)?,
        ];
        if cluster.content["server"] != format!("https://{endpoint}") {
            bail!("cluster: expected `server` to be `https://{endpoint}`");
        }
        let current = self.0.get("current-context").and_then(Value::as_str);
        let refers = [
            context.content["cluster"] == *cluster.name,
            context.content["user"] == *user.name,
            current == context.name.as_str(),
        ];
        match refers {
            [true, true, true] => Ok(()),
            _ => bail!("context: refers to something else"),
        }
    }

    /// The one item of a list, with exactly these fields.
    fn only(&self, list: &str, kind: &'static str, fields: &[&str]) -> Result<Item<'_>> {
        let items = self.list(list);
        let [item] = items else {
            bail!("`{list}`: expected one, got {}", items.len());
        };
        let map = item.as_object();
        let map = map.with_context(|| format!("`{list}`: malformed"))?;
        only_fields(list, map, &["name", kind])?;
        let (name, content) = (&item["name"], &item[kind]);
        check_text(list, "name", name)?;
        check_content(kind, content, fields)?;
        for field in fields {
            if content.get(field).is_none() {
                bail!("{kind}: `{field}` is missing");
            }
        }
        Ok(Item { name, content })
    }

    /// The one context of this file, what it refers to, and all of it under a new name.
    pub(super) fn only_context(&self, name: &str) -> Result<Entry> {
        let contexts = self.list("contexts");
        let [context] = contexts else {
            bail!("expected one context, got {}", contexts.len());
        };
        let mut context = context
            .get("context")
            .cloned()
            .context("a context without content")?;
        let mut take = |list: &str, kind: &str| {
            let reference = context
                .get_mut(kind)
                .context("a context without a reference")?;
            let wanted = reference.as_str().context("a reference that is no name")?;
            let found = self.list(list).iter().find(|item| item["name"] == wanted);
            let found = found.and_then(|item| item.get(kind)).cloned();
            *reference = name.into();
            found.with_context(|| format!("no {kind} for the context"))
        };
        let cluster = take("clusters", "cluster")?;
        let user = take("users", "user")?;
        check_content("cluster", &cluster, &CLUSTER)?;
        check_content("context", &context, &["cluster", "user", "namespace"])?;
        let [certificate, key] = USER;
        check_content("user", &user, &[certificate, key, TOKEN])?;
        Ok(Entry {
            name: name.to_owned(),
            items: [
                json!({"name": name, "cluster": cluster}),
                json!({"name": name, "context": context}),
                json!({"name": name, "user": user}),
            ],
        })
    }

    /// Takes an entry in. One of its name that says something else is replaced only if that is wanted.
    pub(super) fn merge(&mut self, entry: Entry, replace: bool) -> Result<()> {
        for (list, item) in LISTS.into_iter().zip(entry.items) {
            let slot = self.0.entry(list).or_insert(Value::Null);
            if slot.is_null() {
                *slot = Value::Array(Vec::new());
            }
            let items = slot.as_array_mut();
            let items = items.with_context(|| format!("`{list}` is no list"))?;
            match items.iter_mut().find(|known| known["name"] == *entry.name) {
                Some(known) if *known == item => {}
                Some(known) if replace => *known = item,
                Some(_) => bail!("`{list}` has another `{}` already", entry.name),
                None => items.push(item),
            }
        }
        Ok(())
    }

    /// Makes a context the current one where there is none, or where that is wanted; whether it is.
    pub(super) fn make_current(&mut self, name: &str, wanted: bool) -> bool {
        let current = self.0.get("current-context").and_then(Value::as_str);
        let is_current = current == Some(name);
        let set = wanted || current.is_none_or(str::is_empty);
        if set {
            self.0.insert("current-context".into(), name.into());
        }
        set || is_current
    }

    fn list(&self, name: &str) -> &[Value] {
        let list = self.0.get(name).and_then(Value::as_array);
        list.map_or(&[], Vec::as_slice)
    }
}

/// An item of a list.
struct Item<'a> {
    name: &'a Value,
    content: &'a Value,
}

/// Whether there are no fields but these, all of them plain text.
fn check_content(kind: &str, content: &Value, fields: &[&str]) -> Result<()> {
    let content = content.as_object();
    let content = content.with_context(|| format!("{kind}: malformed"))?;
    only_fields(kind, content, fields)?;
    content
        .iter()
        .try_for_each(|(field, value)| check_text(kind, field, value))
}

fn only_fields(place: &str, map: &Map<String, Value>, fields: &[&str]) -> Result<()> {
    match map.keys().find(|field| !fields.contains(&field.as_str())) {
        Some(field) => bail!("{place}: field {field:?} is not allowed"),
        None => Ok(()),
    }
}

/// Text that every reader of YAML reads as the same text.
fn check_text(place: &str, field: &str, value: &Value) -> Result<()> {
    let text = value.as_str().unwrap_or_default();
    match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(()),
        false => bail!("{place}: malformed `{field}`"),
    }
}

#[cfg(test)]
mod tests;

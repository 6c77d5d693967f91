//! A kubeconfig (Kubernetes API `Config`, `v1`) as far as merging has to know it; everything else in it is
//! carried along.

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

/// The lists that an entry is in.
const LISTS: [&str; 3] = ["clusters", "contexts", "users"];

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

#[cfg(test)]
mod tests;

use crate::values::{View, ViewError};
use crate::{SecretsError, SubnetError, Values};
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Serialize;
use serde_json::Value;
use std::fmt;

/// One object to apply. It may hold a secret, so `Debug` shows its name only.
#[derive(Clone, PartialEq)]
pub struct Object {
    /// The object, as the API server takes it.
    pub json: Value,
    /// Who decides about its content.
    pub ownership: Ownership,
}

/// Who decides about the content of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// The operator does, after the init wrote it. What somebody else changed is a conflict.
    Operator,
    /// The release does: what somebody else changed is taken back.
    Release,
}

/// Why there is nothing to apply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenderError {
    /// A template is broken, or wants a value that is not there.
    #[error("manifest `{template}` does not render")]
    Template {
        /// The template.
        template: &'static str,
        /// Why.
        source: minijinja::Error,
    },
    /// What a template gives is not YAML.
    #[error("manifest `{template}` is no YAML")]
    Yaml {
        /// The template.
        template: &'static str,
        /// Why; without the text, which may hold secrets.
        reason: String,
    },
    /// A document is no object of Kubernetes.
    #[error("manifest `{template}`: an object without `{field}`")]
    NoObject {
        /// The template.
        template: &'static str,
        /// What it lacks.
        field: &'static str,
    },
    /// The secrets of the cluster are malformed.
    #[error(transparent)]
    Secrets(SecretsError),
    /// The range of Services is no range.
    #[error(transparent)]
    Subnet(SubnetError),
}

/// The templates, in the order in which their objects are applied.
const TEMPLATES: &[(&str, &str, Ownership)] = &[
    template(
        "namespace.yaml",
        include_str!("../../../manifests/namespace.yaml"),
    ),
    template("crds.yaml", include_str!("../../../manifests/crds.yaml")),
    template("rbac.yaml", include_str!("../../../manifests/rbac.yaml")),
    (
        CLUSTER,
        include_str!("../../../manifests/cluster.yaml"),
        Ownership::Operator,
    ),
    template(
        "network-policies.yaml",
        include_str!("../../../manifests/network-policies.yaml"),
    ),
    template(
        "key-service.yaml",
        include_str!("../../../manifests/key-service.yaml"),
    ),
    template(
        "join-service.yaml",
        include_str!("../../../manifests/join-service.yaml"),
    ),
    template(
        "verification-service.yaml",
        include_str!("../../../manifests/verification-service.yaml"),
    ),
];

/// The template that needs [`Values::cluster`].
const CLUSTER: &str = "cluster.yaml";

const fn template(
    name: &'static str,
    text: &'static str,
) -> (&'static str, &'static str, Ownership) {
    (name, text, Ownership::Release)
}

/// The objects, in the order in which they are applied.
///
/// # Errors
/// [`RenderError`] names the template.
pub fn render(values: &Values) -> Result<Vec<Object>, RenderError> {
    let view = View::new(values).map_err(|error| match error {
        ViewError::Secrets(error) => RenderError::Secrets(error),
        ViewError::Subnet(error) => RenderError::Subnet(error),
    })?;
    let mut objects = Vec::new();
    for (name, text, ownership) in TEMPLATES {
        if *name == CLUSTER && values.cluster.is_none() {
            continue;
        }
        let documents = documents(name, text, &view)?;
        objects.extend(documents.into_iter().map(|json| Object {
            json,
            ownership: *ownership,
        }));
    }
    Ok(objects)
}

fn documents(
    template: &'static str,
    text: &str,
    view: &impl Serialize,
) -> Result<Vec<Value>, RenderError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // Every value becomes a JSON literal, which both YAML and TOML read as that one value.
    environment.set_auto_escape_callback(|_| AutoEscape::Json);
    let text = environment
        .render_named_str(template, text, minijinja::value::Serde(view))
        .map_err(|source| RenderError::Template { template, source })?;
    // YAML 1.2: only `true` and `false` are booleans, or `on` and `no` would be, too.
    let options = serde_saphyr::options! { strict_booleans: true };
    let documents: Vec<Value> =
        serde_saphyr::from_multiple_with_options(&text, options).map_err(|error| {
            RenderError::Yaml {
                template,
                reason: error.location().map_or_else(
                    || "somewhere".to_owned(),
                    |place| format!("line {}, column {}", place.line(), place.column()),
                ),
            }
        })?;
    for field in ["/apiVersion", "/kind", "/metadata/name"] {
        let there = |object: &Value| object.pointer(field).is_some_and(Value::is_string);
        if !documents.iter().all(there) {
            return Err(RenderError::NoObject { template, field });
        }
    }
    Ok(documents)
}

impl Object {
    /// The kind.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// The namespace, of objects that are in one.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.json.pointer("/metadata/namespace")?.as_str()
    }

    pub(crate) fn text(&self, pointer: &str) -> &str {
        let text = self.json.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_default()
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn one(text: &str, view: Value) -> Result<Value, RenderError> {
        documents("test.yaml", text, &view).map(|documents| documents[0].clone())
    }

    const HEAD: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";

    #[test]
    fn a_value_stays_one_value() {
        for hostile in [
            "a\nb: c",
            "\"}, {",
            "yes",
            "1",
            "null",
            "# x",
            "---\nkind: Secret",
            "{{ other }}",
            "<&'>\u{1f512}\\",
        ] {
            let text =
                format!("{HEAD}data:\n  a: {{{{ value }}}}\n  toml: |\n    x = {{{{ value }}}}\n");
            let object = one(&text, json!({"value": hostile})).unwrap();
            assert_eq!(object["data"]["a"], hostile);
            let file: toml::Table = object["data"]["toml"].as_str().unwrap().parse().unwrap();
            assert_eq!(file.len(), 1);
            assert_eq!(file["x"].as_str(), Some(hostile));
        }
    }

    #[test]
    fn an_undefined_variable_renders_nothing() {
        for text in ["a: {{ absent }}", "a: {{ value.absent }}", "a: {{ value"] {
            let text = format!("{HEAD}{text}\n");
            let error = one(&text, json!({"value": {}})).unwrap_err();
            assert!(matches!(error, RenderError::Template { .. }), "{error}");
        }
    }

    #[test]
    fn what_is_no_object_is_named() {
        for (text, field) in [
            ("kind: A\nmetadata: {name: a}\n", "/apiVersion"),
            ("apiVersion: v1\nkind: A\n", "/metadata/name"),
        ] {
            let error = one(text, json!({})).unwrap_err();
            assert!(matches!(error, RenderError::NoObject { field: got, .. } if got == field));
        }
        let error = one("a: b: c\n", json!({})).unwrap_err();
        assert!(matches!(error, RenderError::Yaml { .. }));
        let twice = format!("{HEAD}data: {{}}\ndata: {{}}\n");
        assert!(matches!(
            one(&twice, json!({})),
            Err(RenderError::Yaml { .. })
        ));
    }
}

//! Who may ask for which keys.

use crate::config::CallerConfig;
use key_hierarchy::{KeyClass, MalformedDataKeyId};
use serde::Deserialize;
use service_runtime::mtls::PeerName;
use std::collections::{BTreeMap, BTreeSet};

/// The table of callers. A caller that is not in it may ask for nothing.
#[derive(Debug)]
pub struct Callers(BTreeMap<PeerName, Rights>);

#[derive(Debug)]
struct Rights {
    classes: BTreeSet<KeyClass>,
    control_plane_files: bool,
}

/// A class of keys as configurations spell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ClassName(pub KeyClass);

/// A caller is listed twice, so it is not clear what it may ask for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("caller `{0}` is listed twice")]
pub struct DuplicateCaller(pub PeerName);

impl Callers {
    /// Builds the table.
    ///
    /// # Errors
    /// [`DuplicateCaller`].
    pub fn new(callers: &[CallerConfig]) -> Result<Self, DuplicateCaller> {
        let mut table = BTreeMap::new();
        for caller in callers {
            let classes = caller.classes.iter().map(|ClassName(class)| *class);
            let rights = Rights {
                classes: classes.collect(),
                control_plane_files: caller.control_plane_files,
            };
            if table.insert(caller.name.clone(), rights).is_some() {
                return Err(DuplicateCaller(caller.name.clone()));
            }
        }
        Ok(Self(table))
    }

    /// Whether `caller` may ask for keys of `class`.
    #[must_use]
    pub fn may_ask(&self, caller: &PeerName, class: KeyClass) -> bool {
        self.0
            .get(caller)
            .is_some_and(|rights| rights.classes.contains(&class))
    }

    /// Whether `caller` may ask for what makes a control-plane node.
    #[must_use]
    pub fn may_ask_for_files(&self, caller: &PeerName) -> bool {
        let rights = self.0.get(caller);
        rights.is_some_and(|rights| rights.control_plane_files)
    }
}

impl TryFrom<String> for ClassName {
    type Error = MalformedDataKeyId;

    fn try_from(text: String) -> Result<Self, MalformedDataKeyId> {
        text.parse().map(Self)
    }
}

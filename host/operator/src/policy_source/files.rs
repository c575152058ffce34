//! What is offered: a policy file and the plugins beside it, before anybody has looked
//! whether they are any good.

use std::collections::BTreeMap;

use bytes::Bytes;
use k8s_openapi::api::core::v1::ConfigMap;
use sha2::{Digest as _, Sha256};
use vmgroup_api::policy_file::FILE_NAME;
use vmgroup_registry::SCHEME;

use super::supply::Absent;

/// A policy file and the plugins beside it, as a ConfigMap or a folder has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyFiles {
    /// The text of `policy.yaml`, if there is one.
    pub policy_yaml: Option<String>,
    /// Plugins by the name that the policy file gives them; of a ConfigMap its
    /// `binaryData`.
    pub binaries: BTreeMap<String, Bytes>,
    /// `metadata.resourceVersion` of the ConfigMap; empty for a folder.
    pub resource_version: String,
    /// Where they are from.
    pub origin: Origin,
    /// What the policy file names by reference, and could not be had.
    pub absent: BTreeMap<String, Absent>,
}

/// Where policies are from. The messages name what its users know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// A ConfigMap.
    #[default]
    ConfigMap,
    /// A folder; with what is wrong where it could not be read.
    Folder {
        /// In words.
        problem: Option<String>,
    },
}

impl Origin {
    /// How to get a plugin of this name in there.
    pub(super) fn how_to_add(&self, plugin: &str) -> String {
        match self {
            Self::ConfigMap => {
                format!("Add `{plugin}` to `binaryData` (kubectl create configmap … --from-file={plugin})")
            }
            Self::Folder { .. } => format!("Put `{plugin}` into the folder, beside `{FILE_NAME}`"),
        }
    }
}

impl PolicyFiles {
    /// What counts of this ConfigMap.
    pub fn of(map: ConfigMap) -> Self {
        Self {
            policy_yaml: map.data.and_then(|mut data| data.remove(FILE_NAME)),
            binaries: map
                .binary_data
                .unwrap_or_default()
                .into_iter()
                .map(|(key, value)| (key, value.0.into()))
                .collect(),
            resource_version: map.metadata.resource_version.unwrap_or_default(),
            ..Self::default()
        }
    }

    /// A hash of the content: every part with its length, so that nothing can
    /// be mistaken for its neighbour. The resource version is not content.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        match &self.policy_yaml {
            Some(text) => {
                part(b"yaml");
                part(text.as_bytes());
            }
            None => part(b"none"),
        }
        // What a reference names is in the reference.
        for (key, value) in self.binaries.iter().filter(|(key, _)| !key.starts_with(SCHEME)) {
            part(key.as_bytes());
            part(value);
        }
        if let Origin::Folder { problem: Some(problem) } = &self.origin {
            part(problem.as_bytes());
        }
        Fingerprint(Some(hash.finalize().into()))
    }
}

/// The content that was offered; none: no ConfigMap. As text `none`, or 64
/// hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(pub(super) Option<[u8; 32]>);

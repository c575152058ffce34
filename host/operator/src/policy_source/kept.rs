//! What is kept of the policies over a restart, and the form of the ConfigMap
//! that it is kept in. Pure; must not call anybody.
//!
//! `data` has the policy files as they were, and `state.json` says which belongs
//! to what; `binaryData` has the plugins, compressed, each once, by its hash.

use std::collections::BTreeMap;
use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use vmgroup_policy::Digest;
use vmgroup_registry::SCHEME;

use super::edition::Content;
use super::supply::SIGNATURE_SUFFIX;
use super::{Fingerprint, PolicyFiles, Refusal};

/// The most that is kept, in bytes. A ConfigMap holds 1 MiB.
const LIMIT: usize = 1_000_000;

const STATE: &str = "state.json";

/// What an operator that starts, or begins to lead, has to know.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    /// What was in force.
    pub(super) in_force: Option<Content>,
    /// What was in force before, and good.
    pub(super) previous: Option<Content>,
    /// What was taken back, and is not to be tried again.
    pub(super) rolled_back: Option<RolledBack>,
}

/// An edition that failed at work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RolledBack {
    pub(super) content: Fingerprint,
    pub(super) refusal: Refusal,
    /// Nobody is chosen to leave meanwhile: what serves instead was not chosen for that.
    #[serde(default)]
    pub(super) holds_scaling: bool,
}

/// Why something that was kept cannot be used, or something cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeptError {
    /// Somebody else wrote it, or another version.
    #[error("`{STATE}` cannot be read: {0}")]
    State(#[source] serde_json::Error),
    /// Somebody has taken something out of it.
    #[error("it has no `{0}`")]
    Lacks(String),
    /// A plugin could not be compressed.
    #[error("a plugin cannot be compressed: {0}")]
    Compress(#[source] std::io::Error),
    /// Too large even without the previous policies.
    #[error("the policies take {0} bytes, compressed; at most {LIMIT} can be kept")]
    TooLarge(usize),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    in_force: Option<Entry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<Entry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rolled_back: Option<RolledBack>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    content: Fingerprint,
    /// A key of `data`; none: the built-in policies.
    policy_file: Option<String>,
    /// By the name that the policy file gives them: a key of `binaryData`.
    plugins: BTreeMap<String, String>,
    /// Of the policy ConfigMap.
    resource_version: String,
}

/// `data` and `binaryData` of the ConfigMap, and whose it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) data: BTreeMap<String, String>,
    pub(super) binary: BTreeMap<String, ByteString>,
    /// The uid of the policy ConfigMap that it belongs to, if it goes with it.
    pub(super) owner: Option<String>,
}

impl Stored {
    pub(super) fn of(map: ConfigMap) -> Self {
        let mut owners = map.metadata.owner_references.unwrap_or_default().into_iter();
        let owner = owners.find(|owner| owner.kind == "ConfigMap").map(|owner| owner.uid);
        Self { data: map.data.unwrap_or_default(), binary: map.binary_data.unwrap_or_default(), owner }
    }

    /// As it is to be written. If not all of it fits, the previous policies are
    /// left out, and then what can be pulled again.
    pub(super) fn form(kept: &Kept) -> Result<Self, KeptError> {
        let alone = || Kept { previous: None, ..kept.clone() };
        let mut size = 0;
        for (kept, pulled) in [(kept.clone(), true), (alone(), true), (alone(), false)] {
            let stored = Self::form_whole(&kept, pulled)?;
            size = stored.size();
            if size <= LIMIT {
                return Ok(stored);
            }
        }
        Err(KeptError::TooLarge(size))
    }

    fn form_whole(kept: &Kept, pulled: bool) -> Result<Self, KeptError> {
        let mut stored = Self::default();
        let in_force = stored.add("in-force.yaml", kept.in_force.as_ref(), pulled)?;
        let previous = stored.add("previous.yaml", kept.previous.as_ref(), pulled)?;
        let state = State { in_force, previous, rolled_back: kept.rolled_back.clone() };
        let text = serde_json::to_string_pretty(&state).map_err(KeptError::State)?;
        stored.data.insert(STATE.to_owned(), text);
        Ok(stored)
    }

    fn add(&mut self, file: &str, content: Option<&Content>, pulled: bool) -> Result<Option<Entry>, KeptError> {
        let Some(content) = content else { return Ok(None) };
        let mut entry = Entry {
            content: content.fingerprint,
            policy_file: None,
            plugins: BTreeMap::new(),
            resource_version: String::new(),
        };
        let Some(PolicyFiles { policy_yaml: Some(text), binaries, resource_version, origin: _, absent: _ }) =
            &content.data
        else {
            return Ok(Some(entry));
        };
        // What the policy file does not even mention is nobody's.
        let plugin = |name: &str| name.strip_suffix(SIGNATURE_SUFFIX).unwrap_or(name).to_owned();
        let named = binaries.iter().filter(|(name, _)| text.contains(&plugin(name)));
        for (name, bytes) in named.filter(|(name, _)| pulled || !name.starts_with(SCHEME)) {
            // A signature is as random as anything.
            let (packed, ending) = if name.ends_with(SIGNATURE_SUFFIX) {
                (bytes.to_vec(), "sig")
            } else {
                (compressed(bytes).map_err(KeptError::Compress)?, "wasm.gz")
            };
            let key = format!("{}.{ending}", Digest::of(&packed).short());
            self.binary.insert(key.clone(), ByteString(packed));
            entry.plugins.insert(name.clone(), key);
        }
        self.data.insert(file.to_owned(), text.clone());
        entry.policy_file = Some(file.to_owned());
        entry.resource_version.clone_from(resource_version);
        Ok(Some(entry))
    }

    fn size(&self) -> usize {
        self.data.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
            + self.binary.iter().map(|(key, value)| key.len() + value.0.len()).sum::<usize>()
    }

    /// What it says; nothing, if it is empty, as it is deployed.
    pub(super) fn read(&self) -> Result<Kept, KeptError> {
        let Some(state) = self.data.get(STATE) else { return Ok(Kept::default()) };
        let State { in_force, previous, rolled_back } = serde_json::from_str(state).map_err(KeptError::State)?;
        let content = |entry: Option<Entry>| entry.map(|entry| self.content(entry)).transpose();
        Ok(Kept { in_force: content(in_force)?, previous: content(previous)?, rolled_back })
    }

    fn content(&self, entry: Entry) -> Result<Content, KeptError> {
        let Entry { content: fingerprint, policy_file, plugins, resource_version } = entry;
        let Some(file) = policy_file else { return Ok(Content { data: None, fingerprint }) };
        let text = self.data.get(&file).cloned().ok_or(KeptError::Lacks(file))?;
        let mut binaries = BTreeMap::new();
        for (name, key) in plugins {
            let bytes = self.binary.get(&key).ok_or(KeptError::Lacks(key))?;
            binaries.insert(name, Bytes::from(bytes.0.clone()));
        }
        let data = PolicyFiles { policy_yaml: Some(text), binaries, resource_version, ..PolicyFiles::default() };
        Ok(Content { data: Some(data), fingerprint })
    }
}

fn compressed(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes.to_vec());
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(bytes) = self.0 else { return serializer.serialize_str("none") };
        serializer.collect_str(&bytes.map(|byte| format!("{byte:02x}")).concat())
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "none" {
            return Ok(Self(None));
        }
        let wrong = || serde::de::Error::custom("no hash of 64 hexadecimal digits");
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return Err(wrong());
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(2 * at..2 * at + 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(Some(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(text: &str, plugins: &[(&str, Vec<u8>)]) -> Content {
        let binaries = plugins.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone().into())).collect();
        let data = PolicyFiles {
            policy_yaml: Some(text.to_owned()),
            binaries,
            resource_version: "7".to_owned(),
            ..PolicyFiles::default()
        };
        Content::of(Some(data))
    }

    /// Bytes that no compression makes smaller.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn what_is_kept_comes_back_and_what_nobody_names_is_left_out() {
        let in_force =
            content("scaling: { plugin: a.wasm }", &[("a.wasm", b"aaa".to_vec()), ("other.wasm", b"ooo".to_vec())]);
        let kept = Kept {
            in_force: Some(in_force.clone()),
            previous: Some(Content::of(None)),
            rolled_back: Some(RolledBack {
                content: content("x", &[]).fingerprint,
                refusal: Refusal {
                    stage: super::super::AT_WORK.to_owned(),
                    plugin: "a.wasm".to_owned(),
                    message: "m".to_owned(),
                    remedy: "r".to_owned(),
                    resource_version: "8".to_owned(),
                },
                holds_scaling: true,
            }),
        };
        let back = Stored::form(&kept).unwrap().read().unwrap();
        let found = back.in_force.unwrap();
        assert_eq!(found.fingerprint, in_force.fingerprint);
        let data = found.data.unwrap();
        assert_eq!(
            (data.policy_yaml.as_deref(), data.resource_version.as_str()),
            (Some("scaling: { plugin: a.wasm }"), "7")
        );
        assert_eq!(data.binaries.keys().collect::<Vec<_>>(), ["a.wasm"]);
        assert!(data.binaries["a.wasm"].starts_with(&[0x1f, 0x8b]));
        assert!(back.previous.unwrap().data.is_none());
        let rolled_back = back.rolled_back.unwrap();
        assert_eq!((rolled_back.refusal.plugin.as_str(), rolled_back.holds_scaling), ("a.wasm", true));
    }

    #[test]
    fn what_does_not_fit_loses_the_previous_first() {
        let kept = |large: usize| Kept {
            in_force: Some(content("a.wasm", &[("a.wasm", noise(large))])),
            previous: Some(content("b.wasm", &[("b.wasm", noise(600_000))])),
            rolled_back: None,
        };
        let both = Stored::form(&kept(300_000)).unwrap();
        assert_eq!(both.binary.len(), 2);
        let one = Stored::form(&kept(500_000)).unwrap();
        assert_eq!(one.binary.len(), 1);
        assert!(one.read().unwrap().previous.is_none());
        assert!(matches!(Stored::form(&kept(1_100_000)), Err(KeptError::TooLarge(_))));
    }

    #[test]
    fn what_was_pulled_is_kept_with_its_signature_while_there_is_room() {
        let reference = "oci://registry.example.com/a@sha256:00";
        let kept = |large: usize| Kept {
            in_force: Some(content(
                &format!("[ {reference}, b.wasm ]"),
                &[
                    (reference, noise(large)),
                    (&format!("{reference}.sig"), noise(64)),
                    ("b.wasm", noise(100_000)),
                    ("b.wasm.sig", noise(65)),
                    ("other.wasm.sig", noise(66)),
                ],
            )),
            ..Kept::default()
        };
        let names = |large| {
            let read = Stored::form(&kept(large)).unwrap().read().unwrap();
            read.in_force.and_then(|content| content.data).unwrap().binaries.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(names(500_000), ["b.wasm", "b.wasm.sig", reference, &format!("{reference}.sig")]);
        assert_eq!(names(1_000_000), ["b.wasm", "b.wasm.sig"]);
    }

    #[test]
    fn an_empty_config_map_keeps_nothing_and_a_spoilt_one_says_what_is_wrong() {
        assert!(Stored::default().read().unwrap().in_force.is_none());
        let mut stored = Stored::form(&Kept {
            in_force: Some(content("a.wasm", &[("a.wasm", b"aaa".to_vec())])),
            ..Kept::default()
        })
        .unwrap();
        stored.binary.clear();
        assert!(matches!(stored.read(), Err(KeptError::Lacks(key)) if key.ends_with(".wasm.gz")));
        stored.data.insert(STATE.to_owned(), "{".to_owned());
        assert!(matches!(stored.read(), Err(KeptError::State(_))));
    }
}

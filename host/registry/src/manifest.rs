//! The CNCF wasm artifact layout: a manifest with a config
//! `application/vnd.wasm.config.v0+json` and one layer `application/wasm`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// An OCI image manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Asked for too, so that a registry gives it and the message can say what it is.
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
const LAYER: &str = "application/wasm";

/// What a component is said to be, in its artifact's config.
#[derive(Clone, Debug, Serialize)]
pub struct Contents {
    /// The interfaces that it exports.
    pub exports: Vec<String>,
    /// The interfaces that it imports.
    pub imports: Vec<String>,
}

/// The config of an artifact. Without a date, so that the same component pushed
/// twice is the same artifact.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    architecture: &'static str,
    os: &'static str,
    layer_digests: [Digest; 1],
    component: Contents,
}

impl Config {
    /// Of a component.
    pub(crate) fn new(layer: Digest, component: Contents) -> Self {
        // The layout has no other word for a component than this.
        Self { architecture: "wasm", os: "wasip2", layer_digests: [layer], component }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// What only an index has.
#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<serde::de::IgnoredAny>,
}

impl Manifest {
    /// Of a config and a component.
    pub(crate) fn new(config: &[u8], wasm: &[u8], annotations: BTreeMap<String, String>) -> Self {
        let describe = |media_type: &str, bytes: &[u8]| Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
        };
        Self {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            config: describe(CONFIG, config),
            layers: vec![describe(LAYER, wasm)],
            annotations,
        }
    }

    /// Reads one; why it is not one of a policy, if it is not.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        if serde_json::from_slice(bytes).is_ok_and(|index: Index| !index.manifests.is_empty()) {
            return Err("it is an index of several artifacts; give the digest of the policy's own manifest".to_owned());
        }
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| format!("its manifest cannot be read: {error}"))?;
        if manifest.config.media_type != CONFIG {
            return Err(format!(
                "it is no WebAssembly artifact: its config is `{}`, not `{CONFIG}`",
                manifest.config.media_type
            ));
        }
        match manifest.layers.as_slice() {
            [layer] if layer.media_type == LAYER => Ok(manifest),
            [layer] => Err(format!("its layer is `{}`, not `{LAYER}`", layer.media_type)),
            layers => Err(format!("it has {} layers, and a policy is one `{LAYER}`", layers.len())),
        }
    }

    /// The component.
    pub(crate) fn layer(&self) -> &Descriptor {
        // `new` makes one and `read` lets none pass that has another number.
        self.layers.first().unwrap_or(&self.config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_policy_says_what_it_is() {
        let good = Manifest::new(b"{}", b"wasm", BTreeMap::new());
        let text = |manifest: &Manifest| serde_json::to_string(manifest).unwrap();
        assert_eq!(Manifest::read(text(&good).as_bytes()).unwrap().layer().digest, Digest::of(b"wasm"));
        let refused = |text: &str| Manifest::read(text.as_bytes()).unwrap_err();
        let image = text(&good).replace(CONFIG, "application/vnd.oci.image.config.v1+json");
        assert!(refused(&image).contains("no WebAssembly artifact"));
        assert!(refused(&text(&good).replace(LAYER, "text/plain")).contains("text/plain"));
        let two = Manifest { layers: [good.layers.clone(), good.layers.clone()].concat(), ..good.clone() };
        assert!(refused(&text(&two)).contains("2 layers"));
        let none = Manifest { layers: Vec::new(), ..good };
        assert!(refused(&text(&none)).contains("0 layers"));
        assert!(refused(r#"{"schemaVersion":2,"manifests":[{}]}"#).contains("index"));
        assert!(refused("<html>").contains("cannot be read"));
    }
}

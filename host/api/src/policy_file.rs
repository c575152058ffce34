//! `policy.yaml`: which plugin answers which question, and how it is configured.
//!
//! Parsing only. Whether a plugin exists, and likes its configuration, is found
//! out by whoever loads it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The key of the policy file in its ConfigMap, and its name in a folder.
pub const FILE_NAME: &str = "policy.yaml";

/// The whole file. What is left out is answered by the built-in default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicyFile {
    /// Gives names to new members. Default: `random-suffix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub naming: Option<PolicyEntry>,
    /// Chooses where new members go. Default: `pool-default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PolicyEntry>,
    /// Chooses who leaves. Default: `ordered`, newest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<PolicyEntry>,
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicyEntry {
    /// A key of the ConfigMap's `binaryData` ending in `.wasm` or `.wasm.gz`,
    /// or the bare name of a shipped policy (`ordinal`).
    pub plugin: String,
    /// The policy's own configuration; what is legal here is up to it.
    #[serde(default)]
    pub config: serde_json::Map<String, serde_json::Value>,
    /// What happens when it gives no legal answer.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// What happens when a policy gives no legal answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnFailure {
    /// Nothing is changed until it does. The default.
    #[default]
    Hold,
    /// The built-in default of its kind is asked instead.
    Builtin,
}

/// Why a policy file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// Not YAML, or not of this shape; the message has line, column and what was expected.
    #[error("policy.yaml cannot be read: {0}")]
    Parse(String),
}

impl PolicyFile {
    /// Parses the text of a policy file. Empty text is the empty file.
    pub fn parse(text: &str) -> Result<Self, PolicyFileError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(text).map_err(|error| PolicyFileError::Parse(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_design_parses() {
        let file = PolicyFile::parse(
            r#"
naming:    { plugin: ordinal-naming.wasm, config: { pattern: "{group}-{ordinal}", maxLength: 15 } }
placement: { plugin: spread.wasm, config: { by: host } }
scaling:   { plugin: idle-first.wasm, config: { protect: [ "pet=true" ] }, onFailure: hold }
"#,
        )
        .unwrap();
        assert_eq!(file.naming.unwrap().config["maxLength"], 15);
        assert_eq!(file.scaling.unwrap().on_failure, OnFailure::Hold);
    }

    #[test]
    fn a_misspelt_field_is_named_with_its_line() {
        let error =
            PolicyFile::parse("naming:\n  plugin: ordinal\nplacment:\n  plugin: spread\n").unwrap_err().to_string();
        assert!(error.contains("placment"), "{error}");
        assert!(error.contains('3'), "{error}");
    }

    #[test]
    fn nothing_is_the_default() {
        assert_eq!(PolicyFile::parse(" \n").unwrap(), PolicyFile::default());
    }
}

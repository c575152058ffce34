//! The policies inside the binary. They are WebAssembly like anybody's and go
//! the same way: there is no native shortcut. Built by `scripts/build-plugins`
//! when this crate is built.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;

use crate::check::{CheckError, Problem, Stage};
use crate::{Host, Kind, Limits, PolicySet, Source, shape, source};

/// Name and bytes, as the build script found them.
const BUILT: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/shipped.rs"));

/// A policy inside the binary.
#[derive(Clone, Copy, Debug)]
pub struct Shipped {
    /// As the policy file names it: `random-suffix`.
    pub name: &'static str,
    /// The question that it answers.
    pub kind: Kind,
    /// A component, compressed or not.
    pub bytes: &'static [u8],
}

/// All of them, by name.
pub fn all() -> &'static [Shipped] {
    static ALL: LazyLock<Vec<Shipped>> = LazyLock::new(|| {
        let limits = Limits::default();
        BUILT
            .iter()
            .filter_map(|(name, bytes)| {
                let unpacked = source::unpack(&Bytes::from_static(bytes), &limits).ok()?;
                let shape = shape::parse(&unpacked, &limits).ok()?;
                Some(Shipped { name, kind: shape::first_kind(&shape)?, bytes })
            })
            .collect()
    });
    &ALL
}

/// The shipped policy of this name, with or without `.wasm` (`.wasm.gz`) at its
/// end, ready to be checked with an empty configuration.
pub fn find(name: &str) -> Option<Source> {
    let bare = name.strip_suffix(".gz").unwrap_or(name);
    let bare = bare.strip_suffix(".wasm").unwrap_or(bare);
    all().iter().find(|shipped| shipped.name == bare).map(|shipped| Source {
        name: name.to_owned(),
        bytes: Bytes::from_static(shipped.bytes),
        config: serde_json::Value::Object(serde_json::Map::new()),
    })
}

/// The shipped policy that answers this question where nobody says otherwise.
pub const fn default_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Naming => "random-suffix",
        Kind::Placement => "pool-default",
        Kind::Scaling => "ordered",
    }
}

/// The policies that are in force where there is no policy file.
pub fn default_set(host: &Host) -> Result<PolicySet, CheckError> {
    let check = |kind| {
        let name = default_name(kind);
        let source = find(name).ok_or_else(|| not_shipped(name))?;
        host.check(kind, &source).map(|checked| Arc::clone(&checked.policy))
    };
    Ok(PolicySet { naming: check(Kind::Naming)?, placement: check(Kind::Placement)?, scaling: check(Kind::Scaling)? })
}

/// What to say of a name that is neither among the offered plugins nor shipped.
pub fn not_shipped(name: &str) -> CheckError {
    let shipped = all().iter().map(|shipped| shipped.name.to_owned()).collect();
    CheckError {
        stage: Stage::Size,
        plugin: name.to_owned(),
        problem: Box::new(Problem::NotShipped { shipped }),
        remedy: "Use one of these names, or put the plugin into the ConfigMap's binaryData under the name that policy.yaml uses.".to_owned(),
        stages: Vec::new(),
    }
}

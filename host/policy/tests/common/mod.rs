//! What the tests of the policy host have in common.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use vmgroup_policy::wit::types::{Context, Group, Purpose};

/// A component that is not shipped, built now: `how` is `--policy` (one of `plugins/`)
/// or `--example` (one of `plugins/sdk/examples`).
pub fn built(how: &str, name: &str) -> Bytes {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let done = Command::new(root.join("scripts/build-plugins"))
        .args(["--no-install", how, name])
        .current_dir(&root)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Bytes::from(std::fs::read(root.join(format!("target/plugins/examples/{name}.wasm"))).unwrap())
}

/// A component that may be compressed, as it is.
pub fn unpacked(bytes: &[u8]) -> Vec<u8> {
    if bytes.starts_with(b"\0asm") {
        return bytes.to_vec();
    }
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
    out
}

/// The context of a question about three members of `shop/web`.
pub fn context(purpose: Purpose, seed: u64, attempt: u32) -> Context {
    Context {
        now: 1_800_000_000,
        utc_offset_minutes: None,
        seed,
        attempt,
        purpose,
        config: String::new(),
        group: Group {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u".into(),
            labels: Vec::new(),
            template: "t".into(),
            cpus: 1,
            memory_mib: 1024,
            replicas: 3,
            attributes: Vec::new(),
        },
    }
}

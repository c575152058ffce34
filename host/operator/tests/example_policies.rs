//! Every policy file under `examples/policies` is taken by the operator's own check,
//! and every policy of `plugins/` has one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use vmgroup_operator::clock::Clock;
use vmgroup_operator::metrics::Metrics;
use vmgroup_operator::offload::Offload;
use vmgroup_operator::policy_source::{PolicyBook, PolicyFiles};
use vmgroup_policy::{Host, Kind, Limits};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// As `kubectl` would put it into the cluster: a manifest as it is, a folder's
/// `policy.yaml` with the plugin that its comment says how to build.
fn offered(path: &Path) -> PolicyFiles {
    if path.is_file() {
        let map: ConfigMap = serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        return PolicyFiles::of(map);
    }
    let plugin = name(path);
    let done = Command::new(root().join("scripts/build-plugins"))
        .args(["--no-install", "--policy", &plugin])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let file = format!("{plugin}.wasm");
    let bytes = fs::read(root().join("target/plugins/examples").join(&file)).unwrap();
    PolicyFiles {
        policy_yaml: Some(fs::read_to_string(path.join("policy.yaml")).unwrap()),
        binaries: [(file, bytes.into())].into(),
        resource_version: "1".to_owned(),
        ..PolicyFiles::default()
    }
}

#[tokio::test]
async fn each_is_accepted_and_each_policy_has_one() {
    let host = Host::new(Limits::default()).unwrap();
    let mut shown = BTreeSet::new();
    for path in entries(&root().join("examples/policies")) {
        let metrics = Metrics::new(Clock::starting_at(Duration::ZERO));
        let book = PolicyBook::new(host.clone(), Offload::Inline, metrics).unwrap();
        let serving = book.offer(Some(offered(&path))).await;
        let serving = serving.unwrap_or_else(|refusal| panic!("{}: {}", path.display(), refusal.message));
        shown.extend(Kind::ALL.map(|kind| serving.set.get(kind).description().name.clone()));
    }
    let folders = entries(&root().join("plugins")).into_iter().filter(|path| path.join("Cargo.toml").exists());
    let policies: BTreeSet<String> = folders.map(|path| name(&path)).filter(|name| name != "sdk").collect();
    assert_eq!(shown, policies);
}

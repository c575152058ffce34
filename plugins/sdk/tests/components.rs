//! What `scripts/build-plugins` makes, as the operator will see it: components that
//! import nothing but the log and export just the questions that they answer. Knows no WebAssembly engine;
//! that they answer well is tested in `host/policy`.

#![allow(clippy::unwrap_used, reason = "a test; clippy.toml's exception stops at helper functions")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use wasmparser::{Encoding, Parser, Payload, Validator, WasmFeatures};

const SHIPPED: [(&str, &str); 12] = [
    ("anti-affinity", "placement"),
    ("balanced", "scaling"),
    ("cheapest-datastore", "placement"),
    ("drain-first", "scaling"),
    ("idle-first", "scaling"),
    ("ordered", "scaling"),
    ("ordinal", "naming"),
    ("pack", "placement"),
    ("pets", "scaling"),
    ("pool-default", "placement"),
    ("random-suffix", "naming"),
    ("spread", "placement"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn build(arguments: &[&str]) {
    let done = Command::new(root().join("scripts/build-plugins"))
        .arg("--no-install")
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// The outermost component's imports and exports, after the whole was validated.
fn interfaces(bytes: &[u8]) -> (BTreeSet<String>, BTreeSet<String>) {
    let features = WasmFeatures::default() | WasmFeatures::COMPONENT_MODEL;
    Validator::new_with_features(features).validate_all(bytes).unwrap();
    let (mut imports, mut exports) = (BTreeSet::new(), BTreeSet::new());
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.unwrap() {
            Payload::Version { encoding, .. } => {
                if depth == 0 {
                    assert_eq!(encoding, Encoding::Component);
                }
                depth += 1;
            }
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 1 => {
                imports.extend(section.into_iter().map(|i| i.unwrap().name.name.to_owned()));
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                exports.extend(section.into_iter().map(|e| e.unwrap().name.name.to_owned()));
            }
            _ => {}
        }
    }
    (imports, exports)
}

fn assert_policy(bytes: &[u8], kinds: &[&str]) {
    let (imports, exports) = interfaces(bytes);
    let allowed = ["log", "types"].map(|name| format!("vmgroup:policy/{name}@0.2.0"));
    assert!(imports.contains(&allowed[0]), "imports no log: {imports:?}");
    assert!(imports.iter().all(|import| allowed.contains(import)), "imports {imports:?}");
    let expected = ["lifecycle"].iter().chain(kinds).map(|name| format!("vmgroup:policy/{name}@0.2.0"));
    assert_eq!(exports, expected.collect());
}

#[test]
fn the_shipped_policies_are_components_that_import_only_the_log() {
    build(&[]);
    let built: BTreeMap<String, Vec<u8>> = fs::read_dir(root().join("target/plugins"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect();
    assert!(built.keys().map(String::as_str).eq(SHIPPED.map(|(name, _)| name)));
    let home = std::env::var("HOME").unwrap_or("/root".to_owned());
    for (name, kind) in SHIPPED {
        let bytes = &built[name];
        assert_policy(bytes, &[kind]);
        // Server-side apply takes 1 MiB in all; a policy is a part of that.
        assert!(bytes.len() < 256 * 1024, "{name} has {} bytes", bytes.len());
        let text = String::from_utf8_lossy(bytes);
        let here = root().canonicalize().unwrap();
        for path in [here.to_str().unwrap(), &format!("{home}/.cargo")] {
            assert!(!text.contains(path), "{name} has {path} in it: not reproducible");
        }
    }
}

#[test]
fn those_that_are_not_shipped_are_built_on_demand() {
    for (name, kind) in [("site-names", "naming"), ("licensed-hosts", "placement"), ("business-hours", "scaling")] {
        build(&["--policy", name]);
        let bytes = fs::read(root().join(format!("target/plugins/examples/{name}.wasm"))).unwrap();
        assert_policy(&bytes, &[kind]);
    }
}

#[test]
fn one_component_answers_several_questions_and_no_other() {
    build(&["--example", "site"]);
    let bytes = fs::read(root().join("target/plugins/examples/site.wasm")).unwrap();
    assert_policy(&bytes, &["naming", "scaling"]);
}

#[test]
fn an_outsiders_policy_is_built_and_tested_with_nothing_but_the_sdk() {
    build(&["--dir", "examples/custom-policy"]);
    let folder = root().join("examples/custom-policy");
    assert_policy(&fs::read(folder.join("target/plugins/empty-host.wasm")).unwrap(), &["scaling"]);
    let mut cargo = Command::new("cargo");
    for (name, _) in std::env::vars() {
        if name.starts_with("CARGO_") && name != "CARGO_HOME" || name == "RUSTC" {
            cargo.env_remove(name);
        }
    }
    let done = cargo.args(["test", "--quiet"]).current_dir(&folder).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

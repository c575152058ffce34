//! Policies from a registry, and signed ones: what becomes of a policy file that
//! names them, whatever the registry does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod folder_fed;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use vmgroup_operator::clock::Clock;
use vmgroup_operator::config::PolicySupply;
use vmgroup_operator::metrics::Metrics;
use vmgroup_operator::offload::Offload;
use vmgroup_operator::policy_source::{PolicyBook, Registries, SIGNATURE_ANNOTATION, Supply};
use vmgroup_operator::run;
use vmgroup_policy::signature::{Keys, sign};
use vmgroup_policy::{Source, shipped};
use vmgroup_registry::{Cache, Contents, Reference};
use vmgroup_sim::registry::RegistrySim;
use vmgroup_sim::serve::{self, Server};

use folder_fed::{Fed, Folder, HOST, scaling};

/// A registry, a folder with a policy file, one for the cache, and an operator's book.
struct Story {
    sim: RegistrySim,
    server: Server,
    folder: Folder,
    cache: Folder,
    fed: Fed,
}

fn book(cache: &Folder, keys: Option<Keys>) -> PolicyBook {
    let cache = Cache::open(cache.path(), 64 << 20).unwrap();
    let registry = run::registry(&PolicySupply::default(), Some(cache)).unwrap();
    let registries = Registries { registry, clock: Clock::starting_at(Duration::from_secs(1_767_225_600)) };
    let supply = Supply { registries: Some(registries), keys: keys.map(Arc::new) };
    let metrics = Metrics::new(Clock::starting_at(Duration::ZERO));
    PolicyBook::with(HOST.clone(), supply, Offload::Blocking, metrics).unwrap()
}

impl Story {
    async fn begin(keys: Option<Keys>) -> Self {
        let sim = RegistrySim::default();
        let server = serve::serve(sim.service(), None).await.unwrap();
        let cache = Folder::new();
        let fed = Fed::new(book(&cache, keys));
        Self { sim, server, folder: Folder::new(), cache, fed }
    }

    fn watch(&self) {
        self.fed.watch(&self.folder);
    }

    /// The operator ends, and another one starts with what is on its disk.
    fn restart(&mut self, keys: Option<Keys>) {
        self.fed = Fed::new(book(&self.cache, keys));
        self.watch();
    }

    fn reference(&self, tag: &str) -> Reference {
        format!("oci://{}/policies/ordered:{tag}", self.server.addr).parse().unwrap()
    }

    async fn push(&self, component: Bytes, signature: Option<&[u8]>) -> Reference {
        let registry = run::registry(&PolicySupply::default(), None).unwrap();
        let signature = signature.map(|it| (SIGNATURE_ANNOTATION.to_owned(), BASE64_STANDARD.encode(it)));
        let annotations: BTreeMap<_, _> = signature.into_iter().collect();
        let contents = Contents { exports: Vec::new(), imports: Vec::new() };
        registry.push(&self.reference("1"), component, contents, annotations).await.unwrap().reference
    }
}

/// The component of a shipped policy: as good as anybody's.
fn component() -> Bytes {
    HOST.component(&shipped::find("ordered").unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_pulled_by_its_digest_and_needs_no_registry_afterwards() {
    let mut story = Story::begin(None).await;
    let pinned = story.push(component(), None).await;
    story.folder.write("policy.yaml", scaling(story.reference("1"), "oldest"));
    story.watch();
    story.fed.refused("pull", &["has no digest", "vmgroup policy pull"]).await;
    story.folder.write("policy.yaml", scaling(&pinned, "oldest"));
    story.fed.serves(&pinned.to_string(), "oldest").await;

    story.sim.set_down(true);
    let calls = story.sim.calls();
    story.folder.write("policy.yaml", scaling(&pinned, "newest"));
    story.fed.serves(&pinned.to_string(), "newest").await;
    story.restart(None);
    story.fed.serves(&pinned.to_string(), "newest").await;
    assert_eq!(story.sim.calls(), calls, "nobody has even asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_pulled_changes_nothing_blocks_nothing_and_comes_by_itself() {
    let story = Story::begin(None).await;
    let pinned = story.push(component(), None).await;
    story.folder.write("policy.yaml", scaling("ordered", "oldest"));
    story.watch();
    story.fed.serves("ordered", "oldest").await;

    story.sim.set_down(true);
    story.folder.write("policy.yaml", scaling(&pinned, "newest"));
    story.fed.refused("pull", &["the connection broke", "is tried again by itself"]).await;
    assert_eq!(story.fed.book.in_force().set.scaling.config()["order"], "oldest", "what was in force still is");

    // A registry that says nothing at all does not hold up what needs none.
    story.sim.set_silent(true);
    story.folder.write("policy.yaml", format!("{}# and a comment\n", scaling(&pinned, "newest")));
    tokio::time::timeout(Duration::from_secs(30), async {
        let asked = story.sim.calls();
        while story.sim.calls() == asked {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("it is asked for");
    story.folder.write("policy.yaml", scaling("ordered", "highestOrdinal"));
    story.fed.serves("ordered", "highestOrdinal").await;

    story.sim.set_silent(false);
    story.folder.write("policy.yaml", scaling(&pinned, "newest"));
    story.fed.refused("pull", &["the connection broke"]).await;
    story.sim.set_down(false);
    story.fed.serves(&pinned.to_string(), "newest").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_tampered_with_is_refused_and_a_trial_that_cannot_be_pulled_harms_nobody() {
    let story = Story::begin(None).await;
    let pinned = story.push(component(), None).await;
    story.sim.tamper();
    story.folder.write("policy.yaml", scaling(&pinned, "oldest"));
    story.watch();
    story.fed.refused("pull", &["sha256:", "changed it on its way"]).await;
    let with_trial =
        format!("scaling: {{ plugin: ordered, config: {{ order: oldest }}, shadow: {{ plugin: \"{pinned}\" }} }}\n");
    story.folder.write("policy.yaml", with_trial);
    story.fed.serves("ordered", "oldest").await;
    let serving = story.fed.book.in_force();
    let trial = serving.candidates.get(vmgroup_policy::Kind::Scaling).unwrap();
    assert_eq!(trial.checked.as_ref().unwrap_err().stage, "pull");
}

/// A key pair, as openssl makes it: the private key's file and the public keys.
fn key_pair(folder: &Path, algorithm: &[&str]) -> Option<(PathBuf, Keys)> {
    let (private, public) = (folder.join("key.pem"), folder.join("trusted.pem"));
    let openssl =
        |arguments: &[&str]| Command::new("openssl").args(arguments).output().ok().filter(|it| it.status.success());
    let made = openssl(&[&["genpkey", "-out", private.to_str()?], algorithm].concat())
        .and_then(|_| openssl(&["pkey", "-in", private.to_str()?, "-pubout", "-out", public.to_str()?]));
    if made.is_none() {
        eprintln!("there is no openssl here, or it cannot make such keys: the test does less");
    }
    made?;
    Some((private, Keys::from_pem(&std::fs::read(public).unwrap()).unwrap()))
}

const ED25519: &[&str] = &["-algorithm", "ed25519"];
const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

#[tokio::test(flavor = "multi_thread")]
async fn where_keys_are_named_what_is_not_signed_by_them_is_refused_from_every_source() {
    let pair = |algorithm| rcgen::KeyPair::generate_for(algorithm).unwrap();
    let (ed25519, p256) = (pair(&rcgen::PKCS_ED25519), pair(&rcgen::PKCS_ECDSA_P256_SHA256));
    let keys = || Keys::from_pem([ed25519.public_key_pem(), p256.public_key_pem()].concat().as_bytes()).unwrap();
    let sign = |pair: &rcgen::KeyPair| sign(&component(), pair.serialize_pem().as_bytes()).unwrap();
    let mut story = Story::begin(Some(keys())).await;
    story.folder.write("policy.yaml", scaling("ordered", "oldest"));
    story.watch();
    story.fed.serves("ordered", "oldest").await;

    story.folder.write("mine.wasm", component());
    story.folder.write("policy.yaml", scaling("mine.wasm", "oldest"));
    story.fed.refused("signature", &["mine.wasm", "is not signed", "NAME.sig"]).await;
    story.folder.write("mine.wasm.sig", sign(&pair(&rcgen::PKCS_ED25519)));
    story.fed.refused("signature", &["by none of the keys"]).await;
    story.folder.write("mine.wasm.sig", sign(&ed25519));
    story.fed.serves("mine.wasm", "oldest").await;
    story.folder.write("mine.wasm.sig", sign(&p256));
    story.folder.write("policy.yaml", scaling("mine.wasm", "newest"));
    story.fed.serves("mine.wasm", "newest").await;
    story.folder.write("mine.wasm", [&component()[..], &[0, 1, 0]].concat());
    story.fed.refused("signature", &["or of other bytes"]).await;

    let unsigned = story.push(component(), None).await;
    story.folder.write("policy.yaml", scaling(&unsigned, "oldest"));
    story.fed.refused("signature", &["is not signed"]).await;
    let signed = story.push(component(), Some(&sign(&p256))).await;
    assert_ne!(signed, unsigned, "the signature is part of the artifact");
    story.folder.write("policy.yaml", scaling(&signed, "oldest"));
    story.fed.serves(&signed.to_string(), "oldest").await;
    story.sim.set_down(true);
    story.restart(Some(keys()));
    story.fed.serves(&signed.to_string(), "oldest").await;
}

/// `vmgroup policy …` with `--output json`: what it prints, or says on standard error.
async fn vmgroup(arguments: Vec<String>) -> Result<serde_json::Value, serde_json::Value> {
    let said = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmgroup"));
        command
            .arg("policy")
            .args(arguments)
            .args(["--output", "json"])
            .env("HOME", "/nowhere")
            .env_remove("DOCKER_CONFIG");
        command.output().unwrap()
    });
    let said = said.await.unwrap();
    let done = said.status.success();
    // A check that refuses says so on standard output, like one that does not.
    let value = serde_json::from_slice(if done { &said.stdout } else { &said.stderr }).unwrap_or_default();
    if done { Ok(value) } else { Err(value) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_sign_check_push_and_pull() {
    let story = Story::begin(None).await;
    let at = |name: &str| story.folder.path().join(name).display().to_string();
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    std::fs::write(at("key.pem"), pair.serialize_pem()).unwrap();
    std::fs::write(at("trusted.pem"), pair.public_key_pem()).unwrap();
    std::fs::write(at("mine.wasm"), component()).unwrap();
    let run = async |words: &[&str]| vmgroup(words.iter().map(|&word| word.to_owned()).collect()).await;
    let (plugin, trusted, reference) = (at("mine.wasm"), at("trusted.pem"), story.reference("1").to_string());

    let check = ["check", &plugin, "--kind", "scaling", "--keys", &trusted];
    assert!(run(&check).await.is_err());
    run(&["sign", &plugin, "--key", &at("key.pem")]).await.unwrap();
    assert_eq!(run(&check).await.unwrap()["stages"][1]["stage"], "signature");

    let pushed = run(&["push", &plugin, &reference]).await.unwrap();
    assert_eq!((&pushed["signed"], &pushed["known"]), (&true.into(), &false.into()));
    let pulled = run(&["pull", &reference, &at("back.wasm")]).await.unwrap();
    assert_eq!((&pulled["reference"], &pulled["component"]), (&pushed["reference"], &pushed["component"]));
    for (one, other) in [("mine.wasm", "back.wasm"), ("mine.wasm.sig", "back.wasm.sig")] {
        assert_eq!(std::fs::read(at(one)).unwrap(), std::fs::read(at(other)).unwrap());
    }

    std::fs::write(at("no.wasm"), b"#!/bin/sh").unwrap();
    let error = run(&["push", &at("no.wasm"), &reference]).await.unwrap_err();
    assert!(error["error"]["message"].as_str().unwrap().contains("is no policy"), "{error}");
    let error = run(&["pull", &format!("{reference}x")]).await.unwrap_err();
    assert!(error["error"]["message"].as_str().unwrap().contains("has no manifest 1x"), "{error}");
    let error = run(&["pull", "registry.example.com/policies/mine"]).await.unwrap_err();
    assert_eq!(error["error"]["kind"], "usage", "{error}");

    // Why, and then what to do: at a desk nothing is tried again by itself.
    story.sim.set_down(true);
    let error = run(&["push", &plugin, &reference]).await.unwrap_err();
    let told = error["error"]["message"].as_str().unwrap();
    assert!(told.contains("the connection broke") && told.ends_with("can be reached from here."), "{error}");
}

/// The commands of `vmgroup policy sign --help` and docs/policies.md.
#[test]
fn what_openssl_signs_is_taken_and_what_we_sign_is_no_different() {
    let folder = Folder::new();
    folder.write("mine.wasm", component());
    let (file, signature) = (folder.path().join("mine.wasm"), folder.path().join("mine.wasm.sig"));
    let source = Source { name: "mine.wasm".to_owned(), bytes: component(), config: serde_json::json!({}) };
    let kind = vmgroup_policy::Kind::Scaling;
    for algorithm in [ED25519, P256] {
        let Some((private, keys)) = key_pair(folder.path(), algorithm) else { continue };
        let [private_name, file_name, signature_name] =
            [&private, &file, &signature].map(|path| path.to_str().unwrap());
        let arguments: &[&str] = if algorithm == ED25519 {
            &["pkeyutl", "-sign", "-inkey", private_name, "-rawin", "-in", file_name, "-out", signature_name]
        } else {
            &["dgst", "-sha256", "-sign", private_name, "-out", signature_name, file_name]
        };
        let done = Command::new("openssl").args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        HOST.verify(kind, &source, Some(&std::fs::read(&signature).unwrap()), &keys).unwrap();
        let ours = sign(&source.bytes, &std::fs::read(&private).unwrap()).unwrap();
        HOST.verify(kind, &source, Some(&ours), &keys).unwrap();
        // Compressed it is the same component.
        let packed = shipped::find("ordered").unwrap().bytes;
        HOST.verify(kind, &Source { bytes: packed, ..source.clone() }, Some(&ours), &keys).unwrap();
    }
}

//! Policies from a folder on a real disk: whatever way its files are changed, what
//! is there in the end is in force or refused.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod folder_fed;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use vmgroup_operator::clock::Clock;
use vmgroup_operator::metrics::Metrics;
use vmgroup_operator::offload::Offload;
use vmgroup_operator::policy_source::PolicyBook;
use vmgroup_policy::shipped;

use folder_fed::{Fed, Folder, HOST, scaling};

fn prepare() -> (Folder, Fed) {
    let metrics = Metrics::new(Clock::starting_at(Duration::ZERO));
    (Folder::new(), Fed::new(PolicyBook::new(HOST.clone(), Offload::Blocking, metrics).unwrap()))
}

fn ordered() -> impl AsRef<[u8]> {
    shipped::find("ordered").unwrap().bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_written_exchanged_broken_and_healed() {
    let (folder, fed) = prepare();
    folder.write("policy.yaml", scaling("ordered", "oldest"));
    fed.watch(&folder);
    fed.serves("ordered", "oldest").await;

    // As `cp` does it: the policy file is there before its plugin is.
    folder.write("policy.yaml", scaling("mine.wasm", "newest"));
    fed.refused("source", &["Put `mine.wasm` into the folder"]).await;
    folder.write("mine.wasm", ordered());
    fed.serves("mine.wasm", "newest").await;

    // As editors do it: a new file takes the old one's place.
    folder.write(".policy.yaml.swp", scaling("mine.wasm", "oldest"));
    std::fs::rename(folder.path().join(".policy.yaml.swp"), folder.path().join("policy.yaml")).unwrap();
    fed.serves("mine.wasm", "oldest").await;

    folder.write("mine.wasm", b"#!/bin/sh");
    fed.refused("parse", &["mine.wasm"]).await;
    assert_eq!(fed.book.in_force().set.scaling.plugin(), "mine.wasm", "what was in force still is");

    std::fs::remove_file(folder.path().join("policy.yaml")).unwrap();
    fed.refused("folder", &["policy.yaml"]).await;
    folder.write("policy.yaml", "");
    fed.until("the built-in policies", |book| book.in_force().set.scaling.plugin() == "ordered").await;
}

/// A moment of a mounted ConfigMap: a folder of its own.
fn moment(folder: &Folder, number: u32, plugin: &str, order: &str) {
    folder.write(&format!("..2026_{number}/policy.yaml"), scaling(plugin, order));
    folder.write(&format!("..2026_{number}/mine.wasm"), ordered());
}

fn exchange(folder: &Folder, number: u32) {
    let at = |name: &str| folder.path().join(name);
    symlink(format!("..2026_{number}"), at("..data_tmp")).unwrap();
    std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
}

/// As the kubelet does it, time and again: a watch on a file, or on the link, would
/// see the first exchange alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_config_map_is_exchanged_again_and_again() {
    let (folder, fed) = prepare();
    moment(&folder, 0, "mine.wasm", "newest");
    exchange(&folder, 0);
    for name in ["policy.yaml", "mine.wasm"] {
        symlink(Path::new("..data").join(name), folder.path().join(name)).unwrap();
    }
    fed.watch(&folder);
    fed.serves("mine.wasm", "newest").await;
    for (number, order) in (1..).zip(["oldest", "newest", "highestOrdinal", "oldest"]) {
        moment(&folder, number, "mine.wasm", order);
        exchange(&folder, number);
        std::fs::remove_dir_all(folder.path().join(format!("..2026_{}", number - 1))).unwrap();
        fed.serves("mine.wasm", order).await;
    }
    assert_eq!(fed.book.in_force().generation, 5, "each exchange was one swap: no moment was seen in pieces");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_comes_goes_and_comes_back_is_watched_all_the_while() {
    let (folder, fed) = prepare();
    std::fs::remove_dir_all(folder.path()).unwrap();
    fed.watch(&folder);
    fed.refused("folder", &["cannot be read"]).await;
    assert!(!fed.book.in_force().withheld.is_empty(), "nobody is chosen to leave by a policy that nobody chose");
    folder.write("policy.yaml", scaling("ordered", "oldest"));
    fed.serves("ordered", "oldest").await;

    std::fs::remove_dir_all(folder.path()).unwrap();
    fed.refused("folder", &["cannot be read"]).await;
    assert_eq!(fed.book.in_force().set.scaling.config()["order"], "oldest", "what was in force still is");
    folder.write("policy.yaml", scaling("ordered", "newest"));
    fed.serves("ordered", "newest").await;
    // Of the folder that is there now, not of the one that was.
    folder.write("policy.yaml", scaling("ordered", "oldest"));
    fed.serves("ordered", "oldest").await;
}

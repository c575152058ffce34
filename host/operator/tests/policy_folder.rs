//! Policies from a folder on a real disk: whatever way its files are changed, what
//! is there in the end is in force or refused.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use vmgroup_operator::clock::Clock;
use vmgroup_operator::metrics::Metrics;
use vmgroup_operator::offload::Offload;
use vmgroup_operator::policy_source::{PolicyBook, watch_folder};
use vmgroup_policy::{Host, Limits, shipped};

/// A folder of its own, gone with the test, and a book that is fed from it.
struct Story {
    folder: PathBuf,
    book: PolicyBook,
    stop: CancellationToken,
}

impl Story {
    fn prepare() -> Self {
        static HOST: LazyLock<Host> = LazyLock::new(|| Host::new(Limits::default()).unwrap());
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("vmgroup-policies-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let metrics = Metrics::new(Clock::starting_at(Duration::ZERO));
        let book = PolicyBook::new(HOST.clone(), Offload::Blocking, metrics).unwrap();
        Self { folder, book, stop: CancellationToken::new() }
    }

    fn watch(&self) {
        tokio::spawn(watch_folder(self.folder.clone(), self.book.clone(), self.stop.clone()));
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Waits until the book is as wished.
    async fn until(&self, what: &str, is_so: impl Fn(&PolicyBook) -> bool) {
        let mut changes = self.book.changes();
        let reached = changes.wait_for(|_| is_so(&self.book));
        let reached = tokio::time::timeout(Duration::from_secs(60), reached).await.map(|it| it.is_ok());
        assert_eq!(reached, Ok(true), "{what}: {:?}, refused {:?}", self.book.in_force().told(), self.book.refusal());
    }

    async fn serves(&self, plugin: &str, order: &str) {
        let as_wished = |book: &PolicyBook| {
            let scaling = &book.in_force().set.scaling;
            scaling.plugin() == plugin && scaling.config()["order"] == order && book.refusal().is_none()
        };
        self.until(&format!("{plugin}, {order}"), as_wished).await;
    }

    async fn refused(&self, stage: &str, word: &str) {
        let as_said = |book: &PolicyBook| {
            book.refusal().is_some_and(|it| it.stage == stage && it.told(&book.in_force(), 1_000).contains(word))
        };
        self.until(&format!("refused at {stage} because of {word}"), as_said).await;
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn scaling(plugin: &str, order: &str) -> String {
    format!("scaling: {{ plugin: {plugin}, config: {{ order: {order} }} }}\n")
}

fn ordered() -> impl AsRef<[u8]> {
    shipped::find("ordered").unwrap().bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_written_exchanged_broken_and_healed() {
    let story = Story::prepare();
    story.write("policy.yaml", scaling("ordered", "oldest"));
    story.watch();
    story.serves("ordered", "oldest").await;

    // As `cp` does it: the policy file is there before its plugin is.
    story.write("policy.yaml", scaling("mine.wasm", "newest"));
    story.refused("source", "Put `mine.wasm` into the folder").await;
    story.write("mine.wasm", ordered());
    story.serves("mine.wasm", "newest").await;

    // As editors do it: a new file takes the old one's place.
    story.write(".policy.yaml.swp", scaling("mine.wasm", "oldest"));
    std::fs::rename(story.folder.join(".policy.yaml.swp"), story.folder.join("policy.yaml")).unwrap();
    story.serves("mine.wasm", "oldest").await;

    story.write("mine.wasm", b"#!/bin/sh");
    story.refused("parse", "mine.wasm").await;
    assert_eq!(story.book.in_force().set.scaling.plugin(), "mine.wasm", "what was in force still is");

    std::fs::remove_file(story.folder.join("policy.yaml")).unwrap();
    story.refused("folder", "policy.yaml").await;
    story.write("policy.yaml", "");
    story.until("the built-in policies", |book| book.in_force().set.scaling.plugin() == "ordered").await;
}

/// A moment of a mounted ConfigMap: a folder of its own.
fn moment(story: &Story, number: u32, plugin: &str, order: &str) {
    story.write(&format!("..2026_{number}/policy.yaml"), scaling(plugin, order));
    story.write(&format!("..2026_{number}/mine.wasm"), ordered());
}

fn exchange(story: &Story, number: u32) {
    let at = |name: &str| story.folder.join(name);
    symlink(format!("..2026_{number}"), at("..data_tmp")).unwrap();
    std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
}

/// As the kubelet does it, time and again: a watch on a file, or on the link, would
/// see the first exchange alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_config_map_is_exchanged_again_and_again() {
    let story = Story::prepare();
    moment(&story, 0, "mine.wasm", "newest");
    exchange(&story, 0);
    for name in ["policy.yaml", "mine.wasm"] {
        symlink(Path::new("..data").join(name), story.folder.join(name)).unwrap();
    }
    story.watch();
    story.serves("mine.wasm", "newest").await;
    for (number, order) in (1..).zip(["oldest", "newest", "highestOrdinal", "oldest"]) {
        moment(&story, number, "mine.wasm", order);
        exchange(&story, number);
        std::fs::remove_dir_all(story.folder.join(format!("..2026_{}", number - 1))).unwrap();
        story.serves("mine.wasm", order).await;
    }
    assert_eq!(story.book.in_force().generation, 5, "each exchange was one swap: no moment was seen in pieces");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_comes_goes_and_comes_back_is_watched_all_the_while() {
    let story = Story::prepare();
    std::fs::remove_dir_all(&story.folder).unwrap();
    story.watch();
    story.refused("folder", "cannot be read").await;
    assert!(!story.book.in_force().withheld.is_empty(), "nobody is chosen to leave by a policy that nobody chose");
    story.write("policy.yaml", scaling("ordered", "oldest"));
    story.serves("ordered", "oldest").await;

    std::fs::remove_dir_all(&story.folder).unwrap();
    story.refused("folder", "cannot be read").await;
    assert_eq!(story.book.in_force().set.scaling.config()["order"], "oldest", "what was in force still is");
    story.write("policy.yaml", scaling("ordered", "newest"));
    story.serves("ordered", "newest").await;
    // Of the folder that is there now, not of the one that was.
    story.write("policy.yaml", scaling("ordered", "oldest"));
    story.serves("ordered", "oldest").await;
}

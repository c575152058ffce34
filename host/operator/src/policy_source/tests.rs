use std::sync::LazyLock;
use std::time::Duration;

use vmgroup_policy::Limits;

use super::*;
use crate::clock::Clock;

fn book() -> PolicyBook {
    /// One for all tests: it compiles each plugin once.
    static HOST: LazyLock<Host> = LazyLock::new(|| Host::new(Limits::default()).unwrap());
    let metrics = Metrics::new(Clock::starting_at(Duration::ZERO));
    PolicyBook::new(HOST.clone(), Offload::Inline, metrics).unwrap()
}

fn data(text: &str) -> ConfigMapData {
    ConfigMapData { policy_yaml: Some(text.to_owned()), resource_version: "7".to_owned(), ..ConfigMapData::default() }
}

const OLDEST: &str = "scaling: { plugin: ordered, config: { order: oldest } }";

#[tokio::test]
async fn without_a_config_map_the_defaults_serve() {
    let book = book();
    assert!(!*book.settled().borrow());
    let serving = book.offer(None).await.unwrap();
    assert!(*book.settled().borrow());
    assert_eq!(serving.generation, 0);
    assert_eq!(*book.changes().borrow(), 0, "nothing changed");
    let names = Kind::ALL.map(|kind| serving.set.get(kind).plugin().to_owned());
    assert_eq!(names, Kind::ALL.map(|kind| shipped::default_name(kind).to_owned()));
}

#[tokio::test]
async fn a_good_offer_is_swapped_in_whole_and_what_it_leaves_out_is_built_in() {
    let book = book();
    let serving = book
        .offer(Some(data("scaling: { plugin: ordered, config: { order: oldest }, onFailure: builtin }")))
        .await
        .unwrap();
    assert!(Arc::ptr_eq(&serving, &book.in_force()));
    assert_eq!(serving.generation, 1);
    assert_eq!(serving.set.scaling.config()["order"], "oldest");
    assert_eq!(serving.on_failure(Kind::Scaling), OnFailure::Builtin);
    assert!(Arc::ptr_eq(&serving.set.naming, &serving.builtin.naming));
    assert_eq!(serving.on_failure(Kind::Naming), OnFailure::Hold);
    assert_eq!(*book.changes().borrow(), 1);
}

#[tokio::test]
async fn the_same_content_again_changes_nothing() {
    let book = book();
    let first = book.offer(Some(data(OLDEST))).await.unwrap();
    let again = ConfigMapData { resource_version: "8".to_owned(), ..data(OLDEST) };
    assert!(Arc::ptr_eq(&first, &book.offer(Some(again)).await.unwrap()));
    // Other text, the same meaning: nothing to swap either.
    assert!(Arc::ptr_eq(&first, &book.offer(Some(data(&format!("# a comment\n{OLDEST}\n")))).await.unwrap()));
    assert_eq!(*book.changes().borrow(), 1);
}

#[tokio::test]
async fn a_refused_offer_leaves_what_is_in_force_and_is_healed_by_a_good_one() {
    let book = book();
    let good = book.offer(Some(data(OLDEST))).await.unwrap();
    let bad = Some(data("scaling: { plugin: ordered, config: { ordre: oldest } }"));
    let refusal = book.offer(bad.clone()).await.unwrap_err();
    assert_eq!(
        (refusal.stage.as_str(), refusal.plugin.as_str(), refusal.resource_version.as_str()),
        ("config", "ordered", "7")
    );
    assert!(refusal.message.contains("ordre"), "{refusal}");
    assert!(!refusal.remedy.is_empty());
    assert!(Arc::ptr_eq(&good, &book.in_force()));
    assert_eq!(book.refusal(), Some(refusal.clone()));
    assert_eq!(*book.changes().borrow(), 2);

    assert_eq!(book.offer(bad).await.unwrap_err(), refusal, "the same again is refused alike");
    assert_eq!(*book.changes().borrow(), 2, "and is no news");

    assert!(Arc::ptr_eq(&good, &book.offer(Some(data(OLDEST))).await.unwrap()));
    assert_eq!(book.refusal(), None);
    assert_eq!(*book.changes().borrow(), 3);
}

#[tokio::test]
async fn one_bad_policy_keeps_the_others_out_too() {
    let book = book();
    let refusal =
        book.offer(Some(data(&format!("{OLDEST}\nplacement: {{ plugin: nowhere.wasm }}")))).await.unwrap_err();
    assert_eq!(refusal.stage, "source");
    assert_eq!(book.in_force().generation, 0);
    for word in ["nowhere.wasm", "placement", "pool-default"] {
        assert!(refusal.message.contains(word), "{refusal}");
    }
    assert!(!refusal.message.contains("ordered"), "of another kind: {refusal}");
}

#[tokio::test]
async fn a_config_map_without_a_policy_file_says_what_to_add() {
    let refusal = book().offer(Some(ConfigMapData::default())).await.unwrap_err();
    assert_eq!(refusal.stage, "config-map");
    assert!(
        refusal.message.contains("policy.yaml") && refusal.remedy.contains("Add a key `policy.yaml`"),
        "{refusal:?}"
    );
}

#[tokio::test]
async fn a_misspelt_key_of_the_file_is_named() {
    let refusal = book().offer(Some(data("scalling: { plugin: ordered }"))).await.unwrap_err();
    assert_eq!(refusal.stage, "policy-file");
    assert!(refusal.message.contains("scalling"), "{refusal}");
}

#[tokio::test]
async fn plugins_come_out_of_the_config_map_by_their_key() {
    let book = book();
    let mut offered = data("scaling: { plugin: mine.wasm }");
    offered.binaries.insert("mine.wasm".to_owned(), Bytes::from_static(b"#!/bin/sh"));
    let refusal = book.offer(Some(offered.clone())).await.unwrap_err();
    assert_eq!((refusal.stage.as_str(), refusal.plugin.as_str()), ("parse", "mine.wasm"));

    offered.binaries.insert("mine.wasm".to_owned(), shipped::find("ordered").unwrap().bytes);
    let serving = book.offer(Some(offered)).await.unwrap();
    assert_eq!(serving.set.scaling.plugin(), "mine.wasm");
    assert_eq!(serving.set.scaling.digest(), serving.builtin.scaling.digest());

    let back = book.offer(None).await.unwrap();
    assert_eq!(back.set.scaling.plugin(), "ordered", "deleted: the built-in serves again");
    assert_eq!(back.generation, 2);
}

#[tokio::test]
async fn an_offer_that_was_overtaken_does_not_win() {
    let book = book();
    let builtin = book.in_force().builtin.clone();
    let read = |text: &str| Proposal::read(&book.0.host, &builtin, &data(text));
    let (older, newer) = (read("scaling: { plugin: ordered, config: { order: newest } }"), read(OLDEST));
    book.conclude(2, Fingerprint(Some([2; 32])), newer);
    book.conclude(1, Fingerprint(Some([1; 32])), older);
    assert_eq!(book.in_force().set.scaling.config()["order"], "oldest");
    assert_eq!(*book.changes().borrow(), 1);
}

#[tokio::test]
async fn a_swap_says_what_differs() {
    let book = book();
    let Considered::Swapped { differences, .. } = book.consider(Some(data(OLDEST))).await else { panic!("swapped") };
    assert_eq!(differences.len(), 1);
    assert!(
        differences[0].starts_with("scaling: ordered ") && differences[0].ends_with("with a new configuration"),
        "{differences:?}"
    );
}

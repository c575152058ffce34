use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use vmgroup_api::OnFailure;
use vmgroup_policy::Limits;

use super::*;
use crate::clock::Clock;

fn book() -> PolicyBook {
    /// One for all tests: it compiles each plugin once.
    static HOST: LazyLock<Host> = LazyLock::new(|| Host::new(Limits::default()).unwrap());
    let metrics = Metrics::new(Clock::starting_at(Duration::ZERO));
    PolicyBook::new(HOST.clone(), Offload::Inline, metrics).unwrap()
}

fn data(text: &str) -> PolicyFiles {
    PolicyFiles { policy_yaml: Some(text.to_owned()), resource_version: "7".to_owned(), ..PolicyFiles::default() }
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
    let again = PolicyFiles { resource_version: "8".to_owned(), ..data(OLDEST) };
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
    let refusal = book().offer(Some(PolicyFiles::default())).await.unwrap_err();
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
    let contents =
        ["scaling: { plugin: ordered, config: { order: newest } }", OLDEST].map(|text| Content::of(Some(data(text))));
    let [older, newer] =
        contents.each_ref().map(|content| Edition::read(&book.0.checker, &builtin, content, Reader::Administrator));
    book.conclude(2, &contents[1], newer, Vec::new());
    book.conclude(1, &contents[0], older, Vec::new());
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

fn traps(plugin_for: &str) -> DecisionError {
    DecisionError::Trap { trap: "unreachable".to_owned(), said: Some(format!("for {plugin_for}")) }
}

const POWERED_OFF: &str = "scaling: { plugin: ordered, config: { order: poweredOffFirst } }";

fn order(book: &PolicyBook) -> String {
    book.in_force().set.scaling.config()["order"].as_str().unwrap_or("built-in").to_owned()
}

fn fail(book: &PolicyBook, kind: Kind, times: usize) {
    let serving = book.in_force();
    for _ in 0..times {
        book.failed(&serving, kind, &traps("the test"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_at_work_is_rolled_back_and_an_edit_is_a_new_try() {
    let book = book();
    book.offer(Some(data(OLDEST))).await.unwrap();
    let bad = Some(PolicyFiles { resource_version: "8".to_owned(), ..data(POWERED_OFF) });
    let tried = book.offer(bad.clone()).await.unwrap();
    assert_eq!(tried.previous[&Kind::Scaling].config()["order"], "oldest");

    fail(&book, Kind::Scaling, 2);
    tokio::time::advance(Duration::from_mins(11)).await;
    fail(&book, Kind::Scaling, 2);
    assert_eq!(order(&book), "poweredOffFirst", "three, but not within ten minutes");
    fail(&book, Kind::Scaling, 1);
    assert_eq!(order(&book), "oldest");
    assert!(book.in_force().generation > tried.generation, "groups that are held back try again");
    let refusal = book.refusal().unwrap();
    assert!(refusal.rolled_back());
    let told = refusal.told(&book.in_force(), 1_000);
    for word in ["ordered", "rolled back", "3 times", "unreachable", "edit the ConfigMap", "resourceVersion 8"] {
        assert!(told.contains(word), "{word}: {told}");
    }

    fail(&book, Kind::Scaling, 0);
    book.failed(&tried, Kind::Scaling, &traps("a pass that began before"));
    assert_eq!(order(&book), "oldest", "what is out of force cannot fail any more");

    assert!(book.offer(bad.clone()).await.is_err(), "the same is not tried again");
    assert!(book.offer(Some(data("naming: {"))).await.is_err());
    let refusal = book.offer(bad).await.unwrap_err();
    assert!(refusal.rolled_back(), "not even after something else was refused: {refusal}");
    book.offer(Some(data(&format!("# corrected\n{POWERED_OFF}")))).await.unwrap();
    assert_eq!((order(&book).as_str(), book.refusal()), ("poweredOffFirst", None));
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_not_what_is_gone_back_to() {
    let book = book();
    book.offer(Some(data(OLDEST))).await.unwrap();
    book.offer(Some(data(POWERED_OFF))).await.unwrap();
    fail(&book, Kind::Scaling, 2);
    book.offer(Some(data("scaling: { plugin: ordered, config: { order: highestOrdinal } }"))).await.unwrap();
    fail(&book, Kind::Scaling, 3);
    assert_eq!(order(&book), "oldest", "the one in between was failing when it was replaced");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_rolled_back_that_would_fail_as_well() {
    let book = book();
    book.offer(Some(data(OLDEST))).await.unwrap();
    book.offer(Some(data(&format!("{OLDEST}\nnaming: {{ plugin: ordinal }}")))).await.unwrap();
    fail(&book, Kind::Scaling, 10);
    assert_eq!(book.in_force().set.naming.plugin(), "ordinal", "the edit did not touch what fails now");
    assert_eq!(book.refusal(), None);
    fail(&book, Kind::Naming, 1);
    assert_eq!(book.in_force().set.naming.plugin(), "random-suffix");
}

#[tokio::test(start_paused = true)]
async fn the_breaker_is_set_in_the_policy_file() {
    let book = book();
    book.offer(Some(data(OLDEST))).await.unwrap();
    book.offer(Some(data(&format!("{POWERED_OFF}\nbreaker: {{ failures: 0 }}")))).await.unwrap();
    fail(&book, Kind::Scaling, 100);
    assert_eq!(order(&book), "poweredOffFirst");
    // Only the breaker differs: no swap, and yet it counts.
    book.offer(Some(data(&format!("{POWERED_OFF}\nbreaker: {{ failures: 1 }}")))).await.unwrap();
    fail(&book, Kind::Scaling, 1);
    assert_eq!(order(&book), "oldest");
}

#[tokio::test]
async fn scaling_waits_where_nothing_good_is_known() {
    let book = book();
    book.offer(Some(data("scaling: { plugin: absent.wasm }"))).await.unwrap_err();
    assert!(book.in_force().withheld.contains_key(&Kind::Scaling));
    book.offer(Some(data("scaling: { plugin: ordered }"))).await.unwrap();
    assert!(book.in_force().withheld.is_empty(), "the same as the built-in one, and yet chosen");

    let lenient = self::book();
    lenient.offer(Some(data("scaling: { plugin: absent.wasm, onFailure: builtin }"))).await.unwrap_err();
    assert!(lenient.in_force().withheld.is_empty());
}

#[tokio::test]
async fn what_was_pulled_is_kept_and_needs_no_registry() {
    let reference = format!("oci://registry.example.com/mine@sha256:{}", "0".repeat(64));
    let offered = data(&format!("scaling: {{ plugin: \"{reference}\" }}"));
    let refusal = book().offer(Some(offered.clone())).await.unwrap_err();
    assert_eq!((refusal.stage.as_str(), refusal.plugin.as_str()), ("pull", reference.as_str()));

    let first = book();
    let mut pulled = offered.clone();
    pulled.binaries.insert(reference.clone(), shipped::find("ordered").unwrap().bytes);
    first.offer(Some(pulled)).await.unwrap();
    let kept = kept::Stored::form(&first.keepsake().unwrap()).unwrap().read().unwrap();
    let second = restarted(Some(kept), Some(offered.clone())).await;
    assert_eq!((second.in_force().set.scaling.plugin(), second.refusal()), (reference.as_str(), None));
    // The same in another edit, in which it is one of several.
    second
        .offer(Some(data(&format!("scaling: {{ plugin: \"{reference}\" }}\nnaming: {{ plugin: ordinal }}"))))
        .await
        .unwrap();
}

/// A process after another: what it is told of the first, and what it is offered.
async fn restarted(kept: Option<Kept>, offered: Option<PolicyFiles>) -> PolicyBook {
    let book = book();
    book.recall(kept.unwrap_or_default());
    let _ = book.offer(offered).await;
    book
}

#[tokio::test(start_paused = true)]
async fn the_last_known_good_outlives_the_process() {
    let first = book();
    assert!(first.keepsake().is_none(), "nothing was looked at yet");
    first.offer(Some(data(OLDEST))).await.unwrap();
    first.offer(Some(data(POWERED_OFF))).await.unwrap();

    let broken = Some(data("scaling: { plugin: absent.wasm }"));
    let second = restarted(first.keepsake(), broken.clone()).await;
    assert_eq!(order(&second), "poweredOffFirst");
    assert_eq!(second.refusal().unwrap().stage, "source");
    assert!(second.in_force().withheld.is_empty());

    let third = restarted(second.keepsake(), broken).await;
    assert_eq!(order(&third), "poweredOffFirst", "and the next one too");
    fail(&third, Kind::Scaling, 3);
    assert_eq!(order(&third), "oldest", "what was before it is known as well");

    let fourth = restarted(third.keepsake(), Some(data(POWERED_OFF))).await;
    assert_eq!(order(&fourth), "oldest", "what was rolled back is not tried again");
    assert!(fourth.refusal().unwrap().rolled_back());
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_there_is_something_to_go_back_to() {
    let first = book();
    first.offer(Some(data(OLDEST))).await.unwrap();
    // Edited while nobody was there.
    let second = restarted(first.keepsake(), Some(data(POWERED_OFF))).await;
    assert_eq!(order(&second), "poweredOffFirst");
    fail(&second, Kind::Scaling, 3);
    assert_eq!(order(&second), "oldest");

    // Deleted, and what is built in is what was chosen then.
    let third = restarted(first.keepsake(), None).await;
    assert_eq!(order(&third), "built-in");
    assert_eq!(third.in_force().previous[&Kind::Scaling].config()["order"], "oldest");
}

#[tokio::test(start_paused = true)]
async fn who_begins_to_lead_learns_what_failed() {
    let (leader, standby) = (book(), book());
    for offered in [OLDEST, POWERED_OFF] {
        leader.offer(Some(data(offered))).await.unwrap();
        standby.offer(Some(data(offered))).await.unwrap();
    }
    fail(&leader, Kind::Scaling, 3);
    assert_eq!(order(&standby), "poweredOffFirst");
    standby.learn(&leader.keepsake().unwrap()).await;
    assert_eq!(order(&standby), "oldest");
    assert!(standby.refusal().unwrap().rolled_back());
}

const CANARY: &str = "groups: [{ name: canary, select: { matchLabels: { tier: web } }, scaling: { plugin: ordered, config: { order: poweredOffFirst }, onFailure: previous } }]";

#[tokio::test(start_paused = true)]
async fn some_groups_are_served_by_others_and_what_fails_there_is_rolled_back_too() {
    let book = book();
    book.offer(Some(data(OLDEST))).await.unwrap();
    let text = format!("{OLDEST}\n{CANARY}");
    let Considered::Swapped { differences, .. } = book.consider(Some(data(&text))).await else { panic!("swapped") };
    assert_eq!(differences, ["groups: canary is new, 100 %"]);
    let web = BTreeMap::from([("tier".to_owned(), "web".to_owned())]);
    let served = |labels| book.serving(Who { namespace: "shop", uid: "u", labels });
    let unlabelled = BTreeMap::new();
    let (canary, other) = (served(&web), served(&unlabelled));
    assert_eq!(canary.set.scaling.config()["order"], "poweredOffFirst");
    assert_eq!(canary.chosen_by[&Kind::Scaling].rule.as_deref(), Some("canary"));
    assert_eq!(canary.instead(Kind::Scaling).unwrap().config()["order"], "oldest", "what serves the others");
    assert!(Arc::ptr_eq(&canary.set.naming, &other.set.naming));
    assert_eq!((other.set.scaling.config()["order"].as_str(), other.chosen_by.len()), (Some("oldest"), 0));

    for _ in 0..3 {
        book.failed(&canary, Kind::Scaling, &traps("the canary"));
    }
    assert_eq!(served(&web).set.scaling.config()["order"], "oldest");
    assert!(book.refusal().unwrap().rolled_back());
}

#[tokio::test]
async fn a_mistake_in_a_rule_has_its_line() {
    let text = "groups:\n  - name: canary\n    scaling:\n      plugin: ordered\n      config: { ordre: oldest }\n";
    let refusal = book().offer(Some(data(text))).await.unwrap_err();
    assert!(
        refusal.message.contains("(line 5)") && refusal.remedy.contains("groups[0].scaling"),
        "{refusal} {}",
        refusal.remedy
    );
}

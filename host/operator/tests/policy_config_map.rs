//! The policy ConfigMap on the simulated Kubernetes API: edits become swaps and
//! refusals, and events on the ConfigMap tell of both. Time is paused.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::sync::LazyLock;
use std::time::Duration;

use axum::body::Body;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use vmgroup_operator::clock::Clock;
use vmgroup_operator::events::Events;
use vmgroup_operator::lease::Fence;
use vmgroup_operator::metrics::Metrics;
use vmgroup_operator::offload::Offload;
use vmgroup_operator::policy_source::{PolicyBook, watch_config_map};
use vmgroup_policy::{Host, Limits};
use vmgroup_sim::faults::{Fault, Rule};
use vmgroup_sim::kube::KubeSim;

struct Story {
    cluster: KubeSim,
    book: PolicyBook,
    metrics: Metrics,
}

impl Story {
    fn prepare() -> Self {
        static HOST: LazyLock<Host> = LazyLock::new(|| Host::new(Limits::default()).unwrap());
        let epoch = Duration::from_secs(1_700_000_000);
        let metrics = Metrics::new(Clock::starting_at(epoch));
        Self {
            cluster: KubeSim::new(vmgroup_sim::clock::Clock::starting_at(epoch), 7),
            book: PolicyBook::new(HOST.clone(), Offload::Inline, metrics.clone()).unwrap(),
            metrics,
        }
    }

    fn watch(&self) -> CancellationToken {
        let client = kube::Client::new(
            self.cluster.service().map_request(|r: http::Request<kube::client::Body>| r.map(Body::new)),
            "default",
        );
        let events = Events::new(
            client.clone(),
            Clock::starting_at(Duration::from_secs(1_700_000_000)),
            "pod-0",
            1,
            Fence::always(),
        );
        let shutdown = CancellationToken::new();
        tokio::spawn(watch_config_map(
            client,
            "default".to_owned(),
            "vmgroup-policy".to_owned(),
            self.book.clone(),
            events,
            shutdown.clone(),
        ));
        shutdown
    }

    fn edit(&self, data: &Value) {
        self.cluster
            .apply(json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": { "name": "vmgroup-policy", "namespace": "default" },
                "data": data,
            }))
            .unwrap();
    }

    /// Waits, at most two minutes, until that many changes have been made.
    async fn changes(&self, count: u64) {
        let mut changes = self.book.changes();
        let reached = tokio::time::timeout(Duration::from_mins(2), changes.wait_for(|now| *now >= count)).await;
        assert_eq!(*reached.expect("in time").unwrap(), count);
        // The event is written after the swap.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    /// `reason: note` of each event, oldest first.
    fn events(&self) -> Vec<Value> {
        let mut events = self.cluster.list("events.events.k8s.io", Some("default"));
        events.sort_by_key(|event| event["eventTime"].as_str().unwrap_or_default().to_owned());
        events
    }

    fn order(&self) -> String {
        self.book.in_force().set.scaling.config()["order"].as_str().unwrap_or("default").to_owned()
    }
}

fn scaling(order: &str) -> Value {
    json!({ "policy.yaml": format!("scaling: {{ plugin: ordered, config: {{ order: {order} }} }}\n") })
}

#[tokio::test(start_paused = true)]
async fn edits_are_swapped_in_refused_healed_and_undone() {
    let story = Story::prepare();
    let shutdown = story.watch();
    let mut settled = story.book.settled();
    tokio::time::timeout(Duration::from_secs(10), settled.wait_for(|it| *it)).await.unwrap().unwrap();
    assert_eq!(story.book.in_force().generation, 0, "no ConfigMap: the built-in policies");

    story.edit(&scaling("oldest"));
    story.changes(1).await;
    assert_eq!(story.order(), "oldest");

    story.edit(&scaling("oldset"));
    story.changes(2).await;
    assert_eq!(story.order(), "oldest", "what was in force stays in force");
    assert!(story.book.refusal().is_some());

    story.edit(&scaling("poweredOffFirst"));
    story.changes(3).await;
    assert_eq!(story.order(), "poweredOffFirst");
    assert!(story.book.refusal().is_none());

    story.cluster.delete("configmaps", Some("default"), "vmgroup-policy").unwrap();
    story.changes(4).await;
    assert_eq!(story.order(), "default");

    let events = story.events();
    let reasons: Vec<&str> = events.iter().map(|event| event["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["PolicySwapped", "PolicyRefused", "PolicySwapped", "PolicySwapped"]);
    let note = |at: usize| events[at]["note"].as_str().unwrap();
    for word in ["scaling: ordered ", "with a new configuration", "naming random-suffix ", "sha256:"] {
        assert!(note(0).contains(word), "{word}: {}", note(0));
    }
    for word in ["ordered", "stage config", "oldset", "Remedy: "] {
        assert!(note(1).contains(word), "{word}: {}", note(1));
    }
    assert!(note(3).contains("the ConfigMap is gone"), "{}", note(3));
    assert!(events.iter().all(|event| event["note"].as_str().unwrap().len() <= 1_000));
    assert_eq!(events[1]["type"], "Warning");
    assert_eq!(events[1]["regarding"]["kind"], "ConfigMap");
    assert!(events[1]["regarding"]["uid"].is_string());
    let text = story.metrics.encode();
    assert!(text.contains(r#"vmgroup_policy_swaps_total{outcome="swapped"} 3"#), "{text}");
    assert!(text.contains(r#"vmgroup_policy_swaps_total{outcome="config"} 1"#), "{text}");
    shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn going_back_and_forth_tells_of_each_swap() {
    let story = Story::prepare();
    let shutdown = story.watch();
    for (change, order) in (1..).zip(["oldest", "newest", "oldest", "newest"]) {
        story.edit(&scaling(order));
        story.changes(change).await;
    }
    assert_eq!(story.events().len(), 4);
    shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn what_does_not_concern_the_content_changes_nothing() {
    let story = Story::prepare();
    story.edit(&scaling("oldest"));
    let shutdown = story.watch();
    story.changes(1).await;
    let writes = story.cluster.writes();
    let mut map = story.cluster.get("configmaps", Some("default"), "vmgroup-policy").unwrap();
    map["metadata"]["labels"] = json!({ "team": "a" });
    story.cluster.apply(map).unwrap();
    story
        .cluster
        .apply(
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "other", "namespace": "default" } }),
        )
        .unwrap();
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(*story.book.changes().borrow(), 1);
    assert_eq!(story.cluster.writes(), writes, "no event either");
    shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn l5_l11_an_edit_is_seen_however_the_watch_breaks() {
    let story = Story::prepare();
    story.edit(&scaling("newest"));
    let shutdown = story.watch();
    story.changes(1).await;

    story.cluster.drop_watches();
    story.edit(&scaling("oldest"));
    story.changes(2).await;
    assert_eq!(story.order(), "oldest");

    story.cluster.faults().set_down(true);
    story.cluster.drop_watches();
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(story.order(), "oldest", "an outage changes nothing");
    story.edit(&scaling("highestOrdinal"));
    story.cluster.expire_history();
    story.cluster.faults().clear();
    story.changes(3).await;
    assert_eq!(story.order(), "highestOrdinal");

    // Deleted while nobody could see it.
    story.cluster.faults().set_down(true);
    story.cluster.drop_watches();
    story.cluster.delete("configmaps", Some("default"), "vmgroup-policy").unwrap();
    story.cluster.expire_history();
    tokio::time::sleep(Duration::from_mins(1)).await;
    story.cluster.faults().clear();
    story.changes(4).await;
    assert_eq!(story.order(), "default");
    shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_written_stops_nothing() {
    let story = Story::prepare();
    story.cluster.faults().add(Rule::every("CREATE events", Fault::Delay(Duration::from_hours(1))));
    let shutdown = story.watch();
    story.edit(&scaling("oldest"));
    story.changes(1).await;
    story.edit(&scaling("newest"));
    story.changes(2).await;
    assert_eq!(story.order(), "newest");
    shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_binary_in_the_config_map_is_a_plugin() {
    let story = Story::prepare();
    let client = kube::Client::new(
        story.cluster.service().map_request(|r: http::Request<kube::client::Body>| r.map(Body::new)),
        "default",
    );
    let shutdown = story.watch();
    let bytes = vmgroup_policy::shipped::find("ordered").unwrap().bytes;
    let map = k8s_openapi::api::core::v1::ConfigMap {
        metadata: kube::api::ObjectMeta { name: Some("vmgroup-policy".to_owned()), ..Default::default() },
        data: Some([("policy.yaml".to_owned(), "scaling: { plugin: mine.wasm }".to_owned())].into()),
        binary_data: Some([("mine.wasm".to_owned(), k8s_openapi::ByteString(bytes.to_vec()))].into()),
        ..Default::default()
    };
    kube::Api::namespaced(client, "default").create(&kube::api::PostParams::default(), &map).await.unwrap();
    story.changes(1).await;
    assert_eq!(story.book.in_force().set.scaling.plugin(), "mine.wasm");
    shutdown.cancel();
}

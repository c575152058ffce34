//! A policy on trial on live traffic: asked what the one in force is asked, and
//! never obeyed.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::collections::BTreeSet;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Options, User, World, eventually};
use vmgroup_operator::shadow::Trial;

const SOON: Duration = Duration::from_secs(120);

async fn report(world: &SimWorld) -> Vec<Trial> {
    let (status, body) = world.ask(0, Request::get("/shadow").body(Body::empty()).unwrap()).await;
    assert!(status.is_success(), "{status}");
    serde_json::from_slice(&body).unwrap()
}

async fn names(world: &SimWorld) -> BTreeSet<String> {
    world.vms().await.unwrap().into_iter().map(|vm| vm.name).collect()
}

/// Four of seven leave, as the policy in force says; the one on trial would have
/// had others leave, and says so in its report alone. Then it is put into force.
#[tokio::test(start_paused = true)]
async fn a_policy_on_trial_is_asked_and_not_obeyed() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    let user = User::of(&world);
    let naming =
        "naming: { plugin: ordinal, config: { pattern: \"{group}-{ordinal}\" }, shadow: { plugin: random-suffix } }\n";
    let trial = "scaling: { plugin: ordered, config: { order: oldest }, shadow: { plugin: ordered, config: { order: newest } } }\n";
    user.policy(Some(&format!("{naming}{trial}")), &[]).await;
    world.start_operator().await.unwrap();
    user.group("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    // Who came later is younger.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let oldest = names(&world).await;
    user.scale("shop", "web", 7).await;
    user.ready("shop", "web", 7, SOON).await;
    let all = names(&world).await;
    assert!(all.iter().all(|name| !name.contains("replica")), "named by the one in force: {all:?}");
    user.scale("shop", "web", 4).await;
    user.ready("shop", "web", 4, SOON).await;
    let left = names(&world).await;
    assert!(left.is_disjoint(&oldest), "the oldest left, as the one in force said: {left:?}");

    let trials = eventually("the trial has come so far", SOON, async || {
        let trials = report(&world).await;
        if trials.len() == 2 && trials.iter().all(|trial| trial.asked > 0) {
            Ok(trials)
        } else {
            Err(format!("{trials:?}"))
        }
    })
    .await;
    let (naming, scaling) = (&trials[0], &trials[1]);
    assert_eq!((naming.plugin.as_str(), naming.agreed), ("random-suffix", 0));
    assert_eq!((scaling.asked, scaling.agreed, scaling.recent.len()), (1, 0, 1), "{scaling:?}");
    assert_eq!(scaling.recent[0].group, "shop/web");
    let events = user.events("vmgroup-system", "vmgroup-policy").await;
    assert!(
        events.iter().any(|event| event.contains("scaling: ordered 0.1.0") && event.contains("on trial")),
        "{events:?}"
    );

    user.policy(Some("scaling: { plugin: ordered, config: { order: newest } }\n"), &[]).await;
    eventually("the trials are over", SOON, async || {
        let trials = report(&world).await;
        if trials.iter().all(|trial| trial.over) { Ok(()) } else { Err(format!("{trials:?}")) }
    })
    .await;
    let youngest = left.iter().next_back().unwrap().clone();
    user.scale("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    assert!(!names(&world).await.contains(&youngest), "as it said on trial: {youngest}");
}

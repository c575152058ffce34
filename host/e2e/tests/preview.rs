//! `vmgroup preview` beside a running operator: what it says is what happens, and
//! saying it changes nothing.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};
use vmgroup_e2e::sim::{SimWorld, everything};
use vmgroup_e2e::world::{Deed, Options, TEMPLATE, User, World, eventually};
use vmgroup_operator::preview::{How, Preview, Wanted};
use vmgroup_policy::shipped;

const SOON: Duration = Duration::from_secs(120);

const POLICY: &str = "\
naming: { plugin: ordinal, config: { pattern: \"{group}-{ordinal}\" } }
placement: { plugin: spread, config: { by: host } }
scaling: { plugin: ordered, config: { order: newest } }
";

fn wanted(replicas: usize) -> Wanted {
    Wanted { group: "shop/web".to_owned(), replicas: Some(replicas), ..Wanted::default() }
}

async fn ask(world: &SimWorld, wanted: &Wanted, body: impl Into<Body>) -> Result<Preview, (StatusCode, String)> {
    let uri = format!("/preview?{}", serde_urlencoded::to_string(wanted).unwrap());
    let (status, answer) = world.ask(0, Request::post(uri).body(body.into()).unwrap()).await;
    if status.is_success() {
        return Ok(serde_json::from_slice(&answer).unwrap());
    }
    Err((status, String::from_utf8(answer.to_vec()).unwrap()))
}

async fn begun(replicas: usize, policy: &str) -> (SimWorld, User) {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    let user = User::of(&world);
    user.policy(Some(policy), &[]).await;
    world.start_operator().await.unwrap();
    user.group("shop", "web", replicas).await;
    user.ready("shop", "web", i32::try_from(replicas).unwrap(), SOON).await;
    (world, user)
}

/// Hosts by the machines' names.
async fn hosts(world: &SimWorld) -> BTreeMap<String, String> {
    world.vms().await.unwrap().into_iter().map(|vm| (vm.name, vm.host)).collect()
}

/// Who comes, where, and who goes, is as it was said before.
#[tokio::test(start_paused = true)]
async fn what_is_said_is_what_happens() {
    let (world, user) = begun(2, POLICY).await;
    let before = hosts(&world).await;

    let out = ask(&world, &wanted(12), "").await.unwrap();
    assert_eq!((out.members, out.wished_now, out.coming.len(), out.going.len()), (2, 2, 10, 0), "{out:?}");
    assert!(out.stopped.is_none() && out.under_way.is_empty(), "{out:?}");
    assert!(out.coming.iter().all(|one| !one.named.is_empty() && !one.placed.is_empty()), "{out:?}");
    assert_eq!(hosts(&world).await, before, "nobody was made");

    user.scale("shop", "web", 12).await;
    user.ready("shop", "web", 12, SOON).await;
    let after = hosts(&world).await;
    let came: BTreeMap<&str, &str> =
        out.coming.iter().map(|one| (one.name.as_str(), one.place.split('/').nth(1).unwrap())).collect();
    let new: BTreeMap<&str, &str> = after
        .iter()
        .filter(|(name, _)| !before.contains_key(*name))
        .map(|(name, host)| (name.as_str(), host.as_str()))
        .collect();
    assert_eq!(came, new);

    let back = ask(&world, &wanted(9), "").await.unwrap();
    assert_eq!((back.coming.len(), back.going.len()), (0, 3), "{back:?}");
    // Who is next is the first of them.
    let next = Wanted { group: "shop/web".to_owned(), one_fewer: true, ..Wanted::default() };
    let next = ask(&world, &next, "").await.unwrap();
    assert_eq!((next.replicas, &next.going[..]), (11, &back.going[..1]), "{next:?}");
    assert!(next.there.contains(&next.going[0].name) && next.there.len() == 12, "{next:?}");
    user.scale("shop", "web", 9).await;
    user.ready("shop", "web", 9, SOON).await;
    let left = hosts(&world).await;
    for (name, _) in after {
        assert_eq!(left.contains_key(&name), back.going.iter().all(|gone| gone.name != name), "{name}: {back:?}");
    }
}

/// Neither Kubernetes nor vCenter sees anything of it, however often it is asked.
#[tokio::test(start_paused = true)]
async fn saying_it_changes_nothing() {
    let (world, _user) = begun(3, POLICY).await;
    let (before, machines) = (everything(&world.kube), hosts(&world).await);
    let writes = |calls: BTreeMap<String, u64>| -> BTreeMap<String, u64> {
        let write = |method: &str| method.ends_with("_Task") || method.starts_with("Create");
        calls.into_iter().filter(|(method, _)| write(method) && method != "CreateContainerView").collect()
    };
    let calls = writes(world.calls().await.unwrap());
    let decided = |world: &SimWorld| {
        let text = world.metrics(0).encode();
        text.lines().filter(|line| line.starts_with("vmgroup_policy_decisions_total")).collect::<Vec<_>>().join("\n")
    };
    let decisions = decided(&world);
    for replicas in [0, 1, 3, 7, 100] {
        ask(&world, &wanted(replicas), "").await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(everything(&world.kube), before);
    assert_eq!(hosts(&world).await, machines);
    assert_eq!(writes(world.calls().await.unwrap()), calls);
    assert_eq!(decided(&world), decisions);
}

/// A policy that is not in force is asked instead of the one that is, and is still
/// not in force afterwards.
#[tokio::test(start_paused = true)]
async fn another_policy_is_tried() {
    let (world, user) = begun(3, POLICY).await;
    let newest = ask(&world, &wanted(1), "").await.unwrap();
    let candidate =
        |config: &str| Wanted { plugin: Some("mine.wasm".to_owned()), config: Some(config.to_owned()), ..wanted(1) };
    let bytes = shipped::find("ordered").unwrap().bytes;
    let oldest = ask(&world, &candidate(r#"{"order":"oldest"}"#), bytes.clone()).await.unwrap();
    let names = |preview: &Preview| preview.going.iter().map(|gone| gone.name.clone()).collect::<Vec<_>>();
    assert_ne!(names(&oldest), names(&newest));
    let asked: Vec<(&str, bool)> =
        oldest.asked.iter().map(|counsel| (counsel.policy.plugin.as_str(), counsel.tried)).collect();
    assert_eq!(asked, [("mine.wasm", true)]);
    let group = user.groups("shop").get("web").await.unwrap();
    assert_eq!(group.status.unwrap().policies.unwrap().scaling.plugin, "ordered");

    let (status, text) = ask(&world, &candidate(r#"{"order":"sideways"}"#), bytes.clone()).await.unwrap_err();
    assert!(status == StatusCode::UNPROCESSABLE_ENTITY && text.contains("sideways"), "{status} {text}");
    let (status, text) = ask(&world, &candidate("{}"), bytes.slice(..1000)).await.unwrap_err();
    assert!(status == StatusCode::UNPROCESSABLE_ENTITY && text.contains("stage parse"), "{status} {text}");
}

/// While nobody may be chosen, the preview chooses nobody; but a policy to come may be tried.
#[tokio::test(start_paused = true)]
async fn on_hold_it_says_so() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    let user = User::of(&world);
    user.policy(Some("naming: { plugin: absent.wasm }\n"), &[]).await;
    world.start_operator().await.unwrap();
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    let held = ask(&world, &wanted(1), "").await.unwrap();
    assert!(held.going.is_empty() && held.stopped.unwrap().message.contains("on hold"));
    let tried = ask(&world, &wanted(1), shipped::find("ordered").unwrap().bytes).await.unwrap();
    assert_eq!((tried.going.len(), tried.stopped), (1, None));
}

/// More than leave at a time: all of them are named.
#[tokio::test(start_paused = true)]
async fn a_large_group_is_told_to_its_end() {
    let (world, _user) = begun(70, POLICY).await;
    let preview = ask(&world, &wanted(0), "").await.unwrap();
    assert_eq!((preview.members, preview.going.len()), (70, 70));
    let (status, _) = ask(&world, &wanted(1001), "").await.unwrap_err();
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

/// What is in the way is said, and so is what is under way already.
#[tokio::test(start_paused = true)]
async fn what_is_in_the_way_is_said() {
    let (world, user) = begun(2, POLICY).await;
    let (status, text) = ask(&world, &Wanted { group: "shop/no".to_owned(), ..wanted(1) }, "").await.unwrap_err();
    assert!(status == StatusCode::NOT_FOUND && text.contains("shop/no"), "{status} {text}");

    user.group_of("shop", "stuck", 1, "no-such-template").await;
    user.told("shop", "stuck", "Stalled", "no-such-template", SOON).await;
    let stuck = ask(&world, &Wanted { group: "shop/stuck".to_owned(), ..wanted(2) }, "").await.unwrap();
    assert!(stuck.stopped.unwrap().message.contains("no-such-template"));
    assert_eq!(stuck.troubles[0].reason, "TemplateNotFound");

    user.scale("shop", "web", 4).await;
    let preview = eventually("two are being made", SOON, async || {
        let preview = ask(&world, &wanted(3), "").await.unwrap();
        if preview.under_way.len() == 2 { Ok(preview) } else { Err(format!("{preview:?}")) }
    })
    .await;
    assert_eq!((preview.members, preview.going.len()), (4, 1), "{preview:?}");

    world.deed(Deed::Down).await.unwrap();
    let (status, text) = eventually("the link is lost", SOON * 5, async || {
        ask(&world, &wanted(3), "").await.err().ok_or_else(|| "it answers".to_owned())
    })
    .await;
    assert!(matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY), "{status} {text}");
    world.deed(Deed::Up).await.unwrap();
}

const OTHER: &str = "another-template";

/// A group of three with a template to change to; `hot_add`: members take CPUs and
/// memory while they run.
async fn to_be_changed(hot_add: bool) -> (SimWorld, User) {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.vcenter.add_template("/DC0/vm", OTHER).unwrap();
    world.vcenter.set_hot_add(&format!("/DC0/vm/{TEMPLATE}"), hot_add, hot_add).unwrap();
    let user = User::of(&world);
    user.policy(Some(POLICY), &[]).await;
    world.start_operator().await.unwrap();
    user.group("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    (world, user)
}

fn edit(world: &SimWorld, spec: Value) {
    world.kube.patch_spec("vmgroups", Some("shop"), "web", spec).unwrap();
}

/// Waits until the group says that it has done what its spec says; the names of those
/// whom events of this reason are about, in their order.
async fn done(world: &SimWorld, reason: &str) -> Vec<String> {
    eventually("all are as the spec says", SOON * 5, async || {
        let object = world.kube.get("vmgroups", Some("shop"), "web").unwrap();
        let status = &object["status"];
        let done = status["phase"] == "RUNNING"
            && status["updatedReplicas"] == object["spec"]["replicas"]
            && status["observedGeneration"] == object["metadata"]["generation"];
        if done { Ok(()) } else { Err(status["lastMessage"].to_string()) }
    })
    .await;
    let mut events = world.kube.list("events", Some("shop"));
    events.retain(|event| event["reason"] == reason);
    events.sort_by_key(|event| event["eventTime"].to_string());
    events.iter().map(|event| event["note"].as_str().unwrap().split(' ').next().unwrap().to_owned()).collect()
}

fn changes(preview: &Preview) -> Vec<(&str, How, Option<usize>)> {
    preview.changed.iter().map(|one| (one.name.as_str(), one.how, one.turn)).collect()
}

/// Who is replaced, in which order, and by whom, is as it was said before; saying it
/// changes nothing.
#[tokio::test(start_paused = true)]
async fn a_change_of_template_is_told_as_it_happens() {
    let (world, _user) = to_be_changed(false).await;
    let before = hosts(&world).await;
    let wish = Wanted { template: Some(OTHER.to_owned()), ..wanted(3) };
    let told = ask(&world, &wish, "").await.unwrap();
    assert!(told.stopped.is_none() && told.left.is_empty() && told.further == 0, "{told:?}");
    assert_eq!(hosts(&world).await, before);
    assert!(told.changed.iter().all(|one| one.how == How::Replacement && one.why.contains("template")), "{told:?}");
    assert!(told.changed.iter().all(|one| one.reason.is_some()), "{told:?}");
    assert_eq!(told.changed.iter().map(|one| one.turn).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    edit(&world, json!({"template": OTHER}));
    let replaced = done(&world, "Replacing").await;
    assert_eq!(told.changed.iter().map(|one| one.name.clone()).collect::<Vec<_>>(), replaced);
    let came: BTreeMap<String, String> =
        told.coming.iter().map(|one| (one.name.clone(), one.place.split('/').nth(1).unwrap().to_owned())).collect();
    assert_eq!(came, hosts(&world).await, "{told:?}");
}

/// A new size is taken while a member runs where it can be, and by power cycle in turns
/// where not.
#[tokio::test(start_paused = true)]
async fn a_change_of_size_is_told_as_it_happens() {
    let wish = Wanted { cpu: Some(4), memory: Some(8), ..wanted(3) };
    let (world, _user) = to_be_changed(true).await;
    let told = ask(&world, &wish, "").await.unwrap();
    assert!(told.changed.len() == 3 && told.changed.iter().all(|one| one.how == How::InPlace), "{told:?}");
    assert!(told.asked.is_empty() && told.coming.is_empty() && told.going.is_empty(), "nobody is asked: {told:?}");

    let (world, _user) = to_be_changed(false).await;
    let strategy = json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}});
    edit(&world, strategy);
    done(&world, "").await;
    let told = ask(&world, &wish, "").await.unwrap();
    let turns: Vec<_> = changes(&told).into_iter().map(|(_, how, turn)| (how, turn)).collect();
    let cycle = |turn| (How::PowerCycle, Some(turn));
    assert_eq!(turns, [cycle(1), cycle(1), cycle(2)], "{told:?}");
    assert!(told.coming.is_empty() && told.going.is_empty(), "{told:?}");
    edit(&world, json!({"cpu": 4, "memory": 8}));
    let mut changed = done(&world, "Changing").await;
    let mut said: Vec<String> = told.changed.iter().map(|one| one.name.clone()).collect();
    changed.sort();
    said.sort();
    assert_eq!(said, changed);
}

/// More take the new size while they run than there are tasks at a time, and others come.
#[tokio::test(start_paused = true)]
async fn a_change_of_many_and_of_the_count_comes_to_an_end() {
    let (world, user) = to_be_changed(true).await;
    user.scale("shop", "web", 10).await;
    user.ready("shop", "web", 10, SOON).await;
    let wish = Wanted { cpu: Some(4), ..wanted(12) };
    let told = ask(&world, &wish, "").await.unwrap();
    assert_eq!((told.coming.len(), told.changed.len()), (2, 10), "{told:?}");
    assert!(told.stopped.is_none() && told.changed.iter().all(|one| one.how == How::InPlace), "{told:?}");
}

/// Who stays as he is, is named, and why; a template that is not there stops it, and
/// what no spec may say is refused.
#[tokio::test(start_paused = true)]
async fn who_is_left_as_he_is_and_what_is_in_the_way_is_told() {
    let (world, user) = to_be_changed(false).await;
    let pet = world.vms().await.unwrap()[1].clone();
    world.vcenter.set_extra(&pet.path, "vmgroup.attr.protected", "true").unwrap();
    let wish = |template: &str| Wanted { template: Some(template.to_owned()), ..wanted(3) };
    let told = eventually("the pet is known", SOON, async || {
        let told = ask(&world, &wish(OTHER), "").await.unwrap();
        if told.left.is_empty() { Err(format!("{told:?}")) } else { Ok(told) }
    })
    .await;
    assert_eq!(told.left.iter().map(|left| left.name.as_str()).collect::<Vec<_>>(), [pet.name.as_str()]);
    assert!(told.left[0].reason.contains("protected") && told.changed.len() == 2, "{told:?}");

    edit(&world, json!({"updateStrategy": {"type": "OnDelete"}}));
    user.ready("shop", "web", 3, SOON).await;
    let told = ask(&world, &wish(OTHER), "").await.unwrap();
    assert!(told.left.len() == 3 && told.changed.is_empty(), "{told:?}");
    assert!(told.left[0].reason.contains("OnDelete"), "{told:?}");

    edit(&world, json!({"updateStrategy": null}));
    user.ready("shop", "web", 3, SOON).await;
    let told = ask(&world, &wish("nowhere"), "").await.unwrap();
    assert!(told.stopped.as_ref().is_some_and(|stopped| stopped.message.contains("nowhere")), "{told:?}");
    assert!(told.changed.is_empty() && told.further == 2, "{told:?}");
    let (status, text) = ask(&world, &Wanted { cpu: Some(0), ..wanted(3) }, "").await.unwrap_err();
    assert!(status == StatusCode::UNPROCESSABLE_ENTITY && text.contains("spec.cpu"), "{status} {text}");
}

/// With a surge the successor comes first, and nobody is named twice.
#[tokio::test(start_paused = true)]
async fn a_surge_is_told_as_it_happens() {
    let (world, user) = to_be_changed(false).await;
    let strategy = json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}});
    edit(&world, strategy);
    user.ready("shop", "web", 3, SOON).await;
    let told = ask(&world, &Wanted { template: Some(OTHER.to_owned()), ..wanted(3) }, "").await.unwrap();
    assert_eq!((told.changed.len(), told.coming.len(), told.going.len()), (3, 3, 0), "{told:?}");
    edit(&world, json!({"template": OTHER}));
    let replaced = done(&world, "Replacing").await;
    assert_eq!(told.changed.iter().map(|one| one.name.clone()).collect::<Vec<_>>(), replaced);
    let mut came: Vec<&str> = told.coming.iter().map(|one| one.name.as_str()).collect();
    came.sort_unstable();
    assert_eq!(came, hosts(&world).await.keys().collect::<Vec<_>>(), "{told:?}");
}

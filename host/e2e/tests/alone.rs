//! Stories that only the simulated world can tell: an hour at rest, every call
//! counted, mistakes of whoever deploys.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::time::Duration;

use vmgroup_api::Phase;
use vmgroup_e2e::sim::{SimWorld, everything};
use vmgroup_e2e::world::{Options, User, World, eventually};

const SOON: Duration = Duration::from_secs(60);

/// L2: at rest nothing is written and nothing is asked but the long poll and
/// the keepalive, however long it lasts.
#[tokio::test(start_paused = true)]
async fn l2_at_rest_nobody_is_called() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    for index in 0..5 {
        user.group("shop", &format!("web-{index}"), 3).await;
    }
    for index in 0..5 {
        user.ready("shop", &format!("web-{index}"), 3, SOON).await;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (writes, before) = (world.kube.writes(), world.calls().await.unwrap());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.kube.writes(), writes, "writes to Kubernetes");
    let mut calls = world.calls().await.unwrap();
    for (method, count) in before {
        let after = calls.get_mut(&method).unwrap();
        *after -= count;
    }
    calls.retain(|method, count| *count > 0 && method != "WaitForUpdatesEx" && method != "CurrentTime");
    assert!(calls.is_empty(), "calls to vCenter at rest: {calls:?}");
}

/// S9: the password is nowhere to be read, right or wrong.
#[tokio::test(start_paused = true)]
async fn s9_no_secret_in_anything_that_is_written() {
    let secret = "hunter2-and-more";
    let mut world = SimWorld::make(Options { password: Some(secret.into()), ..Options::default() }).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 1).await;
    let message = user.told("shop", "web", "Stalled", "login", SOON).await;
    assert!(message.contains("VC_PASS"), "it says what to do: {message}");
    let text = everything(&world.kube);
    assert!(text.contains("VCenterLoginRefused"));
    assert!(!text.contains(secret));
}

/// A wrong password does not hammer vCenter.
#[tokio::test(start_paused = true)]
async fn a_refused_login_is_not_repeated_without_end() {
    let mut world = SimWorld::make(Options { password: Some("wrong".into()), ..Options::default() }).await.unwrap();
    world.start_operator().await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let logins = world.calls().await.unwrap().get("Login").copied().unwrap_or_default();
    assert!((2..=40).contains(&logins), "{logins} logins in ten minutes");
}

/// Several datacenters and none named: an error that lists them.
#[tokio::test(start_paused = true)]
async fn several_datacenters_are_listed() {
    let mut world = SimWorld::make(Options { datacenters: 2, ..Options::default() }).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 1).await;
    let message = user.told("shop", "web", "Stalled", "datacenter", SOON).await;
    assert!(message.contains("DC0") && message.contains("DC1") && message.contains("--datacenter"), "{message}");
}

/// L11: the CRD may come later.
#[tokio::test(start_paused = true)]
async fn l11_the_crd_may_come_after_the_operator() {
    use kube::CustomResourceExt;
    let mut world = SimWorld::make(Options { crd: false, ..Options::default() }).await.unwrap();
    world.start_operator().await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    world.kube.apply(serde_json::to_value(vmgroup_api::VmGroup::crd()).unwrap()).unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
}

/// Deletion and creation again under the same name: the new group gets its own
/// members, and nothing of the old one is left.
#[tokio::test(start_paused = true)]
async fn made_again_under_the_same_name() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    for _ in 0..3 {
        user.group("shop", "web", 3).await;
        eventually("some are made", SOON, async || {
            if world.vms().await.unwrap().is_empty() { Err("none".into()) } else { Ok(()) }
        })
        .await;
        user.delete("shop", "web").await;
        user.gone("shop", "web", SOON).await;
        assert!(world.vms().await.unwrap().is_empty());
    }
}

/// A thousand members: reached, healthy, and a status that stays small.
#[tokio::test(start_paused = true)]
async fn a_thousand_members() {
    let options = Options { clone_takes: Duration::from_secs(1), max_tasks: 50, ..Options::default() };
    let mut world = SimWorld::make(options).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "herd", 1000).await;
    let mut largest = 0;
    eventually("a thousand are there", Duration::from_secs(1200), async || {
        let group = user.groups("shop").get("herd").await.map_err(|error| error.to_string())?;
        largest = largest.max(serde_json::to_string(&group).unwrap().len());
        let status = group.status.unwrap_or_default();
        if status.phase == Some(Phase::Running) { Ok(()) } else { Err(format!("{:?}", status.last_message)) }
    })
    .await;
    user.scale("shop", "herd", 3).await;
    eventually("three are left", Duration::from_secs(1200), async || {
        let group = user.groups("shop").get("herd").await.map_err(|error| error.to_string())?;
        largest = largest.max(serde_json::to_string(&group).unwrap().len());
        let status = group.status.unwrap_or_default();
        let done = status.phase == Some(Phase::Running) && status.current_replicas == Some(3);
        if done { Ok(()) } else { Err(format!("{:?}", status.last_message)) }
    })
    .await;
    assert!(largest < 64 * 1024, "the largest object had {largest} bytes");
    assert_eq!(world.vms().await.unwrap().len(), 3);
}

/// L8: if some clones fail, the others are ready, and the failed are named with
/// their reason and tried again; a group beside it notices nothing.
#[tokio::test(start_paused = true)]
async fn l8_some_clones_fail() {
    use vmgroup_sim::faults::{Fault, Rule};
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    let fail =
        |skip, times| Rule { on: "CloneVM_Task".into(), skip, times, fault: Fault::FailTask("NoDiskSpace".into()) };
    world.vcenter.faults().add(fail(1, 2));
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 4).await;
    let api = user.groups("shop");
    eventually("two are ready, two are named", SOON, async || {
        let status = api.get("web").await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        let message = status.last_message.unwrap_or_default();
        let told = status.ready_replicas == Some(2) && message.contains("2 of 4") && message.contains("NoDiskSpace");
        if told { Ok(()) } else { Err(message) }
    })
    .await;
    user.group("shop", "other", 2).await;
    user.ready("shop", "other", 2, SOON).await;
    user.ready("shop", "web", 4, SOON).await;
    assert_eq!(world.vms().await.unwrap().len(), 6);
    let events = user.events("shop", "web").await;
    assert!(events.iter().any(|event| event.starts_with("NoCapacity")), "{events:#?}");
}

/// L8: each kind of failure is told by its own reason, while the others are ready,
/// and is mended when its time has come.
#[tokio::test(start_paused = true)]
async fn l8_each_kind_of_failure_is_told_by_its_own_reason() {
    use vmgroup_sim::faults::{Fault, Rule};
    for (fault, reason) in [
        ("SystemError", "VCenterTransient"),
        ("NoDiskSpace", "NoCapacity"),
        ("InvalidDatastore", "Configuration"),
        ("NoPermission", "NoPermission"),
        ("ManagedObjectNotFound", "Gone"),
    ] {
        let mut world = SimWorld::make(Options::default()).await.unwrap();
        let rule = Rule { on: "CloneVM_Task".into(), skip: 1, times: 1, fault: Fault::FailTask(fault.into()) };
        world.vcenter.faults().add(rule);
        world.start_operator().await.unwrap();
        let user = User::of(&world);
        user.group("shop", "web", 3).await;
        let told = async || {
            let status = user.groups("shop").get("web").await.map_err(|error| error.to_string())?.status;
            let status = status.unwrap_or_default();
            let why = status.conditions.iter().find(|condition| condition.type_ == "Ready").map(|it| it.reason.clone());
            let so = status.ready_replicas == Some(2) && why.as_deref() == Some(reason);
            if so { Ok(()) } else { Err(format!("{why:?} {:?}", status.last_message)) }
        };
        // "Gone" is tried again within a second; its event stays.
        if reason != "Gone" {
            eventually(&format!("two are ready, and {fault} is told as {reason}"), SOON, told).await;
        }
        user.ready("shop", "web", 3, SOON).await;
        let events = user.events("shop", "web").await;
        assert!(events.iter().any(|event| event.starts_with(reason)), "{fault}: {events:#?}");
    }
}

/// L12: the leader dies and the standby goes on; two operators never make too many.
#[tokio::test(start_paused = true)]
async fn l12_the_standby_takes_over() {
    let options = Options { clone_takes: Duration::from_secs(5), max_tasks: 2, ..Options::default() };
    let mut world = SimWorld::make(options).await.unwrap();
    world.launch(Some("vmgroup-operator"));
    let user = User::of(&world);
    user.group("shop", "web", 8).await;
    eventually("the leader is at work", SOON, async || {
        let count = world.vms().await.unwrap().len();
        if count >= 2 { Ok(()) } else { Err(format!("{count}")) }
    })
    .await;
    world.kill_operator().await.unwrap();
    world.launch(Some("vmgroup-operator"));
    world.launch(Some("vmgroup-operator"));
    user.ready("shop", "web", 8, Duration::from_secs(300)).await;
    assert_eq!(world.vms().await.unwrap().len(), 8);
    assert!(world.vcenter.sessions() <= 3, "{} sessions", world.vcenter.sessions());
}

/// A policy that traps when it is asked: nobody leaves, the group says why with
/// the plugin's name, and when a good one comes it goes on at once.
#[tokio::test(start_paused = true)]
async fn s8_a_policy_without_an_answer_changes_nothing() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    // No room for more than one member a host, and there are three hosts.
    user.policy(Some("placement: { plugin: spread, config: { by: host, maxPerPlace: 1 } }"), &[]).await;
    user.group("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    user.scale("shop", "web", 5).await;
    let message = user.told("shop", "web", "Stalled", "spread", SOON).await;
    assert!(message.contains("nothing is cloned"), "{message}");
    assert_eq!(world.vms().await.unwrap().len(), 3);
    user.policy(Some("placement: { plugin: spread, config: { by: host } }"), &[]).await;
    user.ready("shop", "web", 5, SOON).await;
}

/// A folder of our name that holds another operator's members (another cluster
/// on the same vCenter): left alone, and the group gets one of its own.
#[tokio::test(start_paused = true)]
async fn s2_a_folder_that_holds_anothers_members() {
    use vmgroup_e2e::world::ROOT;
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.vcenter.add_folder(ROOT, "shop-web").unwrap();
    let marks = [("vmgroup.group-uid", "another-uid"), ("vmgroup.group", "shop/web"), ("vmgroup.member", "x")];
    world.vcenter.add_vm(&format!("{ROOT}/shop-web"), "theirs", &marks).unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    let calls = world.calls().await.unwrap();
    assert!(calls["CreateFolder"] <= 3, "{calls:?}");
    let vms = world.vms().await.unwrap();
    assert_eq!(vms.iter().filter(|vm| vm.folder() == format!("{ROOT}/shop-web")).count(), 1);
    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON).await;
    let left = world.vms().await.unwrap();
    assert_eq!(left.iter().map(|vm| vm.name.as_str()).collect::<Vec<_>>(), ["theirs"]);
}

/// No vCenter at all when the operator starts: the group says so, and all is
/// well when it comes.
#[tokio::test(start_paused = true)]
async fn no_vcenter_at_the_start() {
    use vmgroup_e2e::world::Deed;
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.deed(Deed::Down).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 1).await;
    user.told("shop", "web", "Reconciling", "vCenter is not available", SOON).await;
    world.deed(Deed::Up).await.unwrap();
    user.ready("shop", "web", 1, SOON).await;
}

/// A folder like a mounted Secret, gone with the test.
struct Secret(std::path::PathBuf);

impl Secret {
    fn new(name: &str, user: &str, password: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("vmgroup-secret-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let secret = Self(folder);
        secret.update(user, password);
        secret
    }

    /// As the kubelet does it: a new folder, and one link that is swapped.
    fn update(&self, user: &str, password: &str) {
        let count = std::fs::read_dir(&self.0).unwrap().count();
        let version = format!("..version_{count}");
        let files = self.0.join(&version);
        std::fs::create_dir_all(&files).unwrap();
        std::fs::write(files.join("VC_USER"), user).unwrap();
        std::fs::write(files.join("VC_PASS"), password).unwrap();
        let link = self.0.join("..data_tmp");
        std::os::unix::fs::symlink(&version, &link).unwrap();
        std::fs::rename(link, self.0.join("..data")).unwrap();
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// L10: the Secret is rotated while groups are in motion, three times, with
/// vCenter sometimes changed first and sometimes last. Nothing is lost, nothing
/// is made twice, no session is left behind, and the old password is worth nothing.
#[tokio::test(start_paused = true)]
async fn l10_the_secret_is_rotated_while_groups_are_in_motion() {
    use vmgroup_e2e::sim::{PASSWORD, USER};
    let secret = Secret::new("rotated", USER, PASSWORD);
    let clones = Options { clone_takes: Duration::from_secs(60), max_tasks: 3, ..Options::default() };
    let mut world = SimWorld::make(Options { login_dir: Some(secret.0.clone()), ..clones }).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    for name in ["web", "db", "cache"] {
        user.group("shop", name, 6).await;
    }
    for (round, vcenter_first) in [(1, true), (2, false), (3, true)] {
        eventually("some more are made", Duration::from_secs(300), async || {
            let count = world.vms().await.unwrap().len();
            if count >= 3 * round { Ok(()) } else { Err(format!("{count}")) }
        })
        .await;
        let password = format!("password number {round}");
        if vcenter_first {
            world.vcenter.set_password(&password);
        }
        secret.update(USER, &password);
        tokio::time::sleep(Duration::from_secs(6)).await;
        if !vcenter_first {
            world.vcenter.set_password(&password);
            // Refused once; the old session serves until it is tried again.
            tokio::time::sleep(Duration::from_secs(240)).await;
        }
        assert_eq!(world.vcenter.logins(), round as u64 + 1, "round {round}");
        assert_eq!(world.vcenter.sessions(), 1, "round {round}");
    }
    for name in ["web", "db", "cache"] {
        user.ready("shop", name, 6, Duration::from_secs(600)).await;
    }
    assert_eq!(world.vms().await.unwrap().len(), 18);
    assert_eq!(world.calls().await.unwrap()["CloneVM_Task"], 18);
    // An old password is worth nothing any more.
    secret.update(USER, "password number 2");
    tokio::time::sleep(Duration::from_secs(6)).await;
    world.vcenter.terminate_sessions();
    user.told("shop", "web", "Stalled", "login", SOON).await;
    assert_eq!(world.vcenter.sessions(), 0);
    secret.update(USER, "password number 3");
    user.ready("shop", "web", 6, SOON).await;
    assert_eq!((world.vcenter.sessions(), world.vcenter.logins()), (1, 5));
}

/// A login that is wrong from the start is mended without a restart, and at once.
#[tokio::test(start_paused = true)]
async fn l10_a_corrected_secret_is_tried_at_once() {
    use vmgroup_e2e::sim::{PASSWORD, USER};
    let secret = Secret::new("corrected", USER, "mistyped");
    let mut world = SimWorld::make(Options { login_dir: Some(secret.0.clone()), ..Options::default() }).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 2).await;
    let message = user.told("shop", "web", "Stalled", "login", SOON).await;
    assert!(message.contains("without a restart"), "{message}");
    tokio::time::sleep(Duration::from_secs(100)).await;
    secret.update(USER, PASSWORD);
    user.ready("shop", "web", 2, Duration::from_secs(20)).await;
    assert_eq!((world.vcenter.logins(), world.calls().await.unwrap()["Login"]), (1, 2));
}

/// S7: a write that is sent a second time, because a session was lost, has its
/// lease checked a second time: the login in between may take long.
#[tokio::test(start_paused = true)]
async fn s7_the_lease_is_checked_again_before_a_write_is_repeated() {
    use vmgroup_sim::faults::{Fault, Rule};
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.launch(Some("vmgroup-operator"));
    let user = User::of(&world);
    user.group("shop", "web", 0).await;
    user.ready("shop", "web", 0, SOON).await;
    world.vcenter.faults().add(Rule::next("CloneVM_Task", Fault::Error("NotAuthenticated".into())));
    world.vcenter.faults().add(Rule::next("Login", Fault::Delay(Duration::from_secs(20))));
    user.scale("shop", "web", 1).await;
    eventually("the clone is sent", SOON, async || {
        if world.calls().await.unwrap().contains_key("CloneVM_Task") { Ok(()) } else { Err("not yet".into()) }
    })
    .await;
    let refuse = Rule { on: "UPDATE leases".into(), skip: 0, times: u32::MAX, fault: Fault::Error("500".into()) };
    world.kube.faults().add(refuse);
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(world.calls().await.unwrap()["CloneVM_Task"], 1, "it was sent again without a lease");
    assert!(world.vms().await.unwrap().is_empty());
    world.kube.faults().clear();
    user.ready("shop", "web", 1, SOON).await;
}

/// L12: a standby watches both sides and writes to neither. When the leader is
/// told to stop, it goes on within seconds from what it knows already.
#[tokio::test(start_paused = true)]
async fn l12_a_standby_is_warm() {
    use std::sync::{Arc, Mutex};
    use tokio::time::Instant;
    use vmgroup_e2e::sabotage::{Call, Sabotage};
    const WRITES: [&str; 6] = ["PUT ", "POST ", "PATCH ", "DELETE ", "CreateFolder", "_Task"];
    /// What loads a cache.
    const LOADS: [&str; 3] = ["Login", "CreateContainerView", "CreateFilter"];
    let options = Options { clone_takes: Duration::from_secs(5), max_tasks: 2, ..Options::default() };
    let mut world = SimWorld::make(options).await.unwrap();
    let heard: Arc<Mutex<Vec<(Instant, String)>>> = Arc::default();
    let journal = heard.clone();
    let listener = Box::new(move |call: &Call, _: &str| {
        if call.operator == 1 {
            journal.lock().unwrap().push((Instant::now(), call.name.clone()));
        }
    });
    world.sabotage = Sabotage::by(Box::new(|_| None), Some(listener), u64::MAX);
    let leader = world.launch(Some("vmgroup-operator"));
    let user = User::of(&world);
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    world.launch(Some("vmgroup-operator"));
    user.scale("shop", "web", 12).await;
    eventually("the leader is at work", SOON, async || {
        let count = world.vms().await.unwrap().len();
        if count >= 5 { Ok(()) } else { Err(format!("{count}")) }
    })
    .await;
    let of = |words: &[&str], calls: &[(Instant, String)]| -> Vec<String> {
        let is = |name: &&String| words.iter().any(|word| name.contains(word));
        calls.iter().map(|(_, name)| name).filter(is).cloned().collect()
    };
    let before = std::mem::take(&mut *heard.lock().unwrap());
    assert!(of(&WRITES, &before).is_empty(), "a standby wrote: {:?}", of(&WRITES, &before));
    assert!(!of(&["WaitForUpdatesEx"], &before).is_empty(), "it watches vCenter");

    let told = Instant::now();
    leader.cancel();
    user.ready("shop", "web", 12, Duration::from_secs(300)).await;
    assert_eq!(world.vms().await.unwrap().len(), 12);
    let after = std::mem::take(&mut *heard.lock().unwrap());
    let first = after.iter().position(|(_, name)| name.contains("CloneVM_Task")).unwrap();
    let took = after[first].0 - told;
    assert!(took <= Duration::from_secs(5), "{took:?} to the first clone: {:?}", &after[..first]);
    assert!(of(&LOADS, &after[..=first]).is_empty(), "it had to load: {:?}", &after[..first]);
}

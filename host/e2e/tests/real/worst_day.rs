//! Whole stories under faults that real processes and real connections have:
//! SIGKILL, SIGSTOP, servers that go and come back, replies that are cut. In the
//! end kubectl and govc agree with the properties; on the way, vCenter's events and
//! the records do.

use std::collections::BTreeSet;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use vmgroup_e2e::real::{Audit, Expected, Fault, RealWorld, Tally};
use vmgroup_e2e::world::{Options, User, World, eventually};

use super::{led_by, wanted};

/// Patience, and no claim: what is awaited here takes seconds on a quiet machine,
/// and minutes on a bad line beside other work.
const LONG: Duration = Duration::from_secs(600);

/// What the operator's log says whenever it could not take or renew its lease.
const NO_LEASE: &str = "lease: will try again";

/// The calls that change something in vCenter.
const WRITES: [&str; 6] =
    ["CreateFolder", "CloneVM_Task", "ReconfigVM_Task", "PowerOnVM_Task", "PowerOffVM_Task", "Destroy_Task"];

fn web(members: usize) -> Expected {
    Expected { namespace: "shop", name: "web", members }
}

/// The seed of what is random in a story; printed, and repeated by giving it.
fn seed(story: &str) -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    let given = std::env::var("VMGROUP_E2E_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| std::hash::RandomState::new().build_hasher().finish() % 10_000);
    println!("{story}: VMGROUP_E2E_SEED={seed} repeats its lots");
    seed
}

/// The writes that vCenter was asked for so far.
async fn writes(world: &RealWorld) -> u64 {
    let calls = world.calls().await.unwrap();
    WRITES.iter().filter_map(|method| calls.get(*method)).sum()
}

/// Waits, closely, until vCenter was asked for so many calls.
async fn called(world: &RealWorld, methods: &[&str], times: u64) {
    let deadline = tokio::time::Instant::now() + LONG;
    loop {
        let calls = world.calls().await.unwrap();
        let count: u64 = methods.iter().filter_map(|method| calls.get(*method)).sum();
        if count >= times {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{count} of {times} calls of {methods:?}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Has a user wish for so many members of shop/web, and waits until they are there.
async fn scaled(user: &User, audit: &Audit, members: usize) {
    audit.wish(members).await;
    user.scale("shop", "web", members).await;
    user.ready("shop", "web", i32::try_from(members).unwrap(), LONG).await;
}

/// L4: 20, 60 and 5 members, with the operator killed at ten random moments on the
/// way, each of them a number of writes to vCenter.
#[tokio::test(flavor = "multi_thread")]
async fn l4_killed_at_ten_random_moments() {
    if !wanted("l4_killed_at_ten_random_moments") {
        return;
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed("l4_killed_at_ten_random_moments"));
    // So many writes there are at least: a folder, 60 made and started, 55 stopped
    // and destroyed.
    let all = 1 + 2 * 60 + 2 * 55;
    let mut moments = BTreeSet::new();
    while moments.len() < 10 {
        moments.insert(1 + random.next_u64() % all);
    }
    let options = Options { clone_takes: Duration::from_millis(300), ..Options::default() };
    let mut world = RealWorld::make(options).await.unwrap();
    let (audit, user) = (Audit::of(&world).await, User::of(&world));
    world.start_lone_operator().await.unwrap();
    let story = async {
        audit.wish(20).await;
        user.group("shop", "web", 20).await;
        user.ready("shop", "web", 20, LONG).await;
        scaled(&user, &audit, 60).await;
        scaled(&user, &audit, 5).await;
    };
    let fate = async {
        for (number, moment) in moments.iter().enumerate() {
            called(&world, &WRITES, *moment).await;
            world.kill(number).unwrap();
            world.start_lone_operator().await.unwrap();
        }
    };
    tokio::join!(story, fate);
    user.ready("shop", "web", 5, LONG).await;
    let tally = audit.verdict().await;
    assert_eq!((tally.made, tally.gone), (60, 55), "{tally:?}: kills at {moments:?}");
    // Those of the killed are vCenter's to end, after its half an hour of idleness.
    world.agrees(&[web(5)], 1 + moments.len()).await;
}

/// L11: etcd and kube-apiserver are killed in the middle of the work, and come back
/// on the same data; for once so late that the lease is lost.
#[tokio::test(flavor = "multi_thread")]
async fn l11_the_api_server_is_killed_in_mid_flight() {
    if !wanted("l11_the_api_server_is_killed_in_mid_flight") {
        return;
    }
    let options = Options { clone_takes: Duration::from_millis(700), max_tasks: 4, ..Options::default() };
    let mut world = RealWorld::make(options).await.unwrap();
    let (audit, user) = (Audit::of(&world).await, User::of(&world));
    world.start_operator().await.unwrap();

    audit.wish(24).await;
    user.group("shop", "web", 24).await;
    called(&world, &["CloneVM_Task"], 9).await;
    world.cluster().kill_api_server();
    world.cluster().kill_etcd();
    eventually("the operator has lost its lease", LONG, async || {
        if world.log_of(0).contains("no longer leading") { Ok(()) } else { Err("it leads".into()) }
    })
    .await;
    let before = writes(&world).await;
    // Clones that were under way end, and each asks for the next step; and the lease
    // is asked for twice more. It cannot be had before etcd is back.
    let clones = usize::try_from(world.calls().await.unwrap()["CloneVM_Task"]).unwrap();
    let complaints = |world: &RealWorld| world.log_of(0).matches(NO_LEASE).count();
    let complained = complaints(&world);
    eventually("the clones have ended, and it has asked for its lease", LONG, async || {
        let there = world
            .vms()
            .await
            .map_err(|error| error.to_string())?
            .iter()
            .filter(|vm| vm.name.starts_with("web"))
            .count();
        let asked = complaints(&world) - complained;
        if there >= clones && asked >= 2 { Ok(()) } else { Err(format!("{there} of {clones}, {asked}")) }
    })
    .await;
    assert_eq!(writes(&world).await, before, "S7: without its lease it changes nothing");
    world.cluster().restart().await.unwrap();
    user.ready("shop", "web", 24, LONG).await;

    audit.wish(3).await;
    user.scale("shop", "web", 3).await;
    called(&world, &["PowerOffVM_Task"], 5).await;
    world.cluster().kill_etcd();
    eventually("the API server has nothing to say", LONG, async || {
        match world.kubectl(&["get", "vg", "-A", "--request-timeout=2s"], None).await {
            Ok(said) if said.ok => Err(said.out),
            _ => Ok(()),
        }
    })
    .await;
    world.cluster().restart().await.unwrap();
    user.ready("shop", "web", 3, LONG).await;
    world.agrees(&[web(3)], 1).await;

    audit.wish(0).await;
    user.delete("shop", "web").await;
    called(&world, &["Destroy_Task"], 22).await;
    world.cluster().kill_api_server();
    world.cluster().restart().await.unwrap();
    user.gone("shop", "web", LONG).await;
    let tally = audit.verdict().await;
    assert_eq!(tally, Tally { made: 24, on: 24, off: 24, gone: 24 });
    world.agrees(&[], 1).await;
}

/// L10: every kind of fault that lies between us and vCenter, each over a piece of
/// the story, and then all of them at once.
#[tokio::test(flavor = "multi_thread")]
async fn l10_a_story_over_a_bad_line() {
    if !wanted("l10_a_story_over_a_bad_line") {
        return;
    }
    let seed = seed("l10_a_story_over_a_bad_line");
    let options = Options { clone_takes: Duration::from_millis(300), ..Options::default() };
    let mut world = RealWorld::make(options).await.unwrap();
    let (audit, user) = (Audit::of(&world).await, User::of(&world));
    world.start_operator().await.unwrap();
    audit.wish(3).await;
    user.group("shop", "web", 3).await;
    user.ready("shop", "web", 3, LONG).await;

    let share = |action| Fault::share(0.12, seed, action);
    let slow = share("delay").after(Duration::from_millis(1500));
    let kinds = [share("503"), share("reset"), slow, share("drop-reply"), share("truncate")];
    let mut made = 3;
    for fault in &kinds {
        // Up by eight and down by six: faults strike what makes and what destroys.
        world.front().fault(fault).await.unwrap();
        made += 8;
        scaled(&user, &audit, 11).await;
        scaled(&user, &audit, 3).await;
        let struck = world.front().clear_faults().await.unwrap();
        println!("struck: {struck:?}");
        assert!(struck[fault.action] >= 2, "{struck:?}");
    }

    for fault in &kinds {
        world.front().fault(&Fault { chance: Some(0.03), ..fault.clone() }).await.unwrap();
    }
    made += 9;
    scaled(&user, &audit, 12).await;
    scaled(&user, &audit, 4).await;
    println!("struck: {:?}", world.front().clear_faults().await.unwrap());
    let tally = audit.verdict().await;
    assert_eq!((tally.made, tally.gone), (made, made - 4), "{tally:?}");
    world.agrees(&[web(4)], 1).await;
}

/// L10: sessions end from outside in the middle of the work, by another user's
/// `TerminateSession` and by idling; and none is left behind.
#[tokio::test(flavor = "multi_thread")]
async fn l10_sessions_are_ended_from_outside() {
    if !wanted("l10_sessions_are_ended_from_outside") {
        return;
    }
    let options = Options { clone_takes: Duration::from_millis(500), max_tasks: 4, ..Options::default() };
    let mut world = RealWorld::make(options).await.unwrap();
    let (audit, user) = (Audit::of(&world).await, User::of(&world));
    world.start_operator().await.unwrap();
    audit.wish(20).await;
    user.group("shop", "web", 20).await;
    for clones in [1, 6, 12, 18] {
        called(&world, &["CloneVM_Task"], clones).await;
        for key in world.sessions().await.unwrap() {
            world.govc(&["session.rm", &key]).await.unwrap();
        }
    }
    user.ready("shop", "web", 20, LONG).await;
    world.agrees(&[web(20)], 1).await;

    // Sessions of now on end after some two seconds without a new call: vcsim, unlike
    // a vCenter, does not count the long poll.
    let timeout = |after| ["option.set", "config.vmacore.soap.sessionTimeout", after];
    world.govc(&timeout("2s")).await.unwrap();
    world.front().end_sessions().await.unwrap();
    for members in [2, 9, 3] {
        scaled(&user, &audit, members).await;
        eventually("its session has idled out", LONG, async || {
            let sessions = world.sessions().await.unwrap();
            if sessions.is_empty() { Ok(()) } else { Err(format!("{sessions:?}")) }
        })
        .await;
    }
    world.govc(&timeout("30m")).await.unwrap();
    scaled(&user, &audit, 5).await;
    scaled(&user, &audit, 1).await;
    let tally = audit.verdict().await;
    assert_eq!(tally, Tally { made: 29, on: 29, off: 28, gone: 28 });
    world.agrees(&[web(1)], 1).await;
}

/// L10: the password is changed in the middle of the work, once with all sessions
/// ended and the Secret late, once with the session alive; no restart, and no
/// session is left behind.
#[tokio::test(flavor = "multi_thread")]
async fn l10_the_password_is_rotated() {
    if !wanted("l10_the_password_is_rotated") {
        return;
    }
    let options = Options { clone_takes: Duration::from_millis(500), max_tasks: 4, ..Options::default() };
    let mut world = RealWorld::make(options).await.unwrap();
    let (audit, user) = (Audit::of(&world).await, User::of(&world));
    let first = world.front().login().1.to_owned();
    world.mount_login(&first).unwrap();
    world.start_operator().await.unwrap();
    audit.wish(12).await;
    user.group("shop", "web", 12).await;
    called(&world, &["CloneVM_Task"], 4).await;
    world.front().set_password("the second").await.unwrap();
    world.front().end_sessions().await.unwrap();
    user.told("shop", "web", "Stalled", "refused the login", LONG).await;
    world.mount_login("the second").unwrap();
    user.ready("shop", "web", 12, LONG).await;
    world.agrees(&[web(12)], 1).await;

    let old = world.sessions().await.unwrap();
    audit.wish(2).await;
    user.scale("shop", "web", 2).await;
    called(&world, &["PowerOffVM_Task"], 3).await;
    world.front().set_password("the third").await.unwrap();
    world.mount_login("the third").unwrap();
    eventually("one session, of the new password", LONG, async || {
        let now = world.sessions().await.unwrap();
        if now.len() == 1 && now != old { Ok(()) } else { Err(format!("{old:?}, {now:?}")) }
    })
    .await;
    user.ready("shop", "web", 2, LONG).await;
    let tally = audit.verdict().await;
    assert_eq!(tally, Tally { made: 12, on: 12, off: 10, gone: 10 });
    let log = world.log_of(0);
    assert!(!log.contains("the second") && !log.contains("the third"), "S9: {log}");
    world.agrees(&[web(2)], 1).await;
}

/// S7, L12: the leader is paused in the middle of its work until another leads, and
/// goes on as if nothing had been: it changes nothing. Then the other one is killed,
/// and the first leads again.
#[tokio::test(flavor = "multi_thread")]
async fn s7_a_paused_leader_that_wakes_up_changes_nothing() {
    if !wanted("s7_a_paused_leader_that_wakes_up_changes_nothing") {
        return;
    }
    let options = Options { clone_takes: Duration::from_millis(1500), max_tasks: 4, ..Options::default() };
    let mut world = RealWorld::make(options).await.unwrap();
    let (audit, user) = (Audit::of(&world).await, User::of(&world));
    world.start_operator().await.unwrap();
    led_by(&world, "operator-0").await;
    world.start_operator().await.unwrap();
    let sessions = async || BTreeSet::from_iter(world.sessions().await.unwrap());
    eventually("both are logged in", LONG, async || match sessions().await.len() {
        2 => Ok(()),
        some => Err(format!("{some} are")),
    })
    .await;
    let both: BTreeSet<String> = sessions().await;

    audit.wish(30).await;
    user.group("shop", "web", 30).await;
    called(&world, &["CloneVM_Task"], 6).await;
    world.pause(0).await.unwrap();
    // Only the leader has cloned so far.
    let by = world.front().calls_by_session().await.unwrap();
    let cloned = |key: &String| by.get(key).and_then(|calls| calls.get("CloneVM_Task")).is_some();
    let (old, new): (Vec<_>, Vec<_>) = both.iter().cloned().partition(cloned);
    assert_eq!((old.len(), new.len()), (1, 1), "{by:?}");
    led_by(&world, "operator-1").await;
    called(&world, &["CloneVM_Task"], 12).await;

    // Whoever is not the new leader: the old one may have logged in anew.
    let foreign = async || {
        let by = world.front().calls_by_session().await.unwrap();
        let others = by.iter().filter(|(key, _)| **key != new[0]).flat_map(|(_, calls)| calls);
        others.filter(|(method, _)| WRITES.contains(&method.as_str())).map(|(_, count)| count).sum::<u64>()
    };
    let before = foreign().await;
    world.resume(0).await.unwrap();
    eventually("the old leader knows", LONG, async || {
        if world.log_of(0).contains("no longer leading") { Ok(()) } else { Err("not yet".into()) }
    })
    .await;
    user.ready("shop", "web", 30, LONG).await;
    assert_eq!(foreign().await, before, "the old leader has written");
    assert_eq!(world.front().calls_by_session().await.unwrap().len(), by.len(), "nobody needed a new session");

    audit.wish(6).await;
    user.scale("shop", "web", 6).await;
    called(&world, &["Destroy_Task"], 5).await;
    world.kill(1).unwrap();
    led_by(&world, "operator-0").await;
    user.ready("shop", "web", 6, LONG).await;
    let tally = audit.verdict().await;
    assert_eq!(tally, Tally { made: 30, on: 30, off: 24, gone: 24 });
    // The killed one's is vCenter's to end.
    world.agrees(&[web(6)], 2).await;
}

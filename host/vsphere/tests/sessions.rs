//! Sessions at vCenter, in-process with time paused: one for each account,
//! never more than the fixed number, whatever gets lost.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
mod simulated;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::{KEY, Seen, clone_spec, selection, until};
use simulated::{client, credentials, simulated};
use vmgroup_sim::clock::Clock;
use vmgroup_sim::faults::{Fault, Rule};
use vmgroup_sim::vcenter::{VcenterConfig, VcenterSim};
use vmgroup_vsphere::{
    Agent, Category, Credentials, Error, Event, FaultKind, MAX_SESSIONS, Options, SessionCount, Vcenter,
};

const ROOT: &str = "/DC0/vm/vm-operator";
const UUID: &str = "5035aa10-0000-4000-8000-0000000000cc";

fn lost(seen: &Seen) -> usize {
    seen.events().iter().filter(|event| matches!(event, Event::Lost { .. })).count()
}

fn logins_tried(sim: &VcenterSim) -> u64 {
    sim.faults().calls().get("Login").copied().unwrap_or(0)
}

/// A process of this name and number.
fn process(instance: &str, process: u64) -> impl FnOnce(&mut Options) {
    let agent = Agent { instance: instance.to_owned(), process };
    move |options| options.agent = agent
}

#[tokio::test(start_paused = true)]
async fn however_many_ask_there_is_one_login() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    let asking = (0..50).map(|_| vcenter.connect());
    for answer in futures::future::join_all(asking).await {
        answer.unwrap();
    }
    assert_eq!((sim.logins(), sim.sessions()), (1, 1));
}

/// Those who wait for a slow login give up; the login does not, so that there is
/// no second one.
#[tokio::test(start_paused = true)]
async fn l10_a_slow_login_is_waited_for_and_not_repeated() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    sim.faults().add(Rule::next("Login", Fault::Delay(Duration::from_secs(100))));
    let error = vcenter.connect().await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    assert_eq!(error.category(), Category::Transient);
    vcenter.connect().await.unwrap();
    assert_eq!((logins_tried(&sim), sim.sessions()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn l10_an_idle_session_is_kept_alive() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    vcenter.connect().await.unwrap();
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_mins(30)).await;
    }
    vcenter.resolve_site(&selection()).await.unwrap();
    assert_eq!(sim.logins(), 1);
    let kept = sim.faults().calls()["CurrentTime"];
    assert!((40..=60).contains(&kept), "{kept} in four hours");
}

/// The keepalive itself finds a lost session, and the next call has a new one.
#[tokio::test(start_paused = true)]
async fn l10_the_keepalive_notices_a_lost_session() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    vcenter.connect().await.unwrap();
    sim.terminate_sessions();
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(vcenter.sessions(), SessionCount::default());
    vcenter.resolve_site(&selection()).await.unwrap();
    assert_eq!((sim.logins(), sim.sessions()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn l10_a_session_lost_in_any_of_the_three_ways_is_had_again() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    let seen = Seen::new();
    let watch = vcenter.start_watch(&site, seen.clone());
    seen.synced().await;
    tokio::time::sleep(Duration::from_secs(5)).await;

    // A fault, for reads, writes and the poll alike.
    sim.terminate_sessions();
    vcenter.create_folder(&site.root_folder, "one").await.unwrap();
    // A fault per property, with HTTP 200.
    sim.faults().add(Rule::next("RetrievePropertiesEx", Fault::Error("missingSet:NotAuthenticated".to_owned())));
    vcenter.resolve_site(&selection()).await.unwrap();
    // Our own collector and views are unknown.
    tokio::time::sleep(Duration::from_secs(5)).await;
    sim.restart(true);
    sim.add_vm(ROOT, "late", &[(KEY, "uid-1")]).unwrap();
    seen.vm("what came after all that", |vm| vm.name == "late").await;
    assert_eq!(watch.inventory().indexed("uid-1").len(), 1);
    assert!(sim.sessions() <= 1, "{} sessions", sim.sessions());
    assert_eq!(lost(&seen), 0, "what is mended at once is not told");
}

/// vCenter locks an account by default after five failed logins within three
/// minutes; an operator and its standby use the same one.
#[tokio::test(start_paused = true)]
async fn l10_a_refused_password_locks_nobody_out_and_a_new_one_is_tried_at_once() {
    let (sim, _) = simulated(VcenterConfig::default());
    let vcenter = client(&sim, |options| options.credentials = credentials("wrong"));
    let mut tried = Vec::new();
    for second in 0..3600 {
        let error = vcenter.connect().await.unwrap_err();
        assert!(matches!(error, Error::Login { .. }), "{error:?}");
        assert_eq!(error.category(), Category::Credentials);
        assert!(!format!("{error} {error:?}").contains("wrong"));
        if logins_tried(&sim) > tried.len() as u64 {
            tried.push(second);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!((4..=8).contains(&tried.len()), "{tried:?}");
    assert!(tried.windows(2).all(|two| two[1] - two[0] > 180), "{tried:?}");
    vcenter.set_credentials(credentials("pass"));
    vcenter.connect().await.unwrap();
    assert_eq!(sim.sessions(), 1);
}

#[tokio::test(start_paused = true)]
async fn l10_a_rotated_password_leaves_no_session_behind() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    let seen = Seen::new();
    let _watch = vcenter.start_watch(&site, seen.clone());
    seen.synced().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    sim.set_password("new");
    vcenter.set_credentials(credentials("new"));
    until("the old session is gone and a new one there", || sim.sessions() == 1 && sim.logins() == 2).await;
    sim.add_vm(ROOT, "late", &[]).unwrap();
    seen.vm("what came after the rotation", |vm| vm.name == "late").await;
    assert_eq!((sim.sessions(), lost(&seen)), (1, 0));
}

/// Whether the Secret or vCenter is changed first, and even if the Secret is
/// mistyped: the session that works is kept until another one does.
#[tokio::test(start_paused = true)]
async fn l10_a_rotation_that_vcenter_refuses_leaves_no_gap() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    vcenter.set_credentials(credentials("mistyped"));
    until("it was tried", || logins_tried(&sim) == 2).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    vcenter.create_folder(&site.root_folder, "meanwhile").await.unwrap();
    assert_eq!((sim.sessions(), logins_tried(&sim)), (1, 2));

    // The Secret first, and vCenter a minute later.
    vcenter.set_credentials(credentials("new"));
    tokio::time::sleep(Duration::from_mins(1)).await;
    sim.set_password("new");
    tokio::time::sleep(Duration::from_mins(3)).await;
    until("the new login", || sim.logins() == 2 && sim.sessions() == 1).await;
    vcenter.create_folder(&site.root_folder, "afterwards").await.unwrap();
    assert_eq!(vcenter.sessions(), SessionCount { open: 1, in_doubt: 0 });
}

/// With the old session lost as well, the refusal is what every call is told.
#[tokio::test(start_paused = true)]
async fn l10_without_any_session_the_refusal_is_told() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    vcenter.set_credentials(credentials("mistyped"));
    until("it was tried", || logins_tried(&sim) == 2).await;
    sim.terminate_sessions();
    let error = vcenter.create_folder(&site.root_folder, "one").await.unwrap_err();
    assert_eq!(error.category(), Category::Credentials, "{error:?}");
    assert_eq!(logins_tried(&sim), 2);
}

#[tokio::test(start_paused = true)]
async fn l10_after_the_logout_nobody_logs_in_again() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    let seen = Seen::new();
    let _watch = vcenter.start_watch(&site, seen.clone());
    seen.synced().await;
    vcenter.logout().await;
    assert_eq!(sim.sessions(), 0);
    let error = vcenter.create_folder(&site.root_folder, "one").await.unwrap_err();
    assert!(matches!(&error, Error::Session { source, .. } if matches!(**source, Error::Closed)), "{error:?}");
    vcenter.set_credentials(credentials("other"));
    tokio::time::sleep(Duration::from_mins(30)).await;
    assert_eq!((sim.sessions(), logins_tried(&sim)), (0, 1));
}

/// A login that is under way at the end is waited for, and logged out.
#[tokio::test(start_paused = true)]
async fn l10_a_login_under_way_at_the_end_is_logged_out() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    sim.faults().add(Rule::next("Login", Fault::Delay(Duration::from_secs(3))));
    let waiting = vcenter.clone();
    let waiting = tokio::spawn(async move { waiting.connect().await });
    until("the login is under way", || logins_tried(&sim) == 1).await;
    vcenter.logout().await;
    assert_eq!((sim.logins(), sim.sessions()), (1, 0));
    assert!(matches!(waiting.await.unwrap(), Err(Error::Closed)));
}

#[tokio::test(start_paused = true)]
async fn l10_a_logout_whose_answer_is_lost_is_made_sure_of() {
    for fault in [Fault::LoseReply, Fault::Reset, Fault::Error("503".to_owned())] {
        let (sim, vcenter) = simulated(VcenterConfig::default());
        vcenter.connect().await.unwrap();
        sim.faults().add(Rule::next("Logout", fault.clone()));
        vcenter.logout().await;
        assert_eq!(sim.sessions(), 0, "{fault:?}");
        assert_eq!(vcenter.sessions(), SessionCount::default(), "{fault:?}");
    }
}

/// The session of a login whose answer was lost is found by its user agent, and
/// ended as soon as there is one to do that with.
#[tokio::test(start_paused = true)]
async fn l10_a_login_whose_answer_is_lost_leaves_no_session() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    let stranger = client(&sim, process("stranger", 1));
    stranger.connect().await.unwrap();
    sim.faults().add(Rule { on: "Login".into(), skip: 0, times: 3, fault: Fault::LoseReply });
    for _ in 0..3 {
        let error = vcenter.connect().await.unwrap_err();
        assert!(error.outcome_unknown(), "{error:?}");
    }
    assert_eq!((sim.sessions(), vcenter.sessions()), (4, SessionCount { open: 0, in_doubt: 3 }));
    vcenter.connect().await.unwrap();
    until("the lost ones are ended", || sim.sessions() == 2).await;
    until("and known to be", || vcenter.sessions() == SessionCount { open: 1, in_doubt: 0 }).await;
    vcenter.resolve_site(&selection()).await.unwrap();
    stranger.resolve_site(&selection()).await.unwrap();
    assert_eq!(sim.logins(), 5, "nobody else's was ended");
}

/// Where the user may not look at sessions, logins stop at the fixed number,
/// until vCenter has ended those that were lost.
#[tokio::test(start_paused = true)]
async fn l10_never_more_sessions_than_the_fixed_number() {
    let (sim, vcenter) = simulated(VcenterConfig { session_privilege: false, ..VcenterConfig::default() });
    sim.faults().add(Rule::every("Login", Fault::LoseReply));
    let mut most = 0;
    for _ in 0..3 * 3600 {
        let error = vcenter.connect().await.unwrap_err();
        assert_eq!(error.category(), Category::Transient, "{error:?}");
        most = most.max(sim.sessions());
        assert!(sim.sessions() <= vcenter.sessions().most());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(most, MAX_SESSIONS);
    assert!(matches!(vcenter.connect().await.unwrap_err(), Error::TooManySessions { .. }));
    sim.faults().clear();
    tokio::time::sleep(Duration::from_mins(32)).await;
    vcenter.connect().await.unwrap();
    assert_eq!(sim.sessions(), 1);
}

/// A killed process leaves its session behind; who comes after it under its name
/// ends it, once it is surely nobody's.
#[tokio::test(start_paused = true)]
async fn l10_who_comes_after_a_killed_process_ends_its_session() {
    let sim = VcenterSim::new(
        VcenterConfig { session_timeout: Duration::from_hours(10), ..VcenterConfig::default() },
        Clock::starting_at(Duration::from_secs(1_700_000_000)),
    );
    let killed = tokio::spawn({
        let vcenter = client(&sim, process("operator-0", 1));
        async move {
            vcenter.connect().await.unwrap();
            std::future::pending::<()>().await;
        }
    });
    let other = client(&sim, process("operator-1", 9));
    other.connect().await.unwrap();
    let alive = client(&sim, process("operator-0", 5));
    alive.connect().await.unwrap();
    until("they are there", || sim.sessions() == 3).await;
    killed.abort();
    until("it is dead", || killed.is_finished()).await;
    tokio::time::sleep(Duration::from_mins(20)).await;
    let next = client(&sim, process("operator-0", 2));
    next.connect().await.unwrap();
    until("its session is ended", || sim.sessions() == 3).await;
    for client in [&other, &alive, &next] {
        client.resolve_site(&selection()).await.unwrap();
    }
    assert_eq!(sim.logins(), 4, "the living ones were left alone");
}

fn apart(sim: &VcenterSim, reader: &str) -> Vcenter {
    let reader = Credentials { user: "reader".to_owned(), password: reader.into() };
    client(sim, |options| options.reader = Some(reader))
}

fn with_a_reader() -> (VcenterSim, Vcenter) {
    let readers = BTreeMap::from([("reader".to_owned(), "read".to_owned())]);
    let (sim, _) = simulated(VcenterConfig { readers, ..VcenterConfig::default() });
    let vcenter = apart(&sim, "read");
    (sim, vcenter)
}

/// Reads by an account that may only look, writes by the other; each is
/// kept alive, and both are logged out.
#[tokio::test(start_paused = true)]
async fn reads_and_writes_by_two_users() {
    let (sim, vcenter) = with_a_reader();
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    assert_eq!(sim.session_agents().len(), 1, "who only reads needs no other session");
    let seen = Seen::new();
    let watch = vcenter.start_watch(&site, seen.clone());
    seen.synced().await;
    let template = vcenter.find_template(&site, "vm-operator-template").await.unwrap();
    let task = vcenter.clone_vm(&clone_spec(&site, &template, "web-0", UUID)).await.unwrap();
    common::follow(&watch, &seen, task).await;
    seen.vm("the clone", |vm| vm.name == "web-0").await;
    assert_eq!(vcenter.find_by_uuid(UUID).await.unwrap().len(), 1);
    vcenter.connect().await.unwrap();
    let mut agents = sim.session_agents();
    agents.sort();
    assert!(agents[0].ends_with("read)") && agents[1].ends_with("write)"), "{agents:?}");
    tokio::time::sleep(Duration::from_hours(3)).await;
    assert_eq!((sim.logins(), sim.sessions()), (2, 2));
    vcenter.logout().await;
    assert_eq!(sim.sessions(), 0);
}

/// That they are apart is no pretence: who may only look can do no more.
#[tokio::test(start_paused = true)]
async fn writes_take_the_user_who_may_write() {
    let (sim, _) = with_a_reader();
    let reader = Credentials { user: "reader".to_owned(), password: "read".into() };
    let vcenter = client(&sim, |options| options.credentials = reader);
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    let error = vcenter.create_folder(&site.root_folder, "one").await.unwrap_err();
    assert!(matches!(error.fault(), Some(FaultKind::NoPermission { .. })), "{error:?}");
}

/// Each account is rotated and refused by itself.
#[tokio::test(start_paused = true)]
async fn one_refused_user_does_not_stop_the_other() {
    let (sim, _) = with_a_reader();
    let vcenter = apart(&sim, "mistyped");
    let error = vcenter.connect().await.unwrap_err();
    assert!(matches!(&error, Error::Login { user, .. } if user == "reader"), "{error:?}");
    let error = vcenter.resolve_site(&selection()).await.unwrap_err();
    assert_eq!(error.category(), Category::Credentials);
    vcenter.set_reader(Credentials { user: "reader".to_owned(), password: "read".into() });
    vcenter.resolve_site(&selection()).await.unwrap();
    assert_eq!((sim.sessions(), logins_tried(&sim)), (2, 3));
}

/// S7: the gate is asked when there is a session to write in, and again before a
/// write is repeated in a new one: the login may have taken longer than the lease.
#[tokio::test(start_paused = true)]
async fn s7_a_write_is_not_repeated_past_the_gate() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    vcenter.set_write_gate(Arc::new(move || tokio::time::Instant::now() < until));
    vcenter.create_folder(&site.root_folder, "in-time").await.unwrap();
    sim.terminate_sessions();
    sim.faults().add(Rule::next("Login", Fault::Delay(Duration::from_secs(20))));
    let error = vcenter.create_folder(&site.root_folder, "too-late").await.unwrap_err();
    assert!(matches!(error, Error::Withheld { .. }) && !error.outcome_unknown(), "{error:?}");
    let folders = sim.folders();
    assert!(folders.contains(&format!("{ROOT}/in-time")) && !folders.contains(&format!("{ROOT}/too-late")));
}

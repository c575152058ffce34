//! Leader election on the simulated Kubernetes API, with time paused.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use axum::body::Body;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use vmgroup_operator::clock::Clock;
use vmgroup_operator::lease::{self, Fence, Options};
use vmgroup_sim::faults::{Fault, Rule};
use vmgroup_sim::kube::KubeSim;

const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const LEASE_DURATION: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(2);

fn cluster() -> KubeSim {
    KubeSim::new(vmgroup_sim::clock::Clock::starting_at(Duration::from_secs(1_700_000_000)), 7)
}

fn client(cluster: &KubeSim) -> kube::Client {
    kube::Client::new(cluster.service().map_request(|r: http::Request<kube::client::Body>| r.map(Body::new)), "default")
}

struct Contender {
    fence: Fence,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Contender {
    fn join(cluster: &KubeSim, identity: &str) -> Self {
        let (fence, shutdown) = (Fence::new(), CancellationToken::new());
        let options = Options::new("default", "vmgroup-operator", identity);
        // Its clock is an hour off everybody else's; nobody may care.
        let clock = Clock::starting_at(Duration::from_secs(1_700_003_600));
        let task = tokio::spawn(lease::run(client(cluster), options, clock, fence.clone(), shutdown.clone()));
        Self { fence, shutdown, task }
    }

    /// Waits, at most a minute, until it leads or does so no longer.
    async fn until(&self, leads: bool) {
        let mut changed = self.fence.changed();
        tokio::time::timeout(Duration::from_mins(1), changed.wait_for(|now| *now == leads)).await.unwrap().unwrap();
        assert_eq!(self.fence.holds(), leads);
    }

    async fn leave(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
        assert!(!self.fence.holds());
    }
}

fn holder(cluster: &KubeSim) -> String {
    let lease = cluster.get("leases", Some("default"), "vmgroup-operator").unwrap();
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

/// Whatever happens meanwhile, at no instant do both hold.
async fn watch_for(both: [&Fence; 2], time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(!(both[0].holds() && both[1].holds()), "two leaders");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn l12_the_lease_is_held_renewed_and_handed_over() {
    let cluster = cluster();
    let a = Contender::join(&cluster, "a");
    a.until(true).await;
    let b = Contender::join(&cluster, "b");
    watch_for([&a.fence, &b.fence], Duration::from_mins(5)).await;
    assert!(a.fence.holds() && !b.fence.holds(), "a keeps it for as long as it renews");
    assert_eq!(holder(&cluster), "a");

    let left_at = Instant::now();
    a.leave().await;
    assert_ne!(holder(&cluster), "a", "released");
    b.until(true).await;
    assert!(left_at.elapsed() <= RETRY, "a handover takes one retry, not an expiry: {:?}", left_at.elapsed());
    let lease = cluster.get("leases", Some("default"), "vmgroup-operator").unwrap();
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 15);
    b.leave().await;
}

#[tokio::test(start_paused = true)]
async fn l12_a_leader_that_dies_is_replaced_after_the_lease_has_expired() {
    let cluster = cluster();
    let a = Contender::join(&cluster, "a");
    a.until(true).await;
    let b = Contender::join(&cluster, "b");
    watch_for([&a.fence, &b.fence], Duration::from_secs(20)).await;
    a.task.abort();
    let died_at = Instant::now();
    watch_for([&a.fence, &b.fence], LEASE_DURATION + RETRY + RETRY).await;
    b.until(true).await;
    assert!(died_at.elapsed() <= LEASE_DURATION + RETRY + RETRY);
    assert_eq!(holder(&cluster), "b");
    b.leave().await;
}

#[tokio::test(start_paused = true)]
async fn s7_a_leader_that_cannot_renew_stops_before_another_may_begin() {
    let cluster = cluster();
    let a = Contender::join(&cluster, "a");
    a.until(true).await;
    let b = Contender::join(&cluster, "b");
    tokio::time::sleep(Duration::from_secs(10)).await;
    cluster.faults().set_down(true);
    let down_at = Instant::now();
    a.until(false).await;
    assert!(down_at.elapsed() <= RENEW_DEADLINE, "{:?}", down_at.elapsed());
    watch_for([&a.fence, &b.fence], Duration::from_mins(1)).await;
    cluster.faults().clear();
    watch_for([&a.fence, &b.fence], Duration::from_mins(1)).await;
    assert!(a.fence.holds() ^ b.fence.holds(), "one of them leads again");
    a.leave().await;
    b.leave().await;
}

#[tokio::test(start_paused = true)]
async fn lost_replies_conflicts_and_slow_answers_cost_nothing() {
    let cluster = cluster();
    cluster.faults().add(Rule::next("CREATE leases", Fault::LoseReply));
    let a = Contender::join(&cluster, "a");
    a.until(true).await;
    let mut changed = a.fence.changed();
    changed.mark_unchanged();
    for fault in [
        Fault::LoseReply,
        Fault::Reset,
        Fault::Error("500".to_owned()),
        Fault::Error("429".to_owned()),
        Fault::Error("409".to_owned()),
        Fault::Delay(Duration::from_secs(7)),
    ] {
        cluster.faults().add(Rule::next("UPDATE leases", fault));
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(a.fence.holds());
    }
    assert!(!changed.has_changed().unwrap(), "it led throughout");
    a.leave().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_else_has_taken_is_given_up_at_once() {
    let cluster = cluster();
    let a = Contender::join(&cluster, "a");
    a.until(true).await;
    let mut stolen = cluster.get("leases", Some("default"), "vmgroup-operator").unwrap();
    stolen["spec"]["holderIdentity"] = "thief".into();
    cluster.apply(stolen).unwrap();
    let stolen_at = Instant::now();
    a.until(false).await;
    assert!(stolen_at.elapsed() <= RETRY);
    // The thief never renews.
    a.until(true).await;
    assert!(stolen_at.elapsed() >= LEASE_DURATION);
    a.leave().await;
}

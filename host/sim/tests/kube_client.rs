//! A kube-rs client and Controller on the simulated API, in-process with time
//! paused and over HTTP.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod kube_common;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::finalizer::{Event as Finalizer, finalizer};
use kube::runtime::{Controller, WatchStreamExt as _, watcher};
use kube::{Resource as _, ResourceExt as _};
use kube_common::*;
use serde_json::{Value, json};
use vmgroup_sim::faults::{Fault, Rule};
use vmgroup_sim::kube::KubeSim;
use vmgroup_sim::serve::{TlsIdentity, serve};

fn resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1alpha1", "VmGroup"))
}

fn groups(client: &kube::Client) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), "default", &resource())
}

#[derive(Debug, thiserror::Error)]
#[error("reconcile failed")]
struct Failed;

/// A controller with finalizer, server-side applied status and conditions,
/// and an event: every request kind that an operator makes.
async fn reconcile(group: Arc<DynamicObject>, context: Arc<Context>) -> Result<Action, Failed> {
    context.passes.fetch_add(1, Ordering::Relaxed);
    let api = groups(&context.client);
    finalizer(&api, "vm.codeconnect.vmworld.com/cleanup", group, |event| async {
        match event {
            Finalizer::Apply(group) => {
                let status = json!({
                    "apiVersion": format!("{GROUP}/v1alpha1"), "kind": "VmGroup",
                    "metadata": {"name": group.name_any()},
                    "status": {
                        "phase": "RUNNING",
                        "currentReplicas": group.data["spec"]["replicas"],
                        "conditions": [{"type": "Ready", "status": "True", "reason": "AllRunning"}],
                    },
                });
                api.patch_status(&group.name_any(), &PatchParams::apply("vmgroup").force(), &Patch::Apply(status))
                    .await
                    .map_err(|_| Failed)?;
                let event = Event {
                    type_: EventType::Normal,
                    reason: "Scaled".to_owned(),
                    note: Some("as wanted".to_owned()),
                    action: "Scale".to_owned(),
                    secondary: None,
                };
                context.recorder.publish(&event, &group.object_ref(&resource())).await.map_err(|_| Failed)?;
                Ok(Action::requeue(Duration::from_mins(5)))
            }
            Finalizer::Cleanup(group) => {
                context.cleaned.lock().unwrap().push(group.name_any());
                Ok(Action::await_change())
            }
        }
    })
    .await
    .map_err(|_: kube::runtime::finalizer::Error<Failed>| Failed)
}

struct Context {
    client: kube::Client,
    recorder: Recorder,
    passes: AtomicU32,
    cleaned: Mutex<Vec<String>>,
}

fn run(sim: &KubeSim) -> (Arc<Context>, tokio::task::JoinHandle<()>) {
    let client = client(sim);
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), "vmgroup".into()),
        client: client.clone(),
        passes: AtomicU32::new(0),
        cleaned: Mutex::default(),
    });
    let api = Api::<DynamicObject>::all_with(client, &resource());
    let controller = Controller::new_with(api, watcher::Config::default(), resource())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_secs(5)), context.clone())
        .for_each(|_| std::future::ready(()));
    (context, tokio::spawn(controller))
}

fn replicas(sim: &KubeSim) -> Value {
    sim.get("vmgroups", Some("default"), "sample").unwrap_or_default()["status"]["currentReplicas"].clone()
}

async fn until(sim: &KubeSim, look: impl Fn(&KubeSim) -> bool) {
    let found = sim.wait_for(Duration::from_hours(1), |s| look(s).then_some(())).await;
    assert!(found.is_some(), "not within an hour of simulated time");
}

#[tokio::test(start_paused = true)]
async fn a_controller_lives_here_for_a_day() {
    let sim = server();
    let (context, task) = run(&sim);
    sim.apply(group("sample")).unwrap();
    until(&sim, |s| replicas(s) == 3).await;
    sim.patch_spec("vmgroups", Some("default"), "sample", json!({"replicas": 7})).unwrap();
    until(&sim, |s| replicas(s) == 7).await;
    until(&sim, |s| !s.list("events", Some("default")).is_empty()).await;

    tokio::time::sleep(Duration::from_mins(1)).await;
    let (version, passes) = (sim.version(), context.passes.load(Ordering::Relaxed));
    tokio::time::sleep(Duration::from_hours(24)).await;
    assert!(context.passes.load(Ordering::Relaxed) >= passes + 24 * 12 - 1);
    let changed: Vec<_> = sim.list("vmgroups", None);
    assert!(
        changed[0]["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() <= version,
        "applying the same status again changes nothing"
    );

    sim.delete("vmgroups", Some("default"), "sample").unwrap();
    until(&sim, |s| s.get("vmgroups", Some("default"), "sample").is_none()).await;
    assert_eq!(*context.cleaned.lock().unwrap(), ["sample"]);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn l11_the_controller_outlives_every_fault() {
    let sim = server();
    let (_context, task) = run(&sim);
    sim.apply(group("sample")).unwrap();
    until(&sim, |s| replicas(s) == 3).await;
    let faults: [&dyn Fn(&KubeSim); 6] = [
        &|s| s.drop_watches(),
        &|s| {
            s.expire_history();
            s.drop_watches();
        },
        &|s| s.faults().add(Rule::next("PATCH vmgroups/status", Fault::LoseReply)),
        &|s| s.faults().add(Rule::next("PATCH vmgroups/status", Fault::Error("409".into()))),
        &|s| {
            s.faults().add(Rule::next("WATCH vmgroups", Fault::Error("503".into())));
            s.drop_watches();
        },
        &|s| s.faults().add(Rule::next("*", Fault::Delay(Duration::from_secs(30)))),
    ];
    for (n, fault) in (10..).zip(faults) {
        fault(&sim);
        sim.patch_spec("vmgroups", Some("default"), "sample", json!({"replicas": n})).unwrap();
        until(&sim, |s| replicas(s) == n).await;
    }
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn the_crd_may_come_late() {
    let sim = bare();
    let (_context, task) = run(&sim);
    tokio::time::sleep(Duration::from_secs(30)).await;
    sim.apply(crd()).unwrap();
    sim.apply(group("sample")).unwrap();
    until(&sim, |s| replicas(s) == 3).await;
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() {
    async fn story() -> Vec<Value> {
        let sim = server();
        let (_context, task) = run(&sim);
        // One object: with several, kube-runtime's scheduler takes them in the
        // order of a randomly seeded hash map.
        sim.apply(group("sample")).unwrap();
        sim.faults().add(Rule { on: "*".into(), skip: 9, times: 3, fault: Fault::LoseReply });
        tokio::time::sleep(Duration::from_mins(10)).await;
        task.abort();
        let mut all = sim.list("vmgroups", None);
        all.extend(sim.list("events", None));
        all.push(json!(sim.version()));
        all
    }
    let strip = |mut all: Vec<Value>| {
        for object in &mut all {
            // The Recorder names events by the system's clock and randomness,
            // which are the client's.
            if let Some(event) = object.as_object_mut().filter(|o| o.contains_key("note")) {
                event.remove("metadata");
                event.remove("eventTime");
                event.remove("series");
                event.remove("reportingInstance");
            }
        }
        all.sort_by_key(ToString::to_string);
        all
    };
    assert_eq!(strip(story().await), strip(story().await));
}

#[tokio::test(start_paused = true)]
async fn typed_kinds_and_streaming_lists() {
    let sim = server();
    let client = client(&sim);
    let maps = Api::<ConfigMap>::default_namespaced(client.clone());
    for i in 0..25 {
        sim.apply(config_map(&format!("c{i:02}"))).unwrap();
    }
    let page = maps.list(&ListParams::default().limit(10)).await.unwrap();
    assert_eq!(page.items.len(), 10);
    let all: Vec<_> = kube::runtime::watcher(maps.clone(), watcher::Config::default().streaming_lists())
        .applied_objects()
        .take(25)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(all.len(), 25);
    let metadata = maps.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(metadata.items.len(), 25);

    let leases = Api::<Lease>::default_namespaced(client.clone());
    let lease: Lease = serde_json::from_value(json!({
        "metadata": {"name": "leader"},
        "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15, "renewTime": "2027-01-15T08:00:00.123456Z"},
    }))
    .unwrap();
    let made = leases.create(&PostParams::default(), &lease).await.unwrap();
    leases.replace("leader", &PostParams::default(), &made).await.unwrap();
    let mut second = made.clone();
    second.spec.as_mut().unwrap().holder_identity = Some("other".into());
    leases.replace("leader", &PostParams::default(), &second).await.unwrap();
    let lost = leases.replace("leader", &PostParams::default(), &made).await.unwrap_err();
    assert!(matches!(lost, kube::Error::Api(status) if status.is_conflict()));

    maps.delete("c00", &DeleteParams::default()).await.unwrap();
    let gone = maps.get_opt("c00").await.unwrap();
    assert!(gone.is_none());
}

#[tokio::test(start_paused = true)]
async fn faults_hit_the_named_call() {
    let sim = server();
    let groups = groups(&client(&sim));
    let object: DynamicObject = serde_json::from_value(group("sample")).unwrap();
    sim.faults().add(Rule::next("CREATE vmgroups", Fault::Reset));
    groups.create(&PostParams::default(), &object).await.unwrap_err();
    assert!(sim.get("vmgroups", Some("default"), "sample").is_none());

    sim.faults().add(Rule::next("CREATE vmgroups", Fault::LoseReply));
    groups.create(&PostParams::default(), &object).await.unwrap_err();
    assert!(sim.get("vmgroups", Some("default"), "sample").is_some());

    sim.faults().set_down(true);
    groups.get("sample").await.unwrap_err();
    sim.faults().set_down(false);
    groups.get("sample").await.unwrap();
    assert_eq!(sim.faults().calls()["CREATE vmgroups"], 2);
    assert_eq!(sim.writes(), 1);
}

#[tokio::test]
async fn over_tls_with_a_token() {
    let sim = server();
    sim.require_token(Some("secret"));
    let (identity, ca) = TlsIdentity::self_signed(&[]).unwrap();
    let server = serve(sim.service(), Some(&identity)).await.unwrap();
    let yaml = vmgroup_sim::serve::kubeconfig_with(server.addr, Some(&ca), Some("secret"));
    let config: kube::config::Kubeconfig = serde_saphyr::from_str(&yaml).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default()).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let groups = groups(&client);
    let object: DynamicObject = serde_json::from_value(group("sample")).unwrap();
    groups.create(&PostParams::default(), &object).await.unwrap();
    let seen = kube::runtime::wait::await_condition(groups.clone(), "sample", |o: Option<&DynamicObject>| {
        o.is_some_and(|o| o.metadata.deletion_timestamp.is_some() || o.data["status"]["phase"] == "RUNNING")
    });
    sim.set_status("vmgroups", Some("default"), "sample", json!({"phase": "RUNNING"})).unwrap();
    tokio::time::timeout(Duration::from_secs(20), seen).await.unwrap().unwrap();

    sim.faults().add(Rule::next("PATCH vmgroups", Fault::LoseReply));
    let patch = Patch::Merge(json!({"spec": {"cpu": 8}}));
    groups.patch("sample", &PatchParams::default(), &patch).await.unwrap_err();
    assert_eq!(groups.get("sample").await.unwrap().data["spec"]["cpu"], 8);

    drop(server);
    groups.get("sample").await.unwrap_err();
}

//! The client against the simulated vCenter, in-process with time paused: what
//! goes wrong, and that nothing is lost by it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bad_line;
mod common;
mod simulated;
mod stories;

use std::sync::Arc;
use std::time::Duration;

use bad_line::on_a_bad_line;
use common::{KEY, Seen, clone_spec, follow, selection, until};
use simulated::{client, credentials, simulated};
use vmgroup_sim::faults::{Fault, Rule};
use vmgroup_sim::vcenter::{TaskDurations, VcenterConfig};
use vmgroup_vsphere::{
    Category, Error, Event, FaultKind, HostState, Maintenance, PowerState, TaskState, Template, Vcenter,
};

const TEMPLATE: &str = "vm-operator-template";
const ROOT: &str = "/DC0/vm/vm-operator";
const UUID: &str = "5035aa10-0000-4000-8000-0000000000bb";

async fn template(vcenter: &Vcenter, site: &vmgroup_vsphere::Site) -> Template {
    vcenter.find_template(site, TEMPLATE).await.unwrap()
}

fn lost(seen: &Seen) -> usize {
    seen.events().iter().filter(|event| matches!(event, Event::Lost { .. })).count()
}

#[tokio::test(start_paused = true)]
async fn a_machine_lives() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    stories::life_of_a_machine(&vcenter, TEMPLATE, "ns-100%/web", "web/0").await;
    vcenter.logout().await;
    assert_eq!(sim.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_site_that_is_none_is_told() {
    let (_sim, vcenter) = simulated(VcenterConfig::default());
    stories::sites_that_are_not(&vcenter, TEMPLATE).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_several_is_never_guessed() {
    let (sim, vcenter) =
        simulated(VcenterConfig { datacenters: 2, clusters: 2, datastores: 2, ..VcenterConfig::default() });
    let mut asked = vmgroup_vsphere::SiteSelection::default();
    for (what, name) in [("datacenter", "DC0"), ("resource pool or cluster", "DC0_C1"), ("datastore", "LocalDS_1")] {
        let error = vcenter.resolve_site(&asked).await.unwrap_err();
        let Error::Ambiguous { what: told, candidates, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(*told, what);
        assert_eq!(candidates.len(), 2, "{error}");
        match what {
            "datacenter" => asked.datacenter = Some(name.to_owned()),
            "datastore" => asked.datastore = Some(name.to_owned()),
            _ => asked.pool_or_cluster = Some(name.to_owned()),
        }
    }
    let site = vcenter.resolve_site(&asked).await.unwrap();
    assert_eq!(site.datastores.len(), 1);
    asked.pool_or_cluster = Some("*".to_owned());
    asked.datastore = Some("LocalDS_0, LocalDS_1".to_owned());
    let site = vcenter.resolve_site(&asked).await.unwrap();
    assert_eq!((site.clusters.len(), site.datastores.len()), (2, 2));
    let capacity = vcenter.capacity(&site).await.unwrap();
    assert_eq!(capacity.clusters.len(), 2);
    assert_eq!(capacity.hosts.len(), 6);
    assert!(capacity.hosts.iter().any(|host| host.cluster == 1));

    sim.add_template(ROOT, TEMPLATE).unwrap();
    let error = vcenter.find_template(&site, TEMPLATE).await.unwrap_err();
    let Error::Ambiguous { candidates, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(candidates, &["/DC0/vm/vm-operator-template", "/DC0/vm/vm-operator/vm-operator-template"]);
}

#[tokio::test(start_paused = true)]
async fn capacity_tells_of_maintenance_and_attributes() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    sim.set_maintenance("DC0_C0_H1", true).unwrap();
    sim.set_connected("DC0_C0_H2", false).unwrap();
    sim.set_host_attribute("DC0_C0_H0", "rack", "r7").unwrap();
    let capacity = vcenter.capacity(&site).await.unwrap();
    let states: Vec<HostState> = capacity.hosts.iter().map(|host| host.state).collect();
    assert_eq!(states, [HostState::InService, HostState::InMaintenance, HostState::Unreachable]);
    assert_eq!(capacity.hosts[0].attributes["rack"], "r7");
    assert!(capacity.clusters[0].drs);
    assert_eq!(capacity.datastores[0].kind.as_deref(), Some("VMFS"));
    assert_eq!(capacity.datastores[0].uncommitted_mib, Some(0));
}

#[tokio::test(start_paused = true)]
async fn capacity_tells_who_is_on_the_way_into_maintenance() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    let states = async || -> Vec<HostState> {
        let capacity = vcenter.capacity(&site).await.unwrap();
        capacity.hosts.iter().map(|host| host.state).collect()
    };
    // Nobody moves away who is on it.
    sim.set_drs(true, false);
    sim.add_vm(ROOT, "somebody", &[]).unwrap();
    sim.migrate(&format!("{ROOT}/somebody"), "DC0_C0_H1").unwrap();
    sim.enter_maintenance("DC0_C0_H1").unwrap();
    sim.set_quarantine("DC0_C0_H2", true).unwrap();
    sim.set_cluster_attribute("DC0_C0", "hall", "north").unwrap();
    assert_eq!(states().await, [HostState::InService, HostState::EnteringMaintenance, HostState::Quarantined]);
    assert_eq!(vcenter.capacity(&site).await.unwrap().clusters[0].attributes["hall"], "north");
    // It was called off: the task is over, and is still listed.
    sim.set_maintenance("DC0_C0_H1", false).unwrap();
    sim.set_quarantine("DC0_C0_H2", false).unwrap();
    assert_eq!(states().await, [HostState::InService; 3]);
    sim.enter_maintenance("DC0_C0_H1").unwrap();
    assert_eq!(states().await[1], HostState::EnteringMaintenance);
    sim.power_off(&format!("{ROOT}/somebody")).unwrap();
    assert_eq!(states().await[1], HostState::InMaintenance);
}

/// What only hosts out of service have is no place for anybody.
#[tokio::test(start_paused = true)]
async fn a_datastore_of_a_host_out_of_service_cannot_be_used() {
    let (sim, vcenter) = simulated(VcenterConfig { datastores: 2, ..VcenterConfig::default() });
    let asked = vmgroup_vsphere::SiteSelection { datastore: Some("LocalDS_0, LocalDS_1".to_owned()), ..selection() };
    let site = vcenter.resolve_site(&asked).await.unwrap();
    let usable = async || -> Vec<bool> {
        let capacity = vcenter.capacity(&site).await.unwrap();
        capacity.datastores.iter().map(|datastore| datastore.usable).collect()
    };
    sim.set_mounts("LocalDS_1", &["DC0_C0_H1"]).unwrap();
    assert_eq!(usable().await, [true, true]);
    sim.set_maintenance("DC0_C0_H1", true).unwrap();
    assert_eq!(usable().await, [true, false]);
    sim.set_mounts("LocalDS_1", &["DC0_C0_H0", "DC0_C0_H1"]).unwrap();
    assert_eq!(usable().await, [true, true]);
}

#[tokio::test(start_paused = true)]
async fn l2_at_rest_there_is_only_the_long_poll() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    let seen = Seen::new();
    let _watch = vcenter.start_watch(&site, seen.clone());
    seen.synced().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    sim.faults().reset_calls();
    tokio::time::sleep(Duration::from_hours(4)).await;
    let calls = sim.faults().calls();
    assert_eq!(calls.keys().collect::<Vec<_>>(), ["WaitForUpdatesEx"]);
    assert!(calls["WaitForUpdatesEx"] <= 48, "{calls:?}");
    assert_eq!(sim.logins(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_surely_did_not_happen_is_sent_once_more() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    let spec = clone_spec(&site, &template(&vcenter, &site).await, "web-0", UUID);
    sim.terminate_sessions();
    vcenter.clone_vm(&spec).await.unwrap();
    until("the clone is there", || sim.vm(&format!("{ROOT}/web-0")).is_some()).await;
    assert_eq!(sim.tasks().len(), 1);
    assert_eq!(sim.faults().calls()["CloneVM_Task"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_reply_is_lost_is_not_sent_again() {
    for (fault, took_effect) in [
        (Fault::LoseReply, true),
        (Fault::Reset, false),
        (Fault::Error("503".to_owned()), false),
        (Fault::Delay(Duration::from_secs(90)), true),
    ] {
        let (sim, vcenter) = simulated(VcenterConfig::default());
        let site = vcenter.resolve_site(&selection()).await.unwrap();
        let spec = clone_spec(&site, &template(&vcenter, &site).await, "web-0", UUID);
        sim.faults().add(Rule::next("CloneVM_Task", fault.clone()));
        let error = vcenter.clone_vm(&spec).await.unwrap_err();
        assert!(error.outcome_unknown(), "{fault:?}: {error:?}");
        assert_eq!(error.category(), Category::Transient);
        assert_eq!(sim.faults().calls()["CloneVM_Task"], 1, "{fault:?}");
        tokio::time::sleep(Duration::from_mins(5)).await;
        let found = vcenter.find_by_uuid(UUID).await.unwrap();
        assert_eq!(found.len(), usize::from(took_effect), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_never_went_out_has_no_unknown_outcome() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    sim.terminate_sessions();
    sim.faults().add(Rule::every("Login", Fault::Error("503".to_owned())));
    let error = vcenter.create_folder(&site.root_folder, "one").await.unwrap_err();
    assert!(matches!(error, Error::Session { .. }), "{error:?}");
    assert!(!error.outcome_unknown());
    assert_eq!(error.category(), Category::Transient);
}

/// Everything that is logged in this thread, however fine.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn s9_no_secret_in_the_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (sim, _) = simulated(VcenterConfig::default());
    for password in ["hunter2", "pass"] {
        sim.set_password("hunter3");
        let vcenter = client(&sim, |options| options.credentials = credentials(password));
        let error = vcenter.connect().await.unwrap_err();
        tracing::error!(?error, %error, ?vcenter, "as the operator would log it");
        vcenter.set_credentials(credentials("hunter3"));
        vcenter.connect().await.unwrap();
    }
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("Login"), "the log is not empty: {text}");
    for secret in ["hunter", "vmware_soap_session"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn l5_what_changed_during_an_outage_is_told_after_it() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    sim.add_folder(ROOT, "old").unwrap();
    sim.add_vm(ROOT, "goes", &[(KEY, "a")]).unwrap();
    sim.add_vm(ROOT, "changes", &[(KEY, "a")]).unwrap();
    sim.add_vm(ROOT, "stays", &[(KEY, "a")]).unwrap();
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    let seen = Seen::new();
    let watch = vcenter.start_watch(&site, seen.clone());
    seen.synced().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = seen.events().len();

    sim.set_down(true);
    seen.find("Lost", |event| matches!(event, Event::Lost { .. }).then_some(())).await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert!(watch.inventory().age().unwrap() >= Duration::from_mins(10));
    sim.destroy(&format!("{ROOT}/goes")).unwrap();
    sim.destroy_folder(&format!("{ROOT}/old")).unwrap();
    sim.power_off(&format!("{ROOT}/changes")).unwrap();
    sim.add_vm(ROOT, "comes", &[(KEY, "b")]).unwrap();
    sim.set_down(false);
    seen.find("Restored", |event| matches!(event, Event::Restored).then_some(())).await;

    let mut told: Vec<String> = seen.events()[before..]
        .iter()
        .map(|event| match event {
            Event::VmChanged { vm, was } => format!("{} {}", vm.name, was.is_some()),
            Event::VmGone(vm) => format!("{} gone", vm.name),
            Event::FolderGone(folder) => format!("{} gone", folder.name),
            Event::Lost { .. } => "lost".to_owned(),
            Event::Restored => "restored".to_owned(),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(told.pop().as_deref(), Some("restored"));
    assert_eq!(told.remove(0), "lost");
    told.sort();
    assert_eq!(told, ["changes true", "comes false", "goes gone", "old gone"]);
    assert_eq!(watch.inventory().indexed("a").len(), 2);
    assert_eq!(sim.sessions(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_vcenter_at_the_start_is_told_and_waited_for() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    sim.set_down(true);
    let seen = Seen::new();
    let watch = vcenter.start_watch(&site, seen.clone());
    seen.find("Lost", |event| matches!(event, Event::Lost { .. }).then_some(())).await;
    assert!(!watch.inventory().synced());
    sim.faults().reset_calls();
    tokio::time::sleep(Duration::from_mins(10)).await;
    let tried: u64 = sim.faults().calls().values().sum();
    assert!((15..=60).contains(&tried), "{tried} in ten minutes");
    sim.set_down(false);
    seen.synced().await;
    assert_eq!(lost(&seen), 1);
}

/// A rebuild is a dozen calls and more, so on such a line hardly one would come
/// through as a whole.
#[tokio::test(start_paused = true)]
async fn l10_on_a_line_that_loses_every_eighth_call_news_still_come_soon() {
    let (sim, vcenter, line) = on_a_bad_line(VcenterConfig { page_size: 50, ..VcenterConfig::default() });
    for n in 0..333 {
        sim.add_vm(ROOT, &format!("vm-{n}"), &[(KEY, "a")]).unwrap();
    }
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    let seen = Seen::new();
    let watch = vcenter.start_watch(&site, seen.clone());
    seen.synced().await;
    line.loses(120);
    for n in 0..50 {
        let name = format!("new-{n}");
        sim.add_vm(ROOT, &name, &[(KEY, "b")]).unwrap();
        let told = seen.vm("the new machine", |vm| vm.name == name);
        assert!(tokio::time::timeout(Duration::from_secs(10), told).await.is_ok(), "{name} is not seen");
        sim.destroy(&format!("{ROOT}/vm-{n}")).unwrap();
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    line.loses(0);
    until("nobody is missed and nobody is left over", || {
        watch.inventory().indexed("a").len() == 283 && watch.inventory().indexed("b").len() == 50
    })
    .await;
    drop(watch);
    vcenter.logout().await;
    assert_eq!(sim.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_moves_out_is_gone_and_one_that_moves_in_is_new() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    sim.add_folder("/DC0/vm", "elsewhere").unwrap();
    sim.add_vm(ROOT, "out", &[]).unwrap();
    sim.add_vm("/DC0/vm/elsewhere", "in", &[]).unwrap();
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    let seen = Seen::new();
    let watch = vcenter.start_watch(&site, seen.clone());
    seen.synced().await;
    assert_eq!(watch.inventory().len(), 1);
    sim.move_to(&format!("{ROOT}/out"), "/DC0/vm/elsewhere").unwrap();
    seen.find("out is gone", |event| match event {
        Event::VmGone(vm) if vm.name == "out" => Some(()),
        _ => None,
    })
    .await;
    sim.move_to("/DC0/vm/elsewhere/in", ROOT).unwrap();
    seen.vm("in is here", |vm| vm.name == "in").await;
    sim.rename(&format!("{ROOT}/in"), "a/b").unwrap();
    seen.vm("its new name", |vm| vm.name == "a/b").await;
    sim.set_extra(&format!("{ROOT}/a%2fb"), KEY, "stolen").unwrap();
    seen.vm("its mark", |vm| vm.extra.get(KEY).is_some_and(|mark| mark == "stolen")).await;
    assert_eq!(watch.inventory().indexed("stolen").len(), 1);
    sim.set_extra(&format!("{ROOT}/a%2fb"), KEY, "").unwrap();
    until("the mark is off the index", || watch.inventory().indexed("stolen").is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn tasks_fail_get_lost_and_survive_a_lost_session() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    let template = template(&vcenter, &site).await;
    let seen = Seen::new();
    let watch = vcenter.start_watch(&site, seen.clone());
    seen.synced().await;
    let spec = |n: usize| clone_spec(&site, &template, &format!("web-{n}"), &format!("{UUID}{n}"));

    sim.faults().add(Rule::next("CloneVM_Task", Fault::FailTask("InsufficientResourcesFault".to_owned())));
    let info = follow(&watch, &seen, vcenter.clone_vm(&spec(1)).await.unwrap()).await;
    let TaskState::Error(fault) = &info.state else {
        panic!("{info:?}");
    };
    assert_eq!(fault.kind.category(), Category::Capacity);

    sim.faults().add(Rule::next("CloneVM_Task", Fault::LoseTask));
    let task = vcenter.clone_vm(&spec(2)).await.unwrap();
    watch.track(task.clone(), None);
    seen.find("the lost task", |event| match event {
        Event::TaskGone(gone) if *gone == task => Some(()),
        _ => None,
    })
    .await;

    tokio::time::sleep(Duration::from_secs(5)).await;
    let task = vcenter.clone_vm(&spec(3)).await.unwrap();
    watch.track(task.clone(), None);
    tokio::time::sleep(Duration::from_millis(300)).await;
    sim.terminate_sessions();
    let info = seen.ended(&task).await;
    assert!(matches!(info.state, TaskState::Success { .. }), "{info:?}");

    // vCenter restarts and forgets its tasks; the work goes on.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let task = vcenter.clone_vm(&spec(4)).await.unwrap();
    watch.track(task.clone(), None);
    tokio::time::sleep(Duration::from_millis(300)).await;
    sim.restart(true);
    seen.find("the forgotten task", |event| match event {
        Event::TaskGone(gone) if *gone == task => Some(()),
        _ => None,
    })
    .await;
    seen.vm("its machine", |vm| vm.name == "web-4").await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_tasks_costs_few_calls() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    let template = template(&vcenter, &site).await;
    let seen = Seen::new();
    let watch = vcenter.start_watch(&site, seen.clone());
    seen.synced().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    sim.faults().reset_calls();
    for n in 0..40 {
        let spec = clone_spec(&site, &template, &format!("web-{n}"), &format!("{UUID}{n}"));
        watch.track(vcenter.clone_vm(&spec).await.unwrap(), None);
    }
    until("all clones are seen", || watch.inventory().len() == 40).await;
    let calls = sim.faults().calls();
    assert_eq!(calls["CloneVM_Task"], 40);
    assert!(calls["ModifyListView"] <= 2, "{calls:?}");
    assert!(calls.values().sum::<u64>() <= 80, "{calls:?}");
    assert!(!calls.contains_key("RetrievePropertiesEx"), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn many_machines_come_in_pages() {
    let (sim, vcenter) = simulated(VcenterConfig {
        page_size: 50,
        durations: TaskDurations::all(Duration::ZERO),
        ..VcenterConfig::default()
    });
    for n in 0..333 {
        let mark = if n % 3 == 0 { "a" } else { "b" };
        sim.add_vm(ROOT, &format!("vm-{n}"), &[(KEY, mark)]).unwrap();
    }
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    let seen = Seen::new();
    let watch = vcenter.start_watch(&site, seen.clone());
    seen.synced().await;
    assert_eq!(watch.inventory().len(), 333);
    assert_eq!(watch.inventory().indexed("a").len(), 111);
    assert_eq!(vcenter.list_marked(&site.root_folder, "b").await.unwrap().len(), 222);
    let listed = vcenter.list_folder(&site.root_folder).await.unwrap().unwrap();
    assert_eq!(listed.len(), 333);
    let refs: Vec<_> = watch.inventory().vms().iter().map(|vm| vm.id.clone()).collect();
    sim.destroy(&format!("{ROOT}/vm-7")).unwrap();
    assert_eq!(vcenter.usage(&refs).await.unwrap().len(), 332);
    let occupied = vcenter.occupied(&refs).await.unwrap();
    let sizes = occupied.values().map(|all| all.iter().map(|it| it.mib).collect::<Vec<_>>());
    assert_eq!(sizes.filter(|sizes| *sizes == [2048]).count(), 332);
    assert!(watch.inventory().vms().iter().all(|vm| vm.power == PowerState::On));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_tidies_up() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    let seen = Seen::new();
    let watch = vcenter.start_watch(&site, seen.clone());
    seen.synced().await;
    drop(watch);
    until("its collector and views are destroyed", || {
        let calls = sim.faults().calls();
        calls.get("DestroyPropertyCollector") == Some(&1) && calls.get("DestroyView") == Some(&2)
    })
    .await;
    sim.faults().reset_calls();
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(sim.faults().calls().is_empty(), "it has ended");
}

#[tokio::test(start_paused = true)]
async fn a_privilege_that_is_missing_is_told_by_type() {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    sim.faults().add(Rule::next("CreateFolder", Fault::Error("NoPermission".to_owned())));
    let error = vcenter.create_folder(&site.root_folder, "one").await.unwrap_err();
    assert!(matches!(error.fault(), Some(FaultKind::NoPermission { .. })), "{error:?}");
    assert_eq!(error.category(), Category::Permission);
    assert!(!error.outcome_unknown());
}

/// Hosts on their way into maintenance are told of, over an outage too; what changes of
/// hosts all the time is not.
#[tokio::test(start_paused = true)]
async fn the_watch_tells_which_hosts_leave() {
    let (sim, vcenter) = simulated(VcenterConfig { drs: false, ..VcenterConfig::default() });
    let path = format!("{ROOT}/somebody");
    sim.add_vm(ROOT, "somebody", &[(KEY, "a")]).unwrap();
    sim.migrate(&path, "DC0_C0_H1").unwrap();
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    let seen = Seen::new();
    let watch = vcenter.start_watch(&site, seen.clone());
    seen.synced().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    sim.faults().reset_calls();
    for mhz in 0..100 {
        sim.set_cpu_usage(&path, mhz).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(sim.faults().calls().values().sum::<u64>() <= 1, "L2: {:?}", sim.faults().calls());

    let told = async |wished: Option<Maintenance>, after: usize| {
        until("a host is told of", || {
            let events = seen.events();
            events[after..].iter().any(|event| matches!(event, Event::HostChanged(host) if host.maintenance == wished))
        })
        .await;
    };
    let before = seen.events().len();
    assert!(!watch.inventory().some_host_leaves());
    sim.enter_maintenance("DC0_C0_H1").unwrap();
    told(Some(Maintenance::Entering), before).await;
    let vm = watch.inventory().vms().into_iter().find(|vm| vm.name == "somebody").unwrap();
    let host = watch.inventory().host(vm.host.as_ref().unwrap()).unwrap();
    assert!(host.name == "DC0_C0_H1" && !host.drs.moves(&vm.id) && watch.inventory().some_host_leaves());
    assert_eq!(watch.inventory().on_host(&host.id), std::slice::from_ref(&vm));
    // Who moves its machines away is news as well.
    let before = seen.events().len();
    sim.set_drs(true, true);
    told(Some(Maintenance::Entering), before).await;
    assert!(watch.inventory().host(&host.id).unwrap().drs.moves(&vm.id));

    let before = seen.events().len();
    sim.set_down(true);
    seen.find("Lost", |event| matches!(event, Event::Lost { .. }).then_some(())).await;
    sim.set_maintenance("DC0_C0_H1", false).unwrap();
    sim.set_down(false);
    told(None, before).await;
    let before = seen.events().len();
    sim.power_off(&path).unwrap();
    sim.enter_maintenance("DC0_C0_H1").unwrap();
    told(Some(Maintenance::There), before).await;
}

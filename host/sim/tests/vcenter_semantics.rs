//! What the simulated vCenter's methods do to its world, seen over the wire.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are test code")]

mod vcenter_client;

use std::time::Duration;

use vcenter_client::{Client, Failure, Ref, fault_of, sim};
use vmgroup_sim::faults::{Fault, Rule};
use vmgroup_sim::vcenter::{TaskDurations, TaskState, VcenterConfig, WorldError};

const FOLDER: &str = "/DC0/vm/vm-operator";

fn manager(kind: &str) -> Ref {
    Ref::new(kind, kind)
}

fn kind(reply: Result<impl std::fmt::Debug, Failure>) -> String {
    reply.expect_err("a failure").kind().to_owned()
}

// ---- sessions -----------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn only_the_content_and_the_login_need_no_session() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::new(&sim);
    let content = client.call("RetrieveServiceContent", &manager("ServiceInstance"), "").await.unwrap();
    assert_eq!(content.text("returnval/about/apiType"), "VirtualCenter");
    assert_eq!(content.get("returnval/rootFolder").unwrap().ref_type.as_deref(), Some("Folder"));
    let refused = client.call("CurrentTime", &manager("ServiceInstance"), "").await;
    assert_eq!(kind(refused), "NotAuthenticated");
    assert_eq!(kind(client.login("user", "wrong").await), "InvalidLogin");
    let session = client.login("user", "pass").await.unwrap();
    assert_eq!(session.text("returnval/userName"), "user");
    let time = client.call("CurrentTime", &manager("ServiceInstance"), "").await.unwrap();
    assert_eq!(time.text("returnval"), "2023-11-14T22:13:20.000000Z");
    assert_eq!(kind(client.login("user", "pass").await), "InvalidLogin", "a live session");
    assert_eq!((sim.sessions(), sim.logins()), (1, 1));
    client.call("Logout", &manager("SessionManager"), "").await.unwrap();
    assert_eq!(sim.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn l10_a_session_ends_when_idle_and_takes_its_views_along() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    let view = client.call("CreateListView", &manager("ViewManager"), "").await.unwrap();
    let view = Ref::of(view.get("returnval").unwrap());
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_mins(20)).await;
        client.call("CurrentTime", &manager("ServiceInstance"), "").await.expect("kept alive");
    }
    tokio::time::sleep(Duration::from_mins(30)).await;
    assert_eq!(sim.sessions(), 0);
    let refused = client.call("CurrentTime", &manager("ServiceInstance"), "").await;
    assert_eq!(kind(refused), "NotAuthenticated");
    client.login("user", "pass").await.unwrap();
    assert_eq!(kind(client.call("DestroyView", &view, "").await), "ManagedObjectNotFound");
}

#[tokio::test(start_paused = true)]
async fn a_session_can_be_terminated_from_another_one() {
    let sim = sim(VcenterConfig::default());
    let mut victim = Client::new(&sim);
    let session = victim.login("user", "pass").await.unwrap();
    let key = format!("<sessionId>{}</sessionId>", session.text("returnval/key"));
    let own = victim.call("TerminateSession", &manager("SessionManager"), &key).await;
    assert_eq!(kind(own), "InvalidArgument");
    let mut other = Client::logged_in(&sim).await;
    other.call("TerminateSession", &manager("SessionManager"), &key).await.unwrap();
    let refused = victim.call("CurrentTime", &manager("ServiceInstance"), "").await;
    assert_eq!(kind(refused), "NotAuthenticated");
    let again = other.call("TerminateSession", &manager("SessionManager"), &key).await;
    assert_eq!(kind(again), "NotFound");
}

#[tokio::test(start_paused = true)]
async fn l10_a_new_password_counts_for_the_next_login() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    sim.set_password("rotated");
    client.call("CurrentTime", &manager("ServiceInstance"), "").await.expect("still valid");
    sim.terminate_sessions();
    assert_eq!(kind(client.login("user", "pass").await), "InvalidLogin");
    client.login("user", "rotated").await.expect("the new password");
}

#[tokio::test(start_paused = true)]
async fn too_many_sessions_make_it_unavailable() {
    let sim = sim(VcenterConfig { max_sessions: 2, ..VcenterConfig::default() });
    let _first = Client::logged_in(&sim).await;
    let _second = Client::logged_in(&sim).await;
    let refused = Client::new(&sim).login("user", "pass").await;
    assert_eq!(refused, Err(Failure::Status(http::StatusCode::SERVICE_UNAVAILABLE)));
}

// ---- clones -------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_clone_takes_its_time_and_has_what_was_asked_for() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    let store = client.must_find("/DC0/datastore/LocalDS_0").await;
    let free = |text: String| text.parse::<u64>().unwrap();
    let before = free(client.property(&store, "summary.freeSpace").await);
    let spec = "<template>false</template><config>\
        <annotation>a &lt;note&gt;</annotation>\
        <instanceUuid>52b5c4a2-0000-4000-8000-000000000001</instanceUuid>\
        <numCPUs>4</numCPUs><memoryMB>8192</memoryMB>\
        <managedBy><extensionKey>com.example</extensionKey><type>vm</type></managedBy>\
        <extraConfig xsi:type=\"OptionValue\"><key>vmgroup.uid</key>\
        <value xsi:type=\"xsd:string\">abc</value></extraConfig>\
        </config><powerOn>false</powerOn>";
    let task = client.start_clone(FOLDER, "web-0", spec).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let info = client.info(&task).await;
    assert_eq!((info.text("state"), info.text("progress")), ("running", "50"));
    assert_eq!(info.text("descriptionId"), "VirtualMachine.clone");
    assert_eq!(info.text("entityName"), "vm-operator-template");
    assert_eq!(info.get("reason").unwrap().xsi_type.as_deref(), Some("TaskReasonUser"));
    assert_eq!(sim.vm("/DC0/vm/vm-operator/web-0"), None, "not before its time");
    tokio::time::sleep(Duration::from_millis(400)).await;
    let info = client.info(&task).await;
    assert_eq!(info.text("state"), "success");
    let vm = Ref::of(info.get("result").unwrap());
    assert_eq!(info.get("result").unwrap().xsi_type.as_deref(), Some("ManagedObjectReference"));

    let view = sim.vm("/DC0/vm/vm-operator/web-0").expect("the clone");
    assert_eq!(view.moref, vm.1);
    assert_eq!((view.cpus, view.memory_mib, view.power_on, view.template), (4, 8_192, false, false));
    assert_eq!(view.extra.get("vmgroup.uid").map(String::as_str), Some("abc"));
    assert_eq!(view.instance_uuid, "52b5c4a2-0000-4000-8000-000000000001");
    assert_eq!(view.folder, FOLDER);
    assert_eq!(client.property(&vm, "config.annotation").await, "a <note>");
    assert_eq!(client.property(&vm, "config.managedBy.extensionKey").await, "com.example");
    let after = free(client.property(&store, "summary.freeSpace").await);
    assert_eq!(before - after, 2 << 30);
}

#[tokio::test(start_paused = true)]
async fn a_clone_of_a_template_needs_a_pool() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    let template = client.must_find("/DC0/vm/vm-operator-template").await;
    let folder = client.must_find(FOLDER).await;
    let body = format!("{}<name>x</name><spec><location/></spec>", folder.element("folder"));
    let refused = client.call("CloneVM_Task", &template, &body).await.unwrap_err();
    let Failure::Fault(kind, detail) = refused else { panic!("{refused:?}") };
    assert_eq!((kind.as_str(), detail.text("invalidProperty")), ("InvalidArgument", "spec.location.pool"));
}

#[tokio::test(start_paused = true)]
async fn s4_names_are_unique_in_a_folder_over_machines_and_folders() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    sim.add_folder(FOLDER, "taken").unwrap();
    let info = client.clone_vm(FOLDER, "taken", "").await;
    assert_eq!(fault_of(&info), "DuplicateName");
    assert_eq!(info.text("error/fault/name"), "taken");
    // Two at once: both begin, one ends well.
    let one = client.start_clone(FOLDER, "web-0", "").await.unwrap();
    let two = client.start_clone(FOLDER, "web-0", "").await.unwrap();
    assert_eq!(client.ended(&one).await.text("state"), "success");
    assert_eq!(fault_of(&client.ended(&two).await), "DuplicateName");
    let folder = client.must_find(FOLDER).await;
    let refused = client.call("CreateFolder", &folder, "<name>web-0</name>").await;
    assert_eq!(kind(refused), "DuplicateName");
    // The same name in another folder is another name.
    assert_eq!(client.clone_vm("/DC0/vm", "web-0", "").await.text("state"), "success");
    let vm = client.must_find("/DC0/vm/web-0").await;
    let info = client.run("Rename_Task", &vm, "<newName>vm-operator</newName>").await;
    assert_eq!(fault_of(&info), "DuplicateName");
    let list = format!("<list type=\"VirtualMachine\">{}</list>", vm.1);
    let info = client.run("MoveIntoFolder_Task", &folder, &list).await;
    assert_eq!(fault_of(&info), "DuplicateName");
    assert_eq!(sim.vms().iter().filter(|vm| vm.name == "web-0").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn names_have_limits_and_are_stored_escaped() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    let folder = client.must_find(FOLDER).await;
    for bad in ["", &"x".repeat(81)] {
        let refused = client.call("CreateFolder", &folder, &format!("<name>{bad}</name>")).await;
        assert_eq!(kind(refused), "InvalidName", "{bad}");
    }
    assert_eq!(fault_of(&client.clone_vm(FOLDER, &"x".repeat(81), "").await), "InvalidName");
    let long = format!("<name>{}</name>", "y".repeat(80));
    client.call("CreateFolder", &folder, &long).await.expect("80 characters");
    client.call("CreateFolder", &folder, "<name>a/b%2fc\\d%</name>").await.unwrap();
    assert!(sim.folders().contains(&"/DC0/vm/vm-operator/a%2fb%2fc%5cd%25".to_owned()));
    assert!(client.find("/DC0/vm/vm-operator/a%2fb%2fc%5cd%25").await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_taken_instance_uuid_is_replaced() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    let uuid = "52b5c4a2-0000-4000-8000-00000000000a";
    let spec = format!("<config><instanceUuid>{uuid}</instanceUuid></config>");
    client.clone_vm(FOLDER, "a", &spec).await;
    client.clone_vm(FOLDER, "b", &spec).await;
    let a = sim.vm("/DC0/vm/vm-operator/a").unwrap();
    let b = sim.vm("/DC0/vm/vm-operator/b").unwrap();
    assert_eq!(a.instance_uuid, uuid);
    assert_ne!(b.instance_uuid, uuid);
    let body =
        format!("<uuid>{}</uuid><vmSearch>true</vmSearch><instanceUuid>true</instanceUuid>", uuid.to_uppercase());
    let found = client.call("FindAllByUuid", &manager("SearchIndex"), &body).await.unwrap();
    let found: Vec<String> = found.all("returnval").map(|node| node.text.clone()).collect();
    assert_eq!(found, [a.moref]);
    // Gone with the machine.
    sim.destroy("/DC0/vm/vm-operator/a").unwrap();
    let found = client.call("FindAllByUuid", &manager("SearchIndex"), &body).await.unwrap();
    assert_eq!(found.all("returnval").count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_clone_does_not_happen() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    let task = client.start_clone(FOLDER, "web-0", "").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(client.info(&task).await.text("cancelable"), "true");
    client.call("CancelTask", &task, "").await.unwrap();
    let info = client.info(&task).await;
    assert_eq!(fault_of(&info), "RequestCanceled");
    assert_eq!(info.text("cancelled"), "true");
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(sim.vm("/DC0/vm/vm-operator/web-0"), None);
    assert_eq!(kind(client.call("CancelTask", &task, "").await), "InvalidState");
}

#[tokio::test(start_paused = true)]
async fn a_clone_with_power_on_spawns_a_task_of_its_own() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    let info = client.clone_vm(FOLDER, "web-0", "<powerOn>true</powerOn>").await;
    assert_eq!(info.text("state"), "success");
    assert!(!sim.vm("/DC0/vm/vm-operator/web-0").unwrap().power_on, "not yet");
    let tasks = sim.tasks();
    let second = tasks.last().unwrap();
    assert_eq!((second.method.as_str(), second.state), ("PowerOnVM_Task", TaskState::Running));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(sim.vm("/DC0/vm/vm-operator/web-0").unwrap().power_on);
}

#[tokio::test(start_paused = true)]
async fn clones_spread_over_hosts_and_shun_those_in_maintenance() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    // The template is on H0.
    sim.set_maintenance("DC0_C0_H1", true).unwrap();
    for name in ["a", "b", "c"] {
        client.clone_vm(FOLDER, name, "").await;
    }
    let hosts: Vec<String> =
        ["a", "b", "c"].map(|name| sim.vm(&format!("{FOLDER}/{name}")).unwrap().host).into_iter().collect();
    assert_eq!(hosts, ["DC0_C0_H2", "DC0_C0_H0", "DC0_C0_H2"]);
}

// ---- faults -------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn the_fault_script_is_obeyed() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;

    sim.faults().add(Rule::next("CloneVM_Task", Fault::LoseReply));
    assert_eq!(client.start_clone(FOLDER, "lost", "").await, Err(Failure::Cut));
    sim.faults().add(Rule::next("CloneVM_Task", Fault::Reset));
    assert_eq!(client.start_clone(FOLDER, "reset", "").await, Err(Failure::Cut));
    sim.faults().add(Rule::next("CloneVM_Task", Fault::Error("503".to_owned())));
    let unavailable = client.start_clone(FOLDER, "unavailable", "").await;
    assert_eq!(unavailable, Err(Failure::Status(http::StatusCode::SERVICE_UNAVAILABLE)));
    sim.faults().add(Rule::next("CloneVM_Task", Fault::Error("NoPermission".to_owned())));
    assert_eq!(kind(client.start_clone(FOLDER, "denied", "").await), "NoPermission");

    sim.faults().add(Rule::next("CloneVM_Task", Fault::FailTask("NoDiskSpace".to_owned())));
    assert_eq!(fault_of(&client.clone_vm(FOLDER, "failed", "").await), "NoDiskSpace");
    sim.faults().add(Rule::next("CloneVM_Task", Fault::LoseTask));
    let task = client.start_clone(FOLDER, "forgotten", "").await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(kind(client.properties(&task, &["info"]).await), "ManagedObjectNotFound");

    for (name, later) in [("denied-and-done", 0), ("denied-and-late", 30)] {
        let denied = Fault::DenyTask { fault: "SystemError".to_owned(), later: Duration::from_secs(later) };
        sim.faults().add(Rule::next("CloneVM_Task", denied));
        assert_eq!(fault_of(&client.clone_vm(FOLDER, name, "").await), "SystemError");
    }

    let names = || -> Vec<String> { sim.vms().into_iter().filter(|vm| !vm.template).map(|vm| vm.name).collect() };
    assert_eq!(names(), ["lost", "forgotten", "denied-and-done"]);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(names(), ["lost", "forgotten", "denied-and-done", "denied-and-late"]);
    assert_eq!(sim.faults().calls()["CloneVM_Task"], 8);
}

#[tokio::test(start_paused = true)]
async fn somebody_cancels_what_can_be_cancelled() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    client.start_clone(FOLDER, "cancelled", "").await.unwrap();
    assert_eq!(sim.cancel_tasks(), 1);
    assert_eq!(sim.cancel_tasks(), 0);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(sim.vm("/DC0/vm/vm-operator/cancelled"), None);
    let tasks = sim.tasks();
    assert_eq!(tasks.last().and_then(|task| task.error.as_deref()), Some("RequestCanceled"));
}

#[tokio::test(start_paused = true)]
async fn a_delayed_call_takes_effect_though_its_client_gave_up() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    sim.faults().add(Rule::next("CloneVM_Task", Fault::Delay(Duration::from_secs(10))));
    let call = client.start_clone(FOLDER, "late", "");
    assert!(tokio::time::timeout(Duration::from_secs(3), call).await.is_err());
    assert_eq!(sim.vm("/DC0/vm/vm-operator/late"), None);
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(sim.vm("/DC0/vm/vm-operator/late").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_can_show_in_the_missing_set() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    let folder = client.must_find(FOLDER).await;
    let fault = Fault::Error("missingSet:NotAuthenticated".to_owned());
    sim.faults().add(Rule::next("RetrievePropertiesEx", fault));
    let content = client.properties(&folder, &["name"]).await.expect("an answer");
    assert_eq!(content.property("name"), None);
    assert_eq!(content.text("missingSet/path"), "name");
    let fault = content.get("missingSet/fault/fault").unwrap();
    assert_eq!(fault.xsi_type.as_deref(), Some("NotAuthenticated"));
}

#[tokio::test(start_paused = true)]
async fn l10_a_restart_forgets_sessions_and_tasks() {
    for finish in [true, false] {
        let sim = sim(VcenterConfig::default());
        let mut client = Client::logged_in(&sim).await;
        let task = client.start_clone(FOLDER, "web-0", "").await.unwrap();
        sim.restart(finish);
        let refused = client.properties(&task, &["info"]).await;
        assert_eq!(kind(refused), "NotAuthenticated");
        client.login("user", "pass").await.unwrap();
        assert_eq!(kind(client.properties(&task, &["info"]).await), "ManagedObjectNotFound");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(sim.vm("/DC0/vm/vm-operator/web-0").is_some(), finish);
    }
}

#[tokio::test(start_paused = true)]
async fn tasks_are_remembered_for_ten_minutes() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    let task = client.start_clone(FOLDER, "web-0", "").await.unwrap();
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(client.info(&task).await.text("state"), "success");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(kind(client.properties(&task, &["info"]).await), "ManagedObjectNotFound");
    assert_eq!(sim.tasks(), []);
}

// ---- power, and what follows it -----------------------------------------

#[tokio::test(start_paused = true)]
async fn power_has_states_and_costs() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    let spec = "<config><numCPUs>2</numCPUs><memoryMB>4096</memoryMB></config>";
    client.clone_vm(FOLDER, "web-0", spec).await;
    let path = "/DC0/vm/vm-operator/web-0";
    let vm = client.must_find(path).await;
    let host = client.must_find(&format!("/DC0/host/DC0_C0/{}", sim.vm(path).unwrap().host)).await;
    assert_eq!(client.property(&host, "summary.quickStats.overallMemoryUsage").await, "0");

    let info = client.run("PowerOnVM_Task", &vm, "").await;
    assert_eq!(info.text("state"), "success");
    assert_eq!(client.property(&host, "summary.quickStats.overallMemoryUsage").await, "4144");
    sim.set_cpu_usage(path, 1_234).unwrap();
    assert_eq!(client.property(&host, "summary.quickStats.overallCpuUsage").await, "1234");
    assert_eq!(client.property(&vm, "summary.quickStats.overallCpuUsage").await, "1234");
    let pool = client.must_find("/DC0/host/DC0_C0/Resources").await;
    assert_eq!(client.property(&pool, "runtime.cpu.overallUsage").await, "1234");

    let again = client.run("PowerOnVM_Task", &vm, "").await;
    assert_eq!(fault_of(&again), "InvalidPowerState");
    assert_eq!(again.text("error/fault/requestedState"), "poweredOn");
    assert_eq!(again.text("error/fault/existingState"), "poweredOn");
    let refused = client.run("Destroy_Task", &vm, "").await;
    assert_eq!(fault_of(&refused), "InvalidPowerState");

    assert_eq!(client.run("PowerOffVM_Task", &vm, "").await.text("state"), "success");
    assert_eq!(client.property(&host, "summary.quickStats.overallMemoryUsage").await, "0");
    assert_eq!(client.run("Destroy_Task", &vm, "").await.text("state"), "success");
    assert_eq!(sim.vm(path), None);
    assert_eq!(kind(client.call("Destroy_Task", &vm, "").await), "ManagedObjectNotFound");
}

#[tokio::test(start_paused = true)]
async fn a_machine_does_one_thing_at_a_time() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    client.clone_vm(FOLDER, "web-0", "").await;
    let vm = client.must_find("/DC0/vm/vm-operator/web-0").await;
    let on = client.start("PowerOnVM_Task", &vm, "").await.unwrap();
    let destroy = client.start("Destroy_Task", &vm, "").await.unwrap();
    let refused = client.ended(&destroy).await;
    assert_eq!(fault_of(&refused), "TaskInProgress");
    assert_eq!(refused.text("error/fault/task"), on.1);
    assert_eq!(client.ended(&on).await.text("state"), "success");
    assert!(sim.vm("/DC0/vm/vm-operator/web-0").unwrap().power_on);
}

#[tokio::test(start_paused = true)]
async fn a_host_may_refuse_what_does_not_fit() {
    let config = VcenterConfig {
        hosts_per_cluster: 1,
        host_memory_mib: 4_096,
        memory_admission: true,
        ..VcenterConfig::default()
    };
    let sim = sim(config);
    let mut client = Client::logged_in(&sim).await;
    let spec = "<config><memoryMB>2048</memoryMB></config>";
    for name in ["a", "b"] {
        client.clone_vm(FOLDER, name, spec).await;
    }
    let a = client.must_find("/DC0/vm/vm-operator/a").await;
    let b = client.must_find("/DC0/vm/vm-operator/b").await;
    assert_eq!(client.run("PowerOnVM_Task", &a, "").await.text("state"), "success");
    let refused = client.run("PowerOnVM_Task", &b, "").await;
    assert_eq!(fault_of(&refused), "InsufficientMemoryResourcesFault");
    assert_eq!(refused.text("error/fault/requested"), (2_096_u64 << 20).to_string());
}

#[tokio::test(start_paused = true)]
async fn a_guest_shuts_down_if_it_can_and_will() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    sim.add_vm(FOLDER, "web-0", &[]).unwrap();
    let path = "/DC0/vm/vm-operator/web-0";
    let vm = client.must_find(path).await;
    assert_eq!(kind(client.call("ShutdownGuest", &vm, "").await), "ToolsUnavailable", "booting");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(client.property(&vm, "guest.toolsRunningStatus").await, "guestToolsRunning");
    client.call("ShutdownGuest", &vm, "").await.unwrap();
    assert!(sim.vm(path).unwrap().power_on, "it takes a while");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!sim.vm(path).unwrap().power_on);
    assert_eq!(kind(client.call("ShutdownGuest", &vm, "").await), "InvalidPowerState");

    sim.power_on(path).unwrap();
    sim.set_guest(path, true, false).unwrap();
    client.call("ShutdownGuest", &vm, "").await.unwrap();
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert!(sim.vm(path).unwrap().power_on, "it will not");
    sim.set_guest(path, false, true).unwrap();
    assert_eq!(kind(client.call("ShutdownGuest", &vm, "").await), "ToolsUnavailable");
}

#[tokio::test(start_paused = true)]
async fn a_running_machine_takes_no_new_cpu_or_memory() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    sim.add_vm(FOLDER, "web-0", &[("keep", "1"), ("drop", "1")]).unwrap();
    let path = "/DC0/vm/vm-operator/web-0";
    let vm = client.must_find(path).await;
    let cpu = client.run("ReconfigVM_Task", &vm, "<spec><numCPUs>2</numCPUs></spec>").await;
    assert_eq!(fault_of(&cpu), "CpuHotPlugNotSupported");
    let memory = client.run("ReconfigVM_Task", &vm, "<spec><memoryMB>2048</memoryMB></spec>").await;
    assert_eq!(fault_of(&memory), "MemoryHotPlugNotSupported");
    let extra = "<spec><extraConfig><key>drop</key><value/></extraConfig>\
                 <extraConfig><key>new</key><value>2</value></extraConfig></spec>";
    assert_eq!(client.run("ReconfigVM_Task", &vm, extra).await.text("state"), "success");
    let keys: Vec<String> = sim.vm(path).unwrap().extra.into_keys().collect();
    assert_eq!(keys, ["keep", "new"]);
    assert_eq!(client.property(&vm, "config.extraConfig[\"new\"].value").await, "2");
    let stale = "<spec><changeVersion>1</changeVersion><annotation>x</annotation></spec>";
    assert_eq!(fault_of(&client.run("ReconfigVM_Task", &vm, stale).await), "ConcurrentAccess");
    sim.power_off(path).unwrap();
    let both = "<spec><numCPUs>2</numCPUs><memoryMB>2048</memoryMB></spec>";
    assert_eq!(client.run("ReconfigVM_Task", &vm, both).await.text("state"), "success");
    let view = sim.vm(path).unwrap();
    assert_eq!((view.cpus, view.memory_mib), (2, 2_048));
}

// ---- folders ------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn destroying_a_folder_destroys_what_is_in_it_up_to_the_first_fault() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    sim.add_folder(FOLDER, "ns").unwrap();
    sim.add_folder("/DC0/vm/vm-operator/ns", "inner").unwrap();
    for (folder, name) in [("ns", "a"), ("ns", "b"), ("ns/inner", "c")] {
        sim.add_vm(&format!("{FOLDER}/{folder}"), name, &[]).unwrap();
    }
    let path = "/DC0/vm/vm-operator/ns";
    sim.power_off(&format!("{path}/a")).unwrap();
    let folder = client.must_find(path).await;
    let info = client.run("Destroy_Task", &folder, "").await;
    assert_eq!(fault_of(&info), "InvalidPowerState");
    let left: Vec<String> = sim.vms().into_iter().map(|vm| vm.name).collect();
    assert_eq!(left, ["vm-operator-template", "b", "c"]);
    sim.power_off(&format!("{path}/b")).unwrap();
    sim.power_off(&format!("{path}/inner/c")).unwrap();
    assert_eq!(client.run("Destroy_Task", &folder, "").await.text("state"), "success");
    assert_eq!(sim.vms().len(), 1);
    assert_eq!(sim.folders(), ["/DC0/vm", "/DC0/vm/vm-operator"]);
    let root = client.must_find("/DC0/vm").await;
    assert_eq!(kind(client.call("Destroy_Task", &root, "").await), "NotSupported");
}

#[tokio::test(start_paused = true)]
async fn a_hostile_second_client_meddles_at_once() {
    let sim = sim(VcenterConfig::default());
    sim.add_folder("/DC0/vm", "other").unwrap();
    sim.add_vm(FOLDER, "pet", &[("owner", "me")]).unwrap();
    sim.rename("/DC0/vm/vm-operator/pet", "dog").unwrap();
    sim.move_to("/DC0/vm/vm-operator/dog", "/DC0/vm/other").unwrap();
    sim.set_extra("/DC0/vm/other/dog", "owner", "you").unwrap();
    let view = sim.vm("/DC0/vm/other/dog").unwrap();
    assert!(view.power_on);
    assert_eq!(view.extra["owner"], "you");
    let twice = sim.add_vm("/DC0/vm/other", "dog", &[]);
    assert_eq!(twice, Err(WorldError::Refused("DuplicateName".to_owned())));
    let nowhere = sim.power_off("/DC0/vm/vm-operator/dog");
    assert_eq!(nowhere, Err(WorldError::NotFound("/DC0/vm/vm-operator/dog".to_owned())));
    sim.destroy_folder("/DC0/vm/other").unwrap();
    assert_eq!(sim.vms().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() {
    async fn story(seed: u64) -> String {
        let durations = TaskDurations::all(Duration::from_millis(70));
        let sim = sim(VcenterConfig { seed, durations, ..VcenterConfig::default() });
        let mut client = Client::logged_in(&sim).await;
        for name in ["a", "b", "c"] {
            client.start_clone(FOLDER, name, "<powerOn>true</powerOn>").await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let vm = client.must_find("/DC0/vm/vm-operator/b").await;
        let all = client.properties(&vm, &["config", "summary", "runtime", "guest"]).await.unwrap();
        format!("{:?} {:?} {all:?}", sim.vms(), sim.tasks())
    }
    assert_eq!(story(7).await, story(7).await);
    assert_ne!(story(7).await, story(8).await);
}

#[tokio::test(start_paused = true)]
async fn what_it_does_not_know_it_refuses() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    let folder = client.must_find(FOLDER).await;
    assert_eq!(kind(client.call("MakeCoffee", &folder, "").await), "InvalidRequest");
    assert_eq!(kind(client.call("PowerOnVM_Task", &folder, "").await), "NotSupported");
    let nobody = Ref::new("VirtualMachine", "vm-99999");
    let Err(Failure::Fault(kind, detail)) = client.call("PowerOnVM_Task", &nobody, "").await else {
        panic!("it exists?");
    };
    assert_eq!((kind.as_str(), detail.text("obj")), ("ManagedObjectNotFound", "vm-99999"));
}

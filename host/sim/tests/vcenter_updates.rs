//! The property collector: pages, filters, versions and the long poll, seen
//! over the wire.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are test code")]

mod vcenter_client;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use vcenter_client::{Client, Failure, Node, Ref, Reply, collector, path_set, sim};
use vmgroup_sim::faults::{Fault, Rule};
use vmgroup_sim::vcenter::{VcenterConfig, VcenterSim};

const FOLDER: &str = "/DC0/vm/vm-operator";

/// A view of all virtual machines under a path.
async fn container_view(client: &mut Client, path: &str) -> Ref {
    let container = client.must_find(path).await;
    let body = format!("{}<type>VirtualMachine</type><recursive>true</recursive>", container.element("container"));
    let views = Ref::new("ViewManager", "ViewManager");
    let reply = client.call("CreateContainerView", &views, &body).await.unwrap();
    Ref::of(reply.get("returnval").unwrap())
}

/// A filter spec over what a reference of `start` leads to.
fn spec(element: &str, kind: &str, paths: &[&str], start: &Ref, hop: &str) -> String {
    let paths = path_set(paths);
    format!(
        "<{element}><propSet><type>{kind}</type>{paths}</propSet><objectSet>{}<skip>true</skip>\
         <selectSet xsi:type=\"TraversalSpec\"><name>hop</name><type>{}</type><path>{hop}</path>\
         <skip>false</skip></selectSet></objectSet></{element}>",
        start.element("obj"),
        start.0,
    )
}

async fn filter(client: &mut Client, spec: &str) -> Ref {
    let body = format!("{spec}<partialUpdates>false</partialUpdates>");
    let reply = client.call("CreateFilter", &collector(), &body).await.unwrap();
    Ref::of(reply.get("returnval").unwrap())
}

/// A filter over the names and power states of all machines in [`FOLDER`].
async fn watch_vms(client: &mut Client) -> Ref {
    let view = container_view(client, FOLDER).await;
    let paths = ["name", "runtime.powerState"];
    filter(client, &spec("spec", "VirtualMachine", &paths, &view, "view")).await;
    view
}

async fn wait(client: &mut Client, version: &str, options: &str) -> Reply {
    let body = format!("<version>{version}</version><options>{options}</options>");
    client.call("WaitForUpdatesEx", &collector(), &body).await
}

const NOW: &str = "<maxWaitSeconds>0</maxWaitSeconds>";

/// What a watcher knows after an answer: name → power state.
type Known = BTreeMap<String, String>;

/// The kinds of an answer's object updates, and the version.
fn updates(reply: &Node) -> (String, Vec<(String, Node)>) {
    let set = reply.get("returnval").expect("an update set");
    let objects = set.all("filterSet").flat_map(|filter| filter.all("objectSet"));
    let objects = objects.map(|object| (object.text("kind").to_owned(), object.clone())).collect();
    (set.text("version").to_owned(), objects)
}

/// Follows the updates until there are no more; returns the last version.
async fn follow(client: &mut Client, mut version: String, known: &mut BTreeMap<Ref, Known>) -> String {
    loop {
        let reply = wait(client, &version, NOW).await.unwrap();
        if reply.get("returnval").is_none() {
            return version;
        }
        let (next, objects) = updates(&reply);
        version = next;
        for (kind, object) in objects {
            let moref = Ref::of(object.get("obj").unwrap());
            match kind.as_str() {
                "leave" => assert!(known.remove(&moref).is_some(), "left before it came"),
                "enter" => assert!(known.insert(moref.clone(), Known::new()).is_none(), "twice"),
                "modify" => assert!(known.contains_key(&moref), "changed before it came"),
                other => panic!("{other}"),
            }
            for change in object.all("changeSet") {
                assert_eq!(change.text("op"), "assign");
                let known = known.get_mut(&moref).expect("a change of what is there");
                known.insert(change.text("name").to_owned(), change.text("val").to_owned());
            }
        }
    }
}

fn states(known: &BTreeMap<Ref, Known>) -> BTreeMap<String, String> {
    let pairs = known.values().map(|k| (k["name"].clone(), k["runtime.powerState"].clone()));
    pairs.collect()
}

fn truth(sim: &VcenterSim) -> BTreeMap<String, String> {
    let state = |on| if on { "poweredOn" } else { "poweredOff" }.to_owned();
    sim.vms()
        .into_iter()
        .filter(|vm| vm.path.starts_with("/DC0/vm/vm-operator/"))
        .map(|vm| (vm.name, state(vm.power_on)))
        .collect()
}

// ---- retrieval ----------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn retrieval_comes_in_pages_of_the_servers_choice() {
    let sim = sim(VcenterConfig { page_size: 3, ..VcenterConfig::default() });
    let mut client = Client::logged_in(&sim).await;
    for index in 0..8 {
        sim.add_vm(FOLDER, &format!("vm-{index}"), &[]).unwrap();
    }
    let view = container_view(&mut client, FOLDER).await;
    let body = spec("specSet", "VirtualMachine", &["name"], &view, "view");
    let mut names = Vec::new();
    let first = client.call("RetrievePropertiesEx", &collector(), &body).await.unwrap();
    let mut page = first.get("returnval").unwrap().clone();
    let mut tokens = Vec::new();
    loop {
        let objects = page.all("objects").count();
        assert!(objects <= 3);
        names.extend(page.all("objects").map(|o| o.property("name").unwrap().text.clone()));
        let Some(token) = page.get("token").map(|token| token.text.clone()) else { break };
        let body = format!("<token>{token}</token>");
        tokens.push(body.clone());
        // What is gone by then is left out.
        if tokens.len() == 2 {
            sim.destroy("/DC0/vm/vm-operator/vm-7").unwrap();
        }
        let reply = client.call("ContinueRetrievePropertiesEx", &collector(), &body).await.unwrap();
        page = reply.get("returnval").unwrap().clone();
    }
    assert_eq!(names, ["vm-0", "vm-1", "vm-2", "vm-3", "vm-4", "vm-5", "vm-6"]);
    assert_eq!(tokens.len(), 2);
    let again = client.call("ContinueRetrievePropertiesEx", &collector(), &tokens[0]).await;
    assert_eq!(again.unwrap_err().kind(), "InvalidArgument", "a token serves once");
}

#[tokio::test(start_paused = true)]
async fn an_empty_selection_has_no_result() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    let view = container_view(&mut client, FOLDER).await;
    let body = spec("specSet", "VirtualMachine", &["name"], &view, "view");
    let reply = client.call("RetrievePropertiesEx", &collector(), &body).await.unwrap();
    assert_eq!(reply.children, []);
}

#[tokio::test(start_paused = true)]
async fn a_property_that_does_not_exist_is_refused_and_an_unset_one_left_out() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    sim.add_vm(FOLDER, "vm", &[]).unwrap();
    let vm = client.must_find("/DC0/vm/vm-operator/vm").await;
    for bad in ["nonsense", "runtime.nonsense", "config.hardware.nonsense"] {
        let Err(Failure::Fault(kind, detail)) = client.properties(&vm, &["name", bad]).await else {
            panic!("{bad} exists?");
        };
        assert_eq!((kind.as_str(), detail.text("name")), ("InvalidProperty", bad));
    }
    let content = client.properties(&vm, &["snapshot", "config.annotation", "name"]).await.unwrap();
    assert_eq!(content.all("propSet").count(), 1);
    assert_eq!(content.all("missingSet").count(), 0);
}

#[tokio::test(start_paused = true)]
async fn values_carry_their_types() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    sim.add_vm(FOLDER, "vm", &[("k", "v")]).unwrap();
    sim.set_host_attribute("DC0_C0_H0", "rack", "r1").unwrap();
    let vm = client.must_find("/DC0/vm/vm-operator/vm").await;
    let types = [
        ("name", "xsd:string"),
        ("config.template", "xsd:boolean"),
        ("config.hardware.numCPU", "xsd:int"),
        ("summary.storage.committed", "xsd:long"),
        ("config.createDate", "xsd:dateTime"),
        ("runtime.powerState", "VirtualMachinePowerState"),
        ("runtime.host", "ManagedObjectReference"),
        ("datastore", "ArrayOfManagedObjectReference"),
        ("config.extraConfig", "ArrayOfOptionValue"),
        ("config", "VirtualMachineConfigInfo"),
    ];
    let paths: Vec<&str> = types.iter().map(|(path, _)| *path).collect();
    let content = client.properties(&vm, &paths).await.unwrap();
    for (path, expected) in types {
        let value = content.property(path).unwrap_or_else(|| panic!("no {path}"));
        assert_eq!(value.xsi_type.as_deref(), Some(expected), "{path}");
    }
    let option = content.property("config.extraConfig").unwrap().get("OptionValue").unwrap();
    assert_eq!(option.get("value").unwrap().xsi_type.as_deref(), Some("xsd:string"));
    // The schema's order, base type first.
    let config = content.property("config").unwrap();
    let order: Vec<&str> = config.children.iter().map(|child| child.name.as_str()).collect();
    let at = |name: &str| order.iter().position(|n| *n == name).unwrap_or_else(|| panic!("{name}"));
    let sequence = ["changeVersion", "name", "uuid", "template", "files", "hardware", "extraConfig"];
    assert!(sequence.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{order:?}");

    let host = client.must_find("/DC0/host/DC0_C0/DC0_C0_H0").await;
    let content = client.properties(&host, &["customValue", "availableField"]).await.unwrap();
    let value = content.property("customValue").unwrap().get("CustomFieldValue").unwrap();
    assert_eq!(value.xsi_type.as_deref(), Some("CustomFieldStringValue"));
    assert_eq!(value.text("value"), "r1");
    let field = content.property("availableField").unwrap().get("CustomFieldDef").unwrap();
    assert_eq!((field.text("name"), field.text("key")), ("rack", value.text("key")));
}

// ---- updates ------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_watcher_knows_the_world() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    sim.add_vm(FOLDER, "a", &[]).unwrap();
    sim.add_folder("/DC0/vm", "elsewhere").unwrap();
    watch_vms(&mut client).await;
    let mut known = BTreeMap::new();
    let mut version = follow(&mut client, String::new(), &mut known).await;
    assert_eq!(states(&known), truth(&sim));

    let steps: [&dyn Fn(); 8] = [
        &|| sim.add_vm(FOLDER, "b", &[]).unwrap(),
        &|| sim.power_off("/DC0/vm/vm-operator/a").unwrap(),
        &|| sim.rename("/DC0/vm/vm-operator/a", "z").unwrap(),
        &|| sim.move_to("/DC0/vm/vm-operator/z", "/DC0/vm/elsewhere").unwrap(),
        &|| sim.add_folder(FOLDER, "inner").unwrap(),
        &|| sim.add_vm("/DC0/vm/vm-operator/inner", "c", &[]).unwrap(),
        &|| sim.destroy("/DC0/vm/vm-operator/b").unwrap(),
        // There and back, and gone again: of no interest.
        &|| {
            sim.move_to("/DC0/vm/elsewhere/z", FOLDER).unwrap();
            sim.move_to("/DC0/vm/vm-operator/z", "/DC0/vm/elsewhere").unwrap();
        },
    ];
    for (number, step) in steps.into_iter().enumerate() {
        step();
        version = follow(&mut client, version, &mut known).await;
        assert_eq!(states(&known), truth(&sim), "after step {number}");
    }
    // What a filter does not ask for is no news.
    sim.set_extra("/DC0/vm/vm-operator/inner/c", "k", "v").unwrap();
    assert_eq!(wait(&mut client, &version, NOW).await.unwrap().children, []);
}

#[tokio::test(start_paused = true)]
async fn l2_a_long_poll_ends_with_the_news_and_not_before() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    watch_vms(&mut client).await;
    let (version, _) = updates(&wait(&mut client, "", "").await.unwrap());
    let mut other = Client::logged_in(&sim).await;
    let begin = Instant::now();
    other.start_clone(FOLDER, "web-0", "").await.unwrap();
    let reply = wait(&mut client, &version, "").await.unwrap();
    assert_eq!(begin.elapsed(), Duration::from_secs(1), "when the clone was done");
    let (version, objects) = updates(&reply);
    assert_eq!(objects[0].1.property("name").unwrap().text, "web-0");
    // Nothing happens: an empty answer at the end of the time allowed, though
    // the session would have idled out meanwhile.
    let begin = Instant::now();
    let reply = wait(&mut client, &version, "<maxWaitSeconds>7200</maxWaitSeconds>").await.unwrap();
    assert_eq!(reply.children, []);
    assert_eq!(begin.elapsed(), Duration::from_hours(2));
    assert_eq!(sim.sessions(), 1, "the poll kept its own alive");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_can_be_asked_for_again() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    watch_vms(&mut client).await;
    let (first, _) = updates(&wait(&mut client, "", NOW).await.unwrap());
    sim.add_vm(FOLDER, "a", &[]).unwrap();
    sim.faults().add(Rule::next("WaitForUpdatesEx", Fault::LoseReply));
    assert_eq!(wait(&mut client, &first, NOW).await, Err(Failure::Cut));
    let (second, objects) = updates(&wait(&mut client, &first, NOW).await.unwrap());
    assert_eq!(objects.len(), 1);
    assert_eq!(objects[0].1.property("name").unwrap().text, "a");
    sim.add_vm(FOLDER, "b", &[]).unwrap();
    let (_, objects) = updates(&wait(&mut client, &second, NOW).await.unwrap());
    assert_eq!(objects.len(), 1);
    assert_eq!(objects[0].1.property("name").unwrap().text, "b");
}

#[tokio::test(start_paused = true)]
async fn versions_that_are_out_of_date_or_made_up_are_refused() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    watch_vms(&mut client).await;
    let (first, _) = updates(&wait(&mut client, "", NOW).await.unwrap());
    let mut version = first.clone();
    for name in ["a", "b"] {
        sim.add_vm(FOLDER, name, &[]).unwrap();
        (version, _) = updates(&wait(&mut client, &version, NOW).await.unwrap());
    }
    for bad in [first.as_str(), "99", "nonsense"] {
        let refused = wait(&mut client, bad, NOW).await.unwrap_err();
        assert_eq!(refused.kind(), "InvalidCollectorVersion", "{bad}");
    }
    assert_eq!(wait(&mut client, &version, NOW).await.unwrap().children, []);
    // From the beginning: everything once more.
    let (_, objects) = updates(&wait(&mut client, "", NOW).await.unwrap());
    let kinds: Vec<&str> = objects.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["enter", "enter"]);
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_is_truncated_and_goes_on() {
    let sim = sim(VcenterConfig { page_size: 4, ..VcenterConfig::default() });
    let mut client = Client::logged_in(&sim).await;
    for index in 0..10 {
        sim.add_vm(FOLDER, &format!("vm-{index}"), &[]).unwrap();
    }
    watch_vms(&mut client).await;
    let mut version = String::new();
    let mut seen = Vec::new();
    for (size, truncated) in [(3, "true"), (4, "true"), (3, "false")] {
        let most = if seen.is_empty() { 3 } else { 100 };
        let options = format!("{NOW}<maxObjectUpdates>{most}</maxObjectUpdates>");
        let reply = wait(&mut client, &version, &options).await.unwrap();
        assert_eq!(reply.text("returnval/truncated"), truncated);
        let (next, objects) = updates(&reply);
        assert_eq!(objects.len(), size);
        seen.extend(objects.into_iter().map(|(_, o)| o.property("name").unwrap().text.clone()));
        version = next;
    }
    assert_eq!(seen.len(), 10);
    assert_eq!(wait(&mut client, &version, NOW).await.unwrap().children, []);
}

#[tokio::test(start_paused = true)]
async fn a_blocked_poll_ends_when_it_is_cancelled_cut_or_without_session() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    watch_vms(&mut client).await;
    let (version, _) = updates(&wait(&mut client, "", NOW).await.unwrap());

    let poll = |client: &Client| {
        let (mut client, version) = (client.clone(), version.clone());
        tokio::spawn(async move { wait(&mut client, &version, "").await })
    };
    let blocked = poll(&client);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(!blocked.is_finished());
    client.call("CancelWaitForUpdates", &collector(), "").await.unwrap();
    assert_eq!(blocked.await.unwrap().unwrap_err().kind(), "RequestCanceled");

    let blocked = poll(&client);
    tokio::time::sleep(Duration::from_mins(1)).await;
    sim.cut_connections();
    assert_eq!(blocked.await.unwrap(), Err(Failure::Cut));

    let blocked = poll(&client);
    tokio::time::sleep(Duration::from_mins(1)).await;
    sim.terminate_sessions();
    assert_eq!(blocked.await.unwrap().unwrap_err().kind(), "NotAuthenticated");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_leaves_no_session_in_use() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    watch_vms(&mut client).await;
    let (version, _) = updates(&wait(&mut client, "", NOW).await.unwrap());
    let gave_up = timeout(Duration::from_mins(5), wait(&mut client, &version, "")).await;
    assert!(gave_up.is_err());
    tokio::time::sleep(Duration::from_mins(29)).await;
    assert_eq!(sim.sessions(), 1);
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(sim.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn tasks_are_followed_through_recent_task_and_through_a_list_view() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    let tasks = Ref::new("TaskManager", "TaskManager");
    let paths = ["info.state", "info.error", "info.result"];
    filter(&mut client, &spec("spec", "Task", &paths, &tasks, "recentTask")).await;
    let (version, _) = updates(&wait(&mut client, "", NOW).await.unwrap());
    let task = client.start_clone(FOLDER, "web-0", "").await.unwrap();
    let (version, objects) = updates(&wait(&mut client, &version, "").await.unwrap());
    assert_eq!(objects[0].0, "enter");
    assert_eq!(objects[0].1.property("info.state").unwrap().text, "running");
    let (_, objects) = updates(&wait(&mut client, &version, "").await.unwrap());
    assert_eq!(objects[0].0, "modify");
    assert_eq!(Ref::of(objects[0].1.get("obj").unwrap()), task);
    assert_eq!(objects[0].1.property("info.state").unwrap().text, "success");
    let vm = objects[0].1.property("info.result").unwrap();
    assert_eq!(vm.ref_type.as_deref(), Some("VirtualMachine"));

    // A collector of its own, with a list view.
    let own = client.call("CreatePropertyCollector", &collector(), "").await.unwrap();
    let own = Ref::of(own.get("returnval").unwrap());
    let views = Ref::new("ViewManager", "ViewManager");
    let view = client.call("CreateListView", &views, "").await.unwrap();
    let view = Ref::of(view.get("returnval").unwrap());
    let body = spec("spec", "Task", &["info.state"], &view, "view");
    client.call("CreateFilter", &own, &body).await.unwrap();
    let first = client.call("WaitForUpdatesEx", &own, "<version/>").await.unwrap();
    let (version, objects) = updates(&first);
    assert_eq!(objects, []);
    let task = client.start_clone(FOLDER, "web-1", "").await.unwrap();
    let gone = Ref::new("Task", "task-99999");
    let body = format!("{}{}", task.element("add"), gone.element("add"));
    let unresolved = client.call("ModifyListView", &view, &body).await.unwrap();
    assert_eq!(unresolved.text("returnval"), "task-99999");
    let mut version = version;
    let mut history = Vec::new();
    while history.len() < 2 {
        let body = format!("<version>{version}</version>");
        let (next, objects) = updates(&client.call("WaitForUpdatesEx", &own, &body).await.unwrap());
        version = next;
        history.extend(objects.iter().map(|(_, o)| o.property("info.state").unwrap().text.clone()));
    }
    assert_eq!(history, ["running", "success"]);
    // Forgotten tasks leave by themselves.
    tokio::time::sleep(Duration::from_mins(11)).await;
    let body = format!("<version>{version}</version>");
    let (_, objects) = updates(&client.call("WaitForUpdatesEx", &own, &body).await.unwrap());
    assert_eq!(objects[0].0, "leave");
    client.call("DestroyPropertyCollector", &own, "").await.unwrap();
    let refused = client.call("WaitForUpdatesEx", &own, "<version/>").await.unwrap_err();
    assert_eq!(refused.kind(), "ManagedObjectNotFound");
}

#[tokio::test(start_paused = true)]
async fn traversals_recurse_by_name_and_follow_moves() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    sim.add_folder(FOLDER, "ns").unwrap();
    sim.add_folder("/DC0/vm/vm-operator/ns", "inner").unwrap();
    sim.add_vm("/DC0/vm/vm-operator/ns/inner", "deep", &[]).unwrap();
    let start = client.must_find(FOLDER).await;
    let body = format!(
        "<spec><propSet><type>ManagedEntity</type><pathSet>name</pathSet></propSet>\
         <propSet><type>VirtualMachine</type><pathSet>runtime.powerState</pathSet></propSet>\
         <objectSet>{}<skip>false</skip>\
         <selectSet xsi:type=\"TraversalSpec\"><name>down</name><type>Folder</type>\
         <path>childEntity</path><skip>false</skip><selectSet><name>down</name></selectSet>\
         </selectSet></objectSet></spec>",
        start.element("obj")
    );
    filter(&mut client, &body).await;
    let (version, objects) = updates(&wait(&mut client, "", NOW).await.unwrap());
    let names = |objects: &[(String, Node)]| -> Vec<String> {
        let mut names: Vec<String> = objects
            .iter()
            .map(|(kind, o)| format!("{kind} {}", o.property("name").map_or("", |name| name.text.as_str())))
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&objects), ["enter deep", "enter inner", "enter ns", "enter vm-operator"]);
    sim.add_vm("/DC0/vm/vm-operator/ns", "new", &[]).unwrap();
    sim.destroy("/DC0/vm/vm-operator/ns/inner/deep").unwrap();
    let (_, objects) = updates(&wait(&mut client, &version, NOW).await.unwrap());
    assert_eq!(names(&objects), ["enter new", "leave "]);
}

#[tokio::test(start_paused = true)]
async fn the_numbers_of_what_carries_a_machine_follow_it() {
    let sim = sim(VcenterConfig::default());
    let mut client = Client::logged_in(&sim).await;
    let host = client.must_find("/DC0/host/DC0_C0/DC0_C0_H1").await;
    let store = client.must_find("/DC0/datastore/LocalDS_0").await;
    let cluster = client.must_find("/DC0/host/DC0_C0").await;
    let body = format!(
        "<spec><propSet><type>HostSystem</type><pathSet>summary.quickStats</pathSet>\
         <pathSet>runtime.inMaintenanceMode</pathSet></propSet>\
         <propSet><type>Datastore</type><pathSet>summary.freeSpace</pathSet></propSet>\
         <propSet><type>ComputeResource</type><pathSet>summary.usageSummary</pathSet>\
         <pathSet>configurationEx.drsConfig.enabled</pathSet></propSet>\
         <objectSet>{}</objectSet><objectSet>{}</objectSet><objectSet>{}</objectSet></spec>",
        host.element("obj"),
        store.element("obj"),
        cluster.element("obj"),
    );
    filter(&mut client, &body).await;
    let (version, objects) = updates(&wait(&mut client, "", NOW).await.unwrap());
    assert_eq!(objects.len(), 3);
    // H0 has the template, so the first machine goes to H1.
    sim.add_vm(FOLDER, "a", &[]).unwrap();
    let (version, objects) = updates(&wait(&mut client, &version, NOW).await.unwrap());
    let value = |kind: &str, property: &str, path: &str| -> String {
        let (_, object) = objects
            .iter()
            .find(|(_, o)| o.get("obj").unwrap().ref_type.as_deref() == Some(kind))
            .unwrap_or_else(|| panic!("no {kind} changed"));
        object.property(property).unwrap_or_else(|| panic!("no {property}")).text(path).to_owned()
    };
    assert_eq!(value("HostSystem", "summary.quickStats", "overallMemoryUsage"), "1072");
    assert_eq!(value("ClusterComputeResource", "summary.usageSummary", "totalVmCount"), "2", "with the template");
    assert_eq!(objects.len(), 3);
    sim.set_maintenance("DC0_C0_H1", true).unwrap();
    let (_, objects) = updates(&wait(&mut client, &version, NOW).await.unwrap());
    assert!(
        objects
            .iter()
            .any(|(_, o)| { o.property("runtime.inMaintenanceMode").is_some_and(|value| value.text == "true") })
    );
}

#[tokio::test(start_paused = true)]
async fn l15_one_change_among_ten_thousand_machines_is_one_update() {
    let sim = sim(VcenterConfig { page_size: 1_000, ..VcenterConfig::default() });
    let mut client = Client::logged_in(&sim).await;
    for index in 0..10_000 {
        sim.add_vm(FOLDER, &format!("vm-{index}"), &[]).unwrap();
    }
    watch_vms(&mut client).await;
    let mut known = BTreeMap::new();
    let mut version = follow(&mut client, String::new(), &mut known).await;
    assert_eq!(known.len(), 10_000);
    for index in 0..1_000 {
        sim.power_off(&format!("{FOLDER}/vm-{index}")).unwrap();
        let (next, objects) = updates(&wait(&mut client, &version, NOW).await.unwrap());
        assert_eq!(objects.len(), 1);
        assert_eq!(objects[0].1.property("runtime.powerState").unwrap().text, "poweredOff");
        version = next;
    }
}

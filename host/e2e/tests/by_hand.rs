//! `vmgroup orphans` and `vmgroup adopt`, beside a running operator.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::collections::BTreeSet;
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use vmgroup_e2e::sim::{PASSWORD, SimWorld, USER, host_of};
use vmgroup_e2e::world::{CONNECTIONS, Deed as Act, OPERATOR_NAMESPACE, Options, ROOT, TEMPLATE, User, VmView, World};
use vmgroup_operator::by_hand::Hand;
use vmgroup_operator::cli::Output;
use vmgroup_operator::cli::adopt::{self, AdoptError};
use vmgroup_operator::cli::orphans::{self, Deed, OrphansError};
use vmgroup_operator::connections::once::{self, Source};
use vmgroup_operator::doctor::{Condition, Finding, examine};
use vmgroup_operator::wake::GroupRef;

const SOON: Duration = Duration::from_secs(60);

async fn names(world: &SimWorld) -> BTreeSet<String> {
    world.vms().await.unwrap().into_iter().map(|vm| vm.name).collect()
}

async fn adopt(world: &SimWorld, vms: &[&str], scale: bool, yes: bool) -> Result<String, AdoptError> {
    let vms = vms.iter().map(|vm| (*vm).to_owned()).collect();
    let group = GroupRef::parse("shop/web").unwrap();
    let request = adopt::Request { group, vms, scale, yes, output: Output::Text };
    let (hand, mut out) = (world.hand().await?, Vec::new());
    let result = adopt::execute(&hand, &request, &mut out).await;
    hand.vcenter.logout().await;
    result.map(|()| String::from_utf8(out).unwrap())
}

async fn orphans(world: &SimWorld, deed: Deed, names: &[&str], yes: bool) -> Result<String, OrphansError> {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let request = orphans::Request { deed, names, all: false, yes, output: Output::Text };
    let (hand, mut out) = (world.hand().await?, Vec::new());
    let result = orphans::execute(&hand, &request, &mut out).await;
    hand.vcenter.logout().await;
    result.map(|()| String::from_utf8(out).unwrap())
}

/// A group whose finalizer was removed by hand, made again: two machines of the
/// first one are nobody's.
async fn given_up(world: &mut SimWorld) -> Vec<String> {
    world.start_operator().await.unwrap();
    let user = User::of(world);
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    let old = names(world).await.into_iter().collect();
    world.deed(Act::Down).await.unwrap();
    user.delete("shop", "web").await;
    let patch = serde_json::json!({"metadata": {"finalizers": []}});
    user.groups("shop").patch("web", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    user.gone("shop", "web", SOON).await;
    world.deed(Act::Up).await.unwrap();
    user.group("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON * 2).await;
    old
}

/// A machine that was made by hand becomes a member: nobody else is made, and
/// nobody has to leave for it.
#[tokio::test(start_paused = true)]
async fn a_machine_is_adopted_and_nobody_leaves_for_it() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    world.vcenter.add_vm("/DC0/vm", "old", &[]).unwrap();
    world.vcenter.power_off("/DC0/vm/old").unwrap();
    let before = names(&world).await;

    let full = adopt(&world, &["old"], false, true).await.unwrap_err();
    assert!(matches!(full, AdoptError::Full { wished: 2, has: 2, come: 1, to: 3, .. }), "{full}");
    let shown = adopt(&world, &["old"], true, false).await.unwrap();
    assert!(shown.contains("spec.replicas: 2 -> 3") && shown.contains("Nothing was changed"), "{shown}");
    assert_eq!(world.vcenter.vm("/DC0/vm/old").unwrap().extra.len(), 0);

    let done = adopt(&world, &["old"], true, true).await.unwrap();
    assert!(done.contains("Done"), "{done}");
    let group = user.ready("shop", "web", 3, SOON).await;
    assert!(group.metadata.annotations.unwrap_or_default().is_empty());
    assert_eq!(names(&world).await, before, "nobody was made and nobody left");
    assert_eq!(world.calls().await.unwrap()["CloneVM_Task"], 2);
    let vms = world.vms().await.unwrap();
    let old = vms.iter().find(|vm| vm.name == "old").unwrap();
    assert!(old.on && old.folder() == format!("{ROOT}/shop-web"), "{old:?}");
    assert!(adopt(&world, &["old"], false, true).await.unwrap().contains("none"), "the second time as the first");

    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON).await;
    assert!(world.vms().await.unwrap().is_empty());
}

/// Without an operator that has said so, nothing is moved or marked.
#[tokio::test(start_paused = true)]
async fn nothing_is_adopted_behind_the_operators_back() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;
    world.kill_operator().await.unwrap();
    world.vcenter.add_vm("/DC0/vm", "old", &[]).unwrap();
    let refused = adopt(&world, &["old"], true, true).await.unwrap_err();
    assert!(matches!(refused, AdoptError::NoOperator(_)), "{refused}");
    assert!(world.vcenter.vm("/DC0/vm/old").unwrap().extra.is_empty());
    // It comes back, waits, and makes nobody in the newcomer's place.
    world.start_operator().await.unwrap();
    user.told("shop", "web", "Adopting", "waits for 1 adopted machine", SOON).await;
    assert_eq!(world.calls().await.unwrap()["CloneVM_Task"], 1);
    adopt(&world, &["old"], true, true).await.unwrap();
    user.ready("shop", "web", 2, SOON).await;
    assert_eq!(world.vms().await.unwrap().len(), 2);
}

/// The way from the original operator, as docs/operations.md has it: its machines carry
/// no marks, and its folder is nobody's to us. Stopped, scaled to nobody and, if somebody
/// did that, with its folder out of the way, its group takes them over, and nothing is
/// cloned, powered off or lost.
#[tokio::test(start_paused = true)]
async fn the_originals_machines_are_taken_over() {
    let theirs = ["web-replica-lbzgbaic", "web-replica-mrajwwht", "web-replica-hctcuaxh"];
    for aside in [true, false] {
        let mut world = SimWorld::make(Options::default()).await.unwrap();
        let user = User::of(&world);
        let was = if aside { "shop-web-original" } else { "shop-web" };
        world.vcenter.add_folder(ROOT, was).unwrap();
        for name in theirs {
            world.vcenter.add_vm(&format!("{ROOT}/{was}"), name, &[]).unwrap();
        }
        user.apply(&format!(
            "apiVersion: vm.codeconnect.vmworld.com/v1alpha1\nkind: VmGroup\nmetadata: {{name: web, namespace: shop, finalizers: [vm-operator]}}\nspec: {{cpu: 2, memory: 1, replicas: 3, template: {TEMPLATE}}}\n"
        ))
        .await;
        let status = serde_json::json!({
            "phase": "RUNNING", "currentReplicas": 3, "desiredReplicas": 3,
            "lastMessage": "successfully reconciled VmGroup",
        });
        world.kube.set_status("vmgroups", Some("shop"), "web", status).unwrap();

        user.scale("shop", "web", 0).await;
        world.start_operator().await.unwrap();
        user.ready("shop", "web", 0, SOON).await;
        assert_eq!(names(&world).await, BTreeSet::from(theirs.map(str::to_owned)), "nobody has left");

        let paths = theirs.map(|name| format!("{ROOT}/{was}/{name}"));
        adopt(&world, &paths.each_ref().map(String::as_str), true, true).await.unwrap();
        user.ready("shop", "web", 3, SOON).await;
        let vms = world.vms().await.unwrap();
        let own = format!("{ROOT}/shop-web");
        let at_home =
            |vm: &VmView| if aside { vm.folder() == own } else { vm.folder().starts_with(&format!("{own}-")) };
        assert!(vms.len() == 3 && vms.iter().all(|vm| vm.on && at_home(vm)), "{vms:?}");
        let calls = world.calls().await.unwrap();
        for never in ["CloneVM_Task", "PowerOffVM_Task", "Destroy_Task"] {
            assert!(!calls.contains_key(never), "{calls:?}");
        }
        // They are members like any others, and the original's finalizer keeps nobody.
        world.vcenter.destroy_folder(&format!("{ROOT}/{was}")).unwrap();
        user.delete("shop", "web").await;
        user.gone("shop", "web", SOON * 5).await;
        assert_eq!(names(&world).await, BTreeSet::new());
    }
}

/// Orphans are listed, adopted by the group's successor, or destroyed; what is not
/// an orphan is not destroyed.
#[tokio::test(start_paused = true)]
async fn orphans_are_listed_adopted_and_deleted() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    let old = given_up(&mut world).await;
    let user = User::of(&world);
    world.vcenter.add_vm(&format!("{ROOT}/shop-web"), "stranger", &[]).unwrap();
    world.vcenter.add_folder(ROOT, "nobodys").unwrap();
    let mut neighbour = world.neighbour().unwrap();
    neighbour.start_operator().await.unwrap();
    let other = User::of(&neighbour);
    other.group("else", "where", 1).await;
    other.ready("else", "where", 1, SOON).await;
    let before = names(&world).await;

    let listed = orphans(&world, Deed::List, &[], false).await.unwrap();
    let kinds: Vec<(&str, bool)> = listed
        .lines()
        .skip(1)
        .map(|line| (line.split_whitespace().next().unwrap(), line.contains("shop/web")))
        .filter(|(kind, _)| *kind != "folder")
        .collect();
    assert_eq!(kinds, [("orphan", true), ("orphan", true), ("unmarked", false)], "{listed}");
    assert!(listed.contains("nobodys") && !listed.contains("where-"), "{listed}");

    let delete = Deed::Delete { doubtful: false };
    for refused in ["stranger", names(&neighbour).await.iter().find(|name| name.starts_with("where")).unwrap()] {
        let error = orphans(&world, delete, &[refused], true).await.unwrap_err();
        assert!(matches!(error, OrphansError::Refused { .. }), "{error}");
    }
    let error = orphans(&world, Deed::Release, &["stranger"], true).await.unwrap_err();
    assert!(matches!(error, OrphansError::Refused { .. }), "{error}");
    let dry = orphans(&world, delete, &[&old[0]], false).await.unwrap();
    assert!(dry.contains("would have deleted") && dry.contains("--yes"), "{dry}");
    assert_eq!(names(&world).await, before);

    orphans(&world, delete, &[&old[0], "nobodys"], true).await.unwrap();
    adopt(&world, &[&old[1]], true, true).await.unwrap();
    user.ready("shop", "web", 2, SOON).await;
    let mut after = before.clone();
    after.remove(&old[0]);
    assert_eq!(names(&world).await, after);
    assert!(!world.folders().await.unwrap().contains(&format!("{ROOT}/nobodys")));
    let listed = orphans(&world, Deed::List, &[], false).await.unwrap();
    assert!(!listed.contains("orphan "), "{listed}");
}

/// Of several vCenters each is seen as the operator sees it: by its connections file and
/// the Secrets that this names.
#[tokio::test(start_paused = true)]
async fn one_of_several_vcenters_is_seen_as_the_operator_sees_it() {
    let world = SimWorld::make(Options { connections: 2, datastores: 2, ..Options::default() }).await.unwrap();
    let user = User::of(&world);
    let text = format!(
        "connections:\n\
         - {{ name: muc, address: \"http://{}\", credentials: {{ secret: vc-muc }}, default: true }}\n\
         - name: ber\n  address: http://{}\n  credentials: {{ secret: vc-ber }}\n  datastore: fast\n  serves: {{ namespaces: [shop] }}\n",
        host_of(0),
        host_of(1),
    );
    let source = Source::of(CONNECTIONS);
    let file = async || once::file(&world.kube(), OPERATOR_NAMESPACE, &source).await;
    let error = file().await.unwrap_err().to_string();
    assert!(error.contains("no ConfigMap vmgroup-connections in the namespace vmgroup-system"), "{error}");
    user.connections("connections: []").await;
    assert!(file().await.unwrap_err().to_string().contains("give one at least"));
    user.connections(&text).await;
    let entry = file().await.unwrap().connections.remove(1);
    let vcenter = async || once::vcenter(&world.kube(), OPERATOR_NAMESPACE, &entry).await;
    let error = vcenter().await.unwrap_err().to_string();
    assert!(error.contains("no Secret vc-ber"), "{error}");
    user.login("vc-ber", USER, PASSWORD).await;
    let (config, site) = vcenter().await.unwrap();

    // What doctor says of a datastore cluster, which is not there yet.
    let client = world.at_the_desk_of(&config);
    let examined = async || examine(&client, ("ber", "trusted"), &site, &[TEMPLATE.to_owned()]).await;
    let found = examined().await;
    let bad: Vec<&Finding> = found.iter().filter(|finding| finding.condition != Condition::Good).collect();
    assert!(bad.len() == 1 && bad[0].detail.contains("LocalDS_0, LocalDS_1"), "{bad:?}");
    world.vcenters[1].add_storage_pod("fast", &["LocalDS_1"]).unwrap();
    let found = examined().await;
    assert!(found.iter().all(|finding| finding.condition == Condition::Good), "{found:#?}");
    let stores: Vec<&Finding> = found.iter().filter(|finding| finding.check == "datastore").collect();
    assert!(stores.len() == 1 && stores[0].detail == "of the datastore cluster fast", "{stores:?}");

    // What lies about there, and in no other.
    world.vcenters[0].add_folder(ROOT, "in-muc").unwrap();
    world.vcenters[1].add_folder(ROOT, "in-ber").unwrap();
    let hand = Hand::new(world.kube(), client, &site).await.unwrap();
    let request =
        orphans::Request { deed: Deed::List, names: Vec::new(), all: false, yes: false, output: Output::Text };
    let mut out = Vec::new();
    orphans::execute(&hand, &request, &mut out).await.unwrap();
    hand.vcenter.logout().await;
    let listed = String::from_utf8(out).unwrap();
    assert!(listed.contains("in-ber") && !listed.contains("in-muc"), "{listed}");
}

/// Folders that targets name are nobody's litter, and what lies in them is found.
#[tokio::test(start_paused = true)]
async fn folders_of_targets_are_no_orphans() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    let user = User::of(&world);
    world.vcenter.add_folder(ROOT, "team").unwrap();
    let team = format!("{ROOT}/team");
    world.vcenter.add_folder(&team, "web").unwrap();
    world.start_operator().await.unwrap();
    user.apply(&format!(
        "apiVersion: vm.codeconnect.vmworld.com/v1alpha1\nkind: VmGroup\nmetadata: {{name: web, namespace: shop}}\nspec: {{cpu: 2, memory: 1, replicas: 1, template: {TEMPLATE}, target: {{folder: team/web}}}}\n"
    ))
    .await;
    user.ready("shop", "web", 1, SOON).await;
    world.vcenter.add_folder(&format!("{team}/web"), "left").unwrap();
    world.vcenter.add_folder(&team, "beside").unwrap();
    let listed = orphans(&world, Deed::List, &[], false).await.unwrap();
    let found: BTreeSet<&str> = listed.split_whitespace().filter(|word| word.starts_with(ROOT)).collect();
    assert_eq!(
        found,
        [format!("{team}/beside"), format!("{team}/web/left")].iter().map(String::as_str).collect(),
        "{listed}"
    );
    // Who comes goes where the group is.
    world.vcenter.add_vm("/DC0/vm", "old", &[]).unwrap();
    adopt(&world, &["old"], true, true).await.unwrap();
    user.ready("shop", "web", 2, SOON).await;
    assert!(world.vcenter.vm(&format!("{team}/web/shop-web/old")).is_some());
}

/// What is released is nobody's, stays as it is, and can be adopted.
#[tokio::test(start_paused = true)]
async fn what_is_released_can_be_adopted() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    let old = given_up(&mut world).await;
    let path = world.vms().await.unwrap().into_iter().find(|vm| vm.name == old[0]).unwrap().path;
    // Marks of the first version: it may be another cluster's.
    world.vcenter.set_extra(&path, "vmgroup.cluster", "").unwrap();
    let refused = adopt(&world, &[&old[0]], true, true).await.unwrap_err();
    assert!(refused.to_string().contains("--release"), "{refused}");
    let refused = orphans(&world, Deed::Delete { doubtful: false }, &[&old[0]], true).await.unwrap_err();
    assert!(refused.to_string().contains("--doubtful"), "{refused}");
    orphans(&world, Deed::Release, &[&old[0]], true).await.unwrap();
    let released = world.vcenter.vm(&path).unwrap();
    assert!(released.power_on && released.extra.is_empty(), "{released:?}");
    adopt(&world, &[&old[0]], true, true).await.unwrap();
    User::of(&world).ready("shop", "web", 2, SOON).await;
}

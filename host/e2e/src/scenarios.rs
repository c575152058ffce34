//! The scenarios. Each is a story that a user could tell, ends with a look at
//! the world, and is run in both worlds.

mod changes;
mod targets;

use std::time::Duration;

use kube::api::DeleteParams;

use crate::world::{Deed, Options, ROOT, TEMPLATE, User, VmView, World, eventually};

pub use changes::{a_template_is_rolled_out_and_back, cpu_and_memory_of_a_standing_group};
pub use targets::a_group_goes_where_its_target_says_and_stays;

const SOON: Duration = Duration::from_secs(60);

/// The sample of the original.
const SAMPLE: &str = "
apiVersion: vm.codeconnect.vmworld.com/v1alpha1
kind: VmGroup
metadata:
  name: vmgroup-sample
  namespace: myoperator-vms
spec:
  cpu: 2
  memory: 1
  replicas: 3
  template: vm-operator-template
";

async fn of_group(world: &impl World, folder: &str) -> Vec<VmView> {
    let folder = format!("{ROOT}/{folder}");
    world.vms().await.expect("vCenter").into_iter().filter(|vm| vm.folder() == folder).collect()
}

fn names(vms: &[VmView]) -> Vec<&str> {
    vms.iter().map(|vm| vm.name.as_str()).collect()
}

/// The whole life of the original's sample.
pub async fn the_sample_lives_and_dies<W: World>() {
    let mut world = W::make(Options::default()).await.expect("world");
    world.start_operator().await.expect("operator");
    let user = User::of(&world);
    user.apply(SAMPLE).await;
    let group = user.ready("myoperator-vms", "vmgroup-sample", 3, SOON).await;
    assert_eq!(
        group.status.as_ref().and_then(|status| status.last_message.as_deref()),
        Some("successfully reconciled VmGroup")
    );
    let vms = of_group(&world, "myoperator-vms-vmgroup-sample").await;
    assert_eq!(vms.len(), 3);
    for vm in &vms {
        assert!(vm.on && vm.cpus == 2 && vm.memory_mib == 1024, "{vm:?}");
        let suffix = vm.name.strip_prefix("vmgroup-sample-replica-").expect("named as in the original");
        assert!(suffix.len() == 8 && suffix.chars().all(|c| c.is_ascii_lowercase()), "{suffix}");
    }

    // A task's end may be told before its effect: nothing is done twice for that.
    let calls = world.calls().await.expect("calls");
    assert_eq!((calls.get("CloneVM_Task"), calls.get("PowerOnVM_Task")), (Some(&3), Some(&3)), "{calls:?}");

    // Members are told apart by age in whole seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    user.scale("myoperator-vms", "vmgroup-sample", 5).await;
    user.ready("myoperator-vms", "vmgroup-sample", 5, SOON).await;
    let five = of_group(&world, "myoperator-vms-vmgroup-sample").await;
    assert!(vms.iter().all(|vm| names(&five).contains(&vm.name.as_str())), "scaling out replaces nobody");

    user.scale("myoperator-vms", "vmgroup-sample", 2).await;
    user.ready("myoperator-vms", "vmgroup-sample", 2, SOON).await;
    let two = of_group(&world, "myoperator-vms-vmgroup-sample").await;
    assert_eq!(two.len(), 2);
    assert!(
        two.iter().all(|vm| names(&vms).contains(&vm.name.as_str())),
        "newest first: the two oldest are of the first three"
    );
    let events = user.events("myoperator-vms", "vmgroup-sample").await;
    assert_eq!(events.iter().filter(|event| event.contains("leaves: ")).count(), 3, "{events:#?}");

    user.scale("myoperator-vms", "vmgroup-sample", 0).await;
    user.ready("myoperator-vms", "vmgroup-sample", 0, SOON).await;
    assert_eq!(of_group(&world, "myoperator-vms-vmgroup-sample").await, []);

    user.scale("myoperator-vms", "vmgroup-sample", 1).await;
    user.ready("myoperator-vms", "vmgroup-sample", 1, SOON).await;
    user.delete("myoperator-vms", "vmgroup-sample").await;
    user.gone("myoperator-vms", "vmgroup-sample", SOON).await;
    assert_eq!(world.vms().await.expect("vCenter"), []);
    assert_eq!(world.folders().await.expect("vCenter"), Vec::<String>::new());
}

/// A member that is powered off is powered on; one that is gone is replaced.
pub async fn what_is_missing_or_off_is_healed<W: World>() {
    let mut world = W::make(Options::default()).await.expect("world");
    world.start_operator().await.expect("operator");
    let user = User::of(&world);
    user.group("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    let vms = of_group(&world, "shop-web").await;
    world.deed(Deed::PowerOff(vms[0].path.clone())).await.expect("power off");
    world.deed(Deed::Destroy(vms[1].path.clone())).await.expect("destroy");
    eventually("three are on again", SOON, async || {
        let now = of_group(&world, "shop-web").await;
        let healed = now.len() == 3
            && now.iter().all(|vm| vm.on)
            && names(&now).contains(&vms[0].name.as_str())
            && names(&now).contains(&vms[2].name.as_str())
            && !names(&now).contains(&vms[1].name.as_str());
        if healed { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    user.ready("shop", "web", 3, SOON).await;
}

/// Naming and scaling are swapped under a standing group; the next decisions differ.
pub async fn policies_are_swapped_while_running<W: World>() {
    let mut world = W::make(Options::default()).await.expect("world");
    world.start_operator().await.expect("operator");
    let user = User::of(&world);
    user.group("shop", "web", 2).await;
    let before = user.ready("shop", "web", 2, SOON).await;
    let old = of_group(&world, "shop-web").await;
    user.policy(
        Some("naming: { plugin: ordinal, config: { pattern: \"{group}-{ordinal}\", width: 2 } }\nscaling: { plugin: ordered, config: { order: oldest } }\n"),
        &[],
    )
    .await;
    eventually("the swap is told in the status", SOON, async || {
        let group = user.groups("shop").get("web").await.map_err(|error| error.to_string())?;
        let policies = group.status.and_then(|status| status.policies).ok_or("no policies")?;
        if policies.naming.plugin == "ordinal" { Ok(()) } else { Err(format!("{policies:?}")) }
    })
    .await;
    let default = before.status.and_then(|status| status.policies).expect("policies in the status");
    assert_eq!((default.naming.plugin.as_str(), default.scaling.plugin.as_str()), ("random-suffix", "ordered"));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    user.scale("shop", "web", 4).await;
    user.ready("shop", "web", 4, SOON).await;
    let four = of_group(&world, "shop-web").await;
    assert!(names(&four).contains(&"web-00") && names(&four).contains(&"web-01"), "{:?}", names(&four));
    user.scale("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    let left = of_group(&world, "shop-web").await;
    assert!(old.iter().all(|vm| !names(&left).contains(&vm.name.as_str())), "the oldest went: {:?}", names(&left));

    user.config_maps().delete("vmgroup-policy", &DeleteParams::default()).await.expect("delete");
    eventually("the defaults are back", SOON, async || {
        let group = user.groups("shop").get("web").await.map_err(|error| error.to_string())?;
        let policies = group.status.and_then(|status| status.policies).ok_or("no policies")?;
        if policies.naming.plugin == "random-suffix" { Ok(()) } else { Err(format!("{policies:?}")) }
    })
    .await;
}

/// What it is, the policy file, the plugins, and what the refusal has to name.
type Offer<'a> = (&'a str, Option<&'a str>, &'a [(&'a str, &'a [u8])], &'a str);

/// Whatever is wrong with an offered policy, what is in force stays in force,
/// and the reason stands where its reader looks.
pub async fn a_broken_policy_is_refused_and_nothing_happens<W: World>() {
    let mut world = W::make(Options::default()).await.expect("world");
    world.start_operator().await.expect("operator");
    let user = User::of(&world);
    user.policy(Some("naming: { plugin: ordinal }\n"), &[]).await;
    user.group("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;
    let offers: [Offer<'_>; 6] = [
        (
            "not wasm",
            Some("naming: { plugin: broken.wasm }"),
            &[("broken.wasm", b"this is not WebAssembly")],
            "broken.wasm",
        ),
        ("absent", Some("naming: { plugin: absent.wasm }"), &[], "absent.wasm"),
        ("misspelt", Some("naming: { plugin: ordinal, config: { patern: x } }"), &[], "patern"),
        ("misspelt key", Some("namming: { plugin: ordinal }"), &[], "namming"),
        ("wrong kind", Some("naming: { plugin: ordered }"), &[], "naming"),
        ("no policy.yaml", None, &[("x.wasm", b"")], "policy.yaml"),
    ];
    for (what, yaml, plugins, named) in offers {
        user.policy(yaml, plugins).await;
        let message = user.told("shop", "web", "PolicyRefused", named, SOON).await;
        let events = user.events("vmgroup-system", "vmgroup-policy").await;
        assert!(
            events.iter().any(|event| event.starts_with("PolicyRefused") && event.contains(named)),
            "{what}: {message}: {events:#?}"
        );
        let group = user.groups("shop").get("web").await.expect("group");
        let policies = group.status.and_then(|status| status.policies).expect("policies");
        assert_eq!(policies.naming.plugin, "ordinal", "{what}");
    }
    user.scale("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    assert_eq!(names(&of_group(&world, "shop-web").await), ["web-0", "web-1"]);
    user.policy(Some("naming: { plugin: ordinal }\n"), &[]).await;
    eventually("the refusal is gone", SOON, async || {
        let group = user.groups("shop").get("web").await.map_err(|error| error.to_string())?;
        let conditions = group.status.map(|status| status.conditions).unwrap_or_default();
        if conditions.iter().all(|condition| condition.type_ != "PolicyRefused") {
            Ok(())
        } else {
            Err(format!("{conditions:?}"))
        }
    })
    .await;
}

/// L4 in one story: an operator killed in the middle of a scale-out leaves
/// exactly as many virtual machines as wished, in the end.
pub async fn l4_killed_in_the_middle_of_a_scale_out<W: World>() {
    let options = Options { clone_takes: Duration::from_secs(2), max_tasks: 4, ..Options::default() };
    let mut world = W::make(options).await.expect("world");
    world.start_operator().await.expect("operator");
    let user = User::of(&world);
    user.group("shop", "web", 12).await;
    eventually("some are made and some are being made", SOON, async || {
        let count = of_group(&world, "shop-web").await.len();
        if (3..10).contains(&count) { Ok(()) } else { Err(format!("{count} so far")) }
    })
    .await;
    world.kill_operator().await.expect("kill");
    world.start_operator().await.expect("operator");
    user.ready("shop", "web", 12, SOON * 2).await;
    let vms = of_group(&world, "shop-web").await;
    assert_eq!(vms.len(), 12, "{:?}", names(&vms));
    assert_eq!(world.vms().await.expect("vCenter").len(), 12);
    assert!(vms.iter().all(|vm| vm.on));
}

/// vCenter is away for a while: the group says so, nothing is lost, and it goes
/// on when vCenter is back. Deletion waits (L9).
pub async fn l10_vcenter_is_away_for_a_while<W: World>() {
    let mut world = W::make(Options::default()).await.expect("world");
    world.start_operator().await.expect("operator");
    let user = User::of(&world);
    user.group("shop", "web", 2).await;
    user.group("shop", "old", 1).await;
    user.ready("shop", "web", 2, SOON).await;
    user.ready("shop", "old", 1, SOON).await;
    world.deed(Deed::Down).await.expect("down");
    user.scale("shop", "web", 3).await;
    user.delete("shop", "old").await;
    user.told("shop", "web", "Reconciling", "vCenter", SOON).await;
    user.told("shop", "old", "Reconciling", "deletion waits", SOON).await;
    world.deed(Deed::Up).await.expect("up");
    user.ready("shop", "web", 3, SOON * 2).await;
    user.gone("shop", "old", SOON * 2).await;
    assert_eq!(world.vms().await.expect("vCenter").len(), 3);
    world.deed(Deed::EndSessions).await.expect("end sessions");
    user.scale("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON * 2).await;
    assert_eq!(world.vms().await.expect("vCenter").len(), 1);
}

/// S2: what is not ours is left alone, whatever its name and folder.
pub async fn s2_foreign_machines_are_left_alone<W: World>() {
    let mut world = W::make(Options::default()).await.expect("world");
    world.start_operator().await.expect("operator");
    let user = User::of(&world);
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    let folder = format!("{ROOT}/shop-web");
    let foreign = format!("{folder}/web-replica-abcdefgh");
    world.deed(Deed::AddVm { folder: folder.clone(), name: "web-replica-abcdefgh".into() }).await.expect("add");
    user.scale("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;
    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON).await;
    let left = world.vms().await.expect("vCenter");
    assert_eq!(left.iter().map(|vm| (vm.path.as_str(), vm.on)).collect::<Vec<_>>(), [(foreign.as_str(), true)]);
    assert_eq!(world.folders().await.expect("vCenter"), [folder]);
    let events = user.events("shop", "web").await;
    assert!(events.iter().any(|event| event.starts_with("FolderLeft")), "{events:#?}");
}

/// Two groups whose `<namespace>-<name>` is the same: each has its own folder,
/// and never the other's machines.
pub async fn two_groups_of_one_folder_name<W: World>() {
    let mut world = W::make(Options::default()).await.expect("world");
    world.start_operator().await.expect("operator");
    let user = User::of(&world);
    user.group("a-b", "c", 2).await;
    user.group("a", "b-c", 3).await;
    user.ready("a-b", "c", 2, SOON).await;
    user.ready("a", "b-c", 3, SOON).await;
    let folders = world.folders().await.expect("vCenter");
    assert_eq!(folders.len(), 2, "{folders:?}");
    assert!(folders.contains(&format!("{ROOT}/a-b-c")), "{folders:?}");
    user.delete("a-b", "c").await;
    user.gone("a-b", "c", SOON).await;
    let left = world.vms().await.expect("vCenter");
    assert_eq!(left.len(), 3);
    user.ready("a", "b-c", 3, SOON).await;
    assert_eq!(world.folders().await.expect("vCenter").len(), 1);
}

/// A template that is not there, or there twice, is named with what to do.
pub async fn templates_that_cannot_be_used_are_named<W: World>() {
    let mut world = W::make(Options::default()).await.expect("world");
    world.deed(Deed::AddTemplate { folder: ROOT.into(), name: "twice".into() }).await.expect("template");
    world.deed(Deed::AddTemplate { folder: "/DC0/vm".into(), name: "twice".into() }).await.expect("template");
    world.start_operator().await.expect("operator");
    let user = User::of(&world);
    user.group_of("shop", "absent", 1, "no-such-template").await;
    let message = user.told("shop", "absent", "Stalled", "no-such-template", SOON).await;
    assert!(message.contains("vm-operator-template"), "it lists what there is: {message}");
    user.group_of("shop", "ambiguous", 1, "twice").await;
    let message = user.told("shop", "ambiguous", "Stalled", "twice", SOON).await;
    assert!(message.contains("/DC0/vm/twice") && message.contains(&format!("{ROOT}/twice")), "{message}");
    user.group_of("shop", "path", 1, "/DC0/vm/twice").await;
    user.ready("shop", "path", 1, SOON).await;
    // L7: it heals when the template comes.
    world
        .deed(Deed::AddTemplate { folder: "/DC0/vm".into(), name: "no-such-template".into() })
        .await
        .expect("template");
    user.ready("shop", "absent", 1, SOON * 4).await;
    user.delete("shop", "ambiguous").await;
    user.gone("shop", "ambiguous", SOON).await;
}

/// A name that a foreign machine has: another one is asked for.
pub async fn a_name_that_is_taken_by_a_stranger<W: World>() {
    let mut world = W::make(Options::default()).await.expect("world");
    world.start_operator().await.expect("operator");
    let user = User::of(&world);
    user.policy(Some("naming: { plugin: ordinal, config: { pattern: \"{group}-{ordinal}\" } }"), &[]).await;
    user.group("shop", "web", 0).await;
    user.ready("shop", "web", 0, SOON).await;
    world.deed(Deed::AddVm { folder: format!("{ROOT}/shop-web"), name: "web-0".into() }).await.expect("add");
    user.scale("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    let vms = of_group(&world, "shop-web").await;
    assert_eq!(vms.len(), 3, "the stranger is still there: {:?}", names(&vms));
    let ours: Vec<&str> =
        vms.iter().filter(|vm| vm.extra.contains_key("vmgroup.group-uid")).map(|vm| vm.name.as_str()).collect();
    assert_eq!(ours.len(), 2);
    assert!(!ours.contains(&"web-0"), "{ours:?}");
}

/// Members under a `protect` rule stay, and a scale-in that could only be done
/// with them is refused in words.
pub async fn protected_members_stay<W: World>() {
    let mut world = W::make(Options::default()).await.expect("world");
    world.start_operator().await.expect("operator");
    let user = User::of(&world);
    user.policy(Some("scaling: { plugin: ordered, config: { protect: [ \"pet=true\" ] } }"), &[]).await;
    user.group("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    let pet = of_group(&world, "shop-web").await.remove(0);
    let deed = Deed::SetExtra { path: pet.path.clone(), key: "vmgroup.attr.pet".into(), value: "true".into() };
    world.deed(deed).await.expect("set extra");
    tokio::time::sleep(Duration::from_secs(3)).await;
    user.scale("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;
    assert_eq!(names(&of_group(&world, "shop-web").await), [pet.name.as_str()]);
    user.scale("shop", "web", 0).await;
    user.told("shop", "web", "Stalled", "nobody leaves", SOON).await;
    assert_eq!(of_group(&world, "shop-web").await.len(), 1);
}

/// The limit is shared fairly: a group of 40 does not make a group of 1 wait for its end.
pub async fn a_large_group_does_not_starve_a_small_one<W: World>() {
    let options = Options { clone_takes: Duration::from_secs(1), max_tasks: 3, ..Options::default() };
    let mut world = W::make(options).await.expect("world");
    world.start_operator().await.expect("operator");
    let user = User::of(&world);
    user.group("big", "herd", 40).await;
    eventually("the large group is under way", SOON, async || {
        let count = of_group(&world, "big-herd").await.len();
        if count >= 2 { Ok(()) } else { Err(format!("{count}")) }
    })
    .await;
    user.group("small", "pet", 1).await;
    user.ready("small", "pet", 1, SOON).await;
    let made = of_group(&world, "big-herd").await.len();
    assert!(made < 35, "the large group was nearly done first: {made}");
}

/// Answers that are lost after the call took effect: everybody is adopted, and
/// nobody is made twice.
pub async fn s3_lost_replies_make_nobody_twice<W: World>() {
    let mut world = W::make(Options::default()).await.expect("world");
    world.start_operator().await.expect("operator");
    let user = User::of(&world);
    for (method, times) in [("CreateFolder", 1), ("CloneVM_Task", 3), ("PowerOnVM_Task", 2)] {
        world.deed(Deed::LoseReplies { method, times }).await.expect("fault");
    }
    user.group("shop", "web", 4).await;
    user.ready("shop", "web", 4, SOON * 2).await;
    assert_eq!(world.vms().await.expect("vCenter").len(), 4);
    for (method, times) in [("PowerOffVM_Task", 1), ("Destroy_Task", 2)] {
        world.deed(Deed::LoseReplies { method, times }).await.expect("fault");
    }
    user.scale("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON * 2).await;
    assert_eq!(world.vms().await.expect("vCenter").len(), 2);
    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON * 2).await;
    assert_eq!(world.vms().await.expect("vCenter"), []);
    assert_eq!(world.folders().await.expect("vCenter"), Vec::<String>::new());
}

/// Scaled the other way before the first way is done: it ends as if it had been
/// wished so at once (L6), and there are never too many (S3).
pub async fn l6_a_change_of_mind<W: World>() {
    let options = Options { clone_takes: Duration::from_secs(1), max_tasks: 4, ..Options::default() };
    let mut world = W::make(options).await.expect("world");
    world.start_operator().await.expect("operator");
    let user = User::of(&world);
    user.group("shop", "web", 10).await;
    eventually("some are there", SOON, async || {
        let count = of_group(&world, "shop-web").await.len();
        if count >= 3 { Ok(()) } else { Err(format!("{count}")) }
    })
    .await;
    user.scale("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    user.scale("shop", "web", 6).await;
    user.scale("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    assert_eq!(world.vms().await.expect("vCenter").len(), 3);
    user.scale("shop", "web", 8).await;
    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON).await;
    assert_eq!(world.vms().await.expect("vCenter"), []);
}

/// `spread` counts members where they are going, not only those that vCenter
/// shows already: a group that is made a few at a time ends up even.
pub async fn spread_is_even_however_it_is_made<W: World>() {
    let options = Options { clone_takes: Duration::from_secs(1), max_tasks: 4, ..Options::default() };
    let mut world = W::make(options).await.expect("world");
    world.start_operator().await.expect("operator");
    let user = User::of(&world);
    user.policy(Some("placement: { plugin: spread, config: { by: host } }"), &[]).await;
    user.group("shop", "other", 1).await;
    user.ready("shop", "other", 1, SOON).await;
    user.group("shop", "web", 15).await;
    user.ready("shop", "web", 15, SOON).await;
    let mut hosts = std::collections::BTreeMap::<String, usize>::new();
    for vm in of_group(&world, "shop-web").await {
        *hosts.entry(vm.host).or_default() += 1;
    }
    assert_eq!(hosts.values().copied().collect::<Vec<_>>(), [5, 5, 5], "{hosts:?}");
}

/// Who leaves is asked to shut down where somebody can hear it, and not where the
/// group gives no time for it.
pub async fn guests_are_shut_down_before_they_go<W: World>() {
    let mut world = W::make(Options::default()).await.expect("world");
    world.start_operator().await.expect("operator");
    let user = User::of(&world);
    user.group("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;
    let vms = of_group(&world, "shop-web").await;
    world.deed(Deed::RunTools(vms[0].path.clone())).await.expect("tools");
    user.scale("shop", "web", 0).await;
    user.ready("shop", "web", 0, SOON).await;
    assert_eq!(of_group(&world, "shop-web").await, []);
    let asked = |calls: &std::collections::BTreeMap<String, u64>| {
        ["ShutdownGuest", "PowerOffVM_Task"].map(|method| calls.get(method).copied().unwrap_or(0))
    };
    assert_eq!(asked(&world.calls().await.expect("calls")), [1, 0]);

    user.apply(&format!(
        "apiVersion: vm.codeconnect.vmworld.com/v1alpha1\nkind: VmGroup\nmetadata: {{name: db, namespace: shop}}\nspec: {{cpu: 2, memory: 1, replicas: 1, template: {TEMPLATE}, gracePeriodSeconds: 0}}\n"
    ))
    .await;
    user.ready("shop", "db", 1, SOON).await;
    let vms = of_group(&world, "shop-db").await;
    world.deed(Deed::RunTools(vms[0].path.clone())).await.expect("tools");
    user.delete("shop", "db").await;
    user.gone("shop", "db", SOON).await;
    assert_eq!(asked(&world.calls().await.expect("calls")), [1, 1]);
}

/// Hands the names of all scenarios to a macro, which makes a test of each.
#[macro_export]
macro_rules! every_scenario {
    ($with:ident) => {
        $with! {
            the_sample_lives_and_dies,
            what_is_missing_or_off_is_healed,
            policies_are_swapped_while_running,
            a_broken_policy_is_refused_and_nothing_happens,
            l4_killed_in_the_middle_of_a_scale_out,
            l10_vcenter_is_away_for_a_while,
            s2_foreign_machines_are_left_alone,
            two_groups_of_one_folder_name,
            templates_that_cannot_be_used_are_named,
            a_name_that_is_taken_by_a_stranger,
            protected_members_stay,
            a_large_group_does_not_starve_a_small_one,
            s3_lost_replies_make_nobody_twice,
            l6_a_change_of_mind,
            spread_is_even_however_it_is_made,
            guests_are_shut_down_before_they_go,
            a_template_is_rolled_out_and_back,
            cpu_and_memory_of_a_standing_group,
            a_group_goes_where_its_target_says_and_stays,
        }
    };
}

//! The scenarios on the real components, and what can only be tried there:
//! kubectl as a person uses it, the operator's rights, and its end by SIGTERM.
//!
//! `make e2e` builds all that they need and sets `VMGROUP_E2E`; without it they say
//! so and do nothing.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

mod kubectl_plugin;
mod page;
mod registry;
mod sites;
mod tags;
mod worst_day;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use serde_json::Value;
use vmgroup_e2e::real::RealWorld;
use vmgroup_e2e::scenarios;
use vmgroup_e2e::world::{OPERATOR_NAMESPACE, Options, TEMPLATE, User, VmView, World, eventually};

const SOON: Duration = Duration::from_secs(60);

/// Whether the real components are wanted.
fn wanted(story: &str) -> bool {
    let wanted = std::env::var_os("VMGROUP_E2E").is_some_and(|value| value == "1");
    if !wanted {
        println!("{story}: left out; `make e2e` runs it on the real components (it sets VMGROUP_E2E=1)");
    }
    wanted
}

macro_rules! stories {
    ($($name:ident),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            if wanted(stringify!($name)) {
                scenarios::$name::<RealWorld>().await;
            }
        }
    )*};
}

vmgroup_e2e::every_scenario!(stories);

/// The last table of a `kubectl get`: its header and its rows, in words.
fn table(text: &str) -> Vec<Vec<String>> {
    // The columns are two spaces apart at least; a message has single ones.
    let cells =
        |line: &str| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect();
    text.lines().map(cells).collect()
}

/// The README's journey of an application owner, word for word: what is typed,
/// and what is read.
#[tokio::test(flavor = "multi_thread")]
async fn kubectl_as_a_person_uses_it() {
    if !wanted("kubectl_as_a_person_uses_it") {
        return;
    }
    let mut world = RealWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let world = &world;
    let attempt = async |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        world.kubectl(&words, None).await.unwrap()
    };
    let typed = async |line: &str| attempt(line).await.success().unwrap();

    typed("create namespace myoperator-vms").await;
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/vmgroup.yaml");
    typed(&format!("apply -f {example}")).await;
    typed("wait -n myoperator-vms --for=condition=Ready --timeout=60s vg/vmgroup-sample").await;
    let got = typed("get vg -n myoperator-vms").await;
    let columns = ["NAME", "PHASE", "CURRENT", "DESIRED", "CPU", "MEMORY", "TEMPLATE", "LAST_MESSAGE"];
    let values = ["vmgroup-sample", "RUNNING", "3", "3", "2", "1", TEMPLATE];
    let row = [&values[..], &["successfully reconciled VmGroup"]].concat();
    assert_eq!(table(&got), [columns.to_vec(), row], "{got}");
    let wide = typed("get vmgroups.vm.codeconnect.vmworld.com -n myoperator-vms -o wide").await;
    assert!(wide.contains("READY") && wide.contains("AGE") && wide.contains("True"), "{wide}");

    // Both ways; then `kubectl describe` says who left, and why.
    typed("scale vg/vmgroup-sample -n myoperator-vms --replicas=4 --current-replicas=3").await;
    typed("wait -n myoperator-vms --for=jsonpath={.status.currentReplicas}=4 --timeout=60s vg/vmgroup-sample").await;
    typed("wait -n myoperator-vms --for=condition=Ready --timeout=60s vg/vmgroup-sample").await;
    let before = world.vms().await.unwrap();
    typed("scale vg/vmgroup-sample -n myoperator-vms --replicas=2").await;
    typed("wait -n myoperator-vms --for=jsonpath={.status.currentReplicas}=2 --timeout=60s vg/vmgroup-sample").await;
    typed("wait -n myoperator-vms --for=condition=Ready --timeout=60s vg/vmgroup-sample").await;
    let after = world.vms().await.unwrap();
    assert_eq!(after.len(), 2);
    let described = typed("describe vg vmgroup-sample -n myoperator-vms").await;
    for left in before.iter().filter(|vm| !after.contains(vm)) {
        let told = described.lines().find(|line| line.contains(&left.name) && line.contains("leaves"));
        assert!(told.is_some(), "{} is not in:\n{described}", left.name);
    }

    // What may not be is refused with what to do.
    let manifest = std::fs::read_to_string(example).unwrap();
    let refused = [
        (manifest.replace("vmgroup-sample", "none").replace("cpu: 2", "cpu: 0"), "cpu must be 1 to 768 virtual CPUs"),
        (manifest.replace("vmgroup-sample", "none").replace("replicas: 3", "replicas: 1001"), "split a larger group"),
        (manifest.replace("cpu: 2", "cpu: 769"), "cpu must be 1 to 768 virtual CPUs"),
        (manifest.clone() + "  updateStrategy: {rollingUpdate: {maxUnavailable: 0}}\n", "cannot both be 0"),
        (manifest.replace("memory: 1", "memmory: 1"), "memmory"),
    ];
    for (text, message) in refused {
        let said = world.kubectl(&["apply", "-f", "-"], Some(&text)).await.unwrap();
        assert!(!said.ok && said.err.contains(message), "{said:?}");
    }
    let explained = typed("explain vg.spec.memory").await;
    assert!(explained.contains("Memory of each member in GB"), "{explained}");

    typed("delete vg vmgroup-sample -n myoperator-vms --timeout=60s").await;
    assert_eq!(world.vms().await.unwrap(), []);
    assert_eq!(world.folders().await.unwrap(), Vec::<String>::new());
}

/// The operator can do all that it does, and no more, under the manifest's rights;
/// and the policies of the deployment are accepted.
#[tokio::test(flavor = "multi_thread")]
async fn the_manifests_rights_are_enough_and_few() {
    if !wanted("the_manifests_rights_are_enough_and_few") {
        return;
    }
    let mut world = RealWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    // Every kind of write: finalizer, status, events on groups and on the
    // ConfigMap, lease.
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    user.policy(Some("naming: { plugin: absent.wasm }"), &[]).await;
    user.told("shop", "web", "PolicyRefused", "absent.wasm", SOON).await;
    let events = user.events(OPERATOR_NAMESPACE, "vmgroup-policy").await;
    assert!(events.iter().any(|event| event.contains("absent.wasm")), "{events:#?}");
    user.scale("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;

    let manifests = world.manifests().await.unwrap();
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    world.kubectl(&apply, Some(&manifests)).await.unwrap().success().unwrap();
    eventually("the policies of the deployment are in force", SOON, async || {
        let group = user.groups("shop").get("web").await.map_err(|error| error.to_string())?;
        let status = group.status.unwrap_or_default();
        let refused = status.conditions.iter().any(|condition| condition.type_ == "PolicyRefused");
        if refused { Err(format!("{:?}", status.conditions)) } else { Ok(()) }
    })
    .await;
    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON).await;

    let (status, ready) = world.page("/readyz").await.unwrap();
    assert_eq!((status, ready.as_str()), (200, "ok\n"));
    eventually("the metrics say who leads, and that vCenter answers", SOON, async || {
        let (_, metrics) = world.page("/metrics").await.map_err(|error| error.to_string())?;
        let lines = [
            "leader_election_master_status{name=\"vmgroup-operator\"} 1",
            "vmgroup_vcenter_connected{connection=\"default\"} 1",
        ];
        let missing = lines.into_iter().find(|line| !metrics.lines().any(|other| other == *line));
        missing.map_or(Ok(()), |line| Err(format!("not among the metrics: {line}")))
    })
    .await;
    let log = world.log();
    // As a word: three digits are soon found in an object's uid.
    let mut words = log.split(|character: char| !character.is_ascii_alphanumeric());
    assert!(!log.to_lowercase().contains("forbidden") && !words.any(|word| word == "403"), "{log}");

    let account = format!("--as=system:serviceaccount:{OPERATOR_NAMESPACE}:vmgroup-operator");
    for verb in [
        "get secrets",
        "list configmaps -n default",
        "get configmaps/other",
        "delete vmgroups",
        "create vmgroups",
        "update leases/other",
        "create pods",
    ] {
        let words = ["auth", "can-i", &account, "-n", OPERATOR_NAMESPACE];
        let words: Vec<&str> = words.into_iter().chain(verb.split(' ')).collect();
        let said = world.kubectl(&words, None).await.unwrap();
        assert_eq!(said.out.trim(), "no", "{verb}: {said:?}");
    }
}

/// Namespaces bring policies of their own under the component's rights, and without
/// those their groups wait and say so, and no others.
#[tokio::test(flavor = "multi_thread")]
async fn policies_of_namespaces_need_their_component() {
    if !wanted("policies_of_namespaces_need_their_component") {
        return;
    }
    let mut world = RealWorld::make(Options::default()).await.unwrap();
    let user = User::of(&world);
    user.policy(Some("tenants: { namespaces: [\"team-*\"] }"), &[]).await;
    user.policy_of("team-a", Some("naming: { plugin: ordinal, config: { pattern: \"own-{ordinal}\" } }"), &[]).await;
    user.group("shop", "web", 1).await;
    user.group("team-a", "web", 1).await;
    world.start_operator().await.unwrap();
    user.ready("shop", "web", 1, SOON).await;
    user.told("team-a", "web", "Stalled", "cannot be read", SOON).await;
    let rights = include_str!("../../../../deploy/components/tenants/rbac.yaml");
    world.kubectl(&["apply", "-f", "-"], Some(rights)).await.unwrap().success().unwrap();
    user.ready("team-a", "web", 1, SOON * 2).await;
    assert!(world.vms().await.unwrap().iter().any(|vm| vm.name == "own-0"));
    let account = format!("--as=system:serviceaccount:{OPERATOR_NAMESPACE}:vmgroup-operator");
    let said = world.kubectl(&["auth", "can-i", &account, "-n", "team-a", "list", "configmaps"], None).await.unwrap();
    assert_eq!(said.out.trim(), "no", "{said:?}");

    // What was good is kept there under the component's rights, to serve after a restart
    // that finds it broken; and goes with what it was kept for (the garbage collector is
    // no part of the API server).
    let maps: Api<ConfigMap> = Api::namespaced(world.kube(), "team-a");
    let kept = eventually("it is kept", SOON, async || {
        let kept = maps.get_opt("vmgroup-policy-last-good").await.unwrap();
        kept.filter(|map| map.data.as_ref().is_some_and(|data| data["in-force.yaml"].contains("own-")))
            .ok_or("not yet".to_owned())
    })
    .await;
    let owner = kept.metadata.owner_references.unwrap_or_default().remove(0);
    assert_eq!(Some(owner.uid), maps.get("vmgroup-policy").await.unwrap().metadata.uid);
    world.kill_operator().await.unwrap();
    user.policy_of("team-a", Some("naming: { plugin: absent.wasm }"), &[]).await;
    world.start_operator().await.unwrap();
    user.told("team-a", "web", "PolicyRefused", "absent.wasm", SOON * 2).await;
    user.scale("team-a", "web", 2).await;
    user.ready("team-a", "web", 2, SOON).await;
    assert!(world.vms().await.unwrap().iter().any(|vm| vm.name == "own-1"));
}

/// User data is read under the component's rights, and without those nobody is made and
/// the group says so. What the guests are told, networks, disks and linked clones are as
/// vcsim takes them; it ignores what a linked clone shares.
#[tokio::test(flavor = "multi_thread")]
async fn guests_that_differ_need_their_component() {
    if !wanted("guests_that_differ_need_their_component") {
        return;
    }
    let mut world = RealWorld::make(Options::default()).await.unwrap();
    let user = User::of(&world);
    user.namespace("shop").await;
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: web-init, namespace: shop}\nstringData: {user-data: \"#cloud-config\"}\n";
    world.kubectl(&["apply", "-f", "-"], Some(secret)).await.unwrap().success().unwrap();
    world.start_operator().await.unwrap();
    user.apply(
        "apiVersion: vm.codeconnect.vmworld.com/v1alpha1\nkind: VmGroup\nmetadata: {name: web, namespace: shop}\nspec:\n  cpu: 1\n  memory: 1\n  replicas: 2\n  template: vm-operator-template\n  guest: {cloudInit: {userData: {secretKeyRef: {name: web-init, key: user-data}}}}\n  networks: [{name: DC0_DVPG0}, {name: VM Network}]\n  disks: [{sizeGiB: 1}]\n",
    )
    .await;
    user.told("shop", "web", "Stalled", "deploy/components/guest-data", SOON).await;
    assert_eq!(world.vms().await.unwrap(), []);
    let handbook = include_str!("../../../../docs/operations.md");
    let shown = handbook.split("```yaml\n").find(|block| block.contains("name: vmgroup-operator-guest-data"));
    let binding = shown.unwrap().split("```").next().unwrap().replace("namespace: YOURS", "namespace: shop");
    for rights in [include_str!("../../../../deploy/components/guest-data/rbac.yaml"), &binding] {
        world.kubectl(&["apply", "-f", "-"], Some(rights)).await.unwrap().success().unwrap();
    }
    user.ready("shop", "web", 2, SOON * 3).await;
    for vm in world.vms().await.unwrap() {
        assert_eq!(vm.extra["guestinfo.userdata.encoding"], "gzip+base64", "{vm:?}");
        assert!(vm.extra.contains_key("guestinfo.metadata"), "{vm:?}");
    }
    let before = world.vms().await.unwrap();
    let changed = secret.replace("#cloud-config", "#cloud-config # changed");
    world.kubectl(&["apply", "-f", "-"], Some(&changed)).await.unwrap().success().unwrap();
    eventually("a changed Secret replaces both", SOON * 3, async || {
        let vms = world.vms().await.map_err(|error| error.to_string())?;
        let told = |vm: &VmView| vm.extra.get("guestinfo.userdata").cloned();
        let new =
            |vm: &&VmView| before.iter().all(|old| old.instance_uuid != vm.instance_uuid && told(old) != told(vm));
        if vms.len() == 2 && vms.iter().filter(new).count() == 2 { Ok(()) } else { Err(format!("{vms:#?}")) }
    })
    .await;
    user.ready("shop", "web", 2, SOON).await;
    user.apply(
        "apiVersion: vm.codeconnect.vmworld.com/v1alpha1\nkind: VmGroup\nmetadata: {name: db, namespace: shop}\nspec: {cpu: 1, memory: 1, replicas: 1, template: vm-operator-template, guest: {customizationSpec: no-such}}\n",
    )
    .await;
    user.told("shop", "db", "Stalled", "no-such", SOON).await;
}

/// The plugin of kubectl, through the real one.
#[tokio::test(flavor = "multi_thread")]
async fn kubectl_vmgroup_reaches_the_operator() {
    if wanted("kubectl_vmgroup_reaches_the_operator") {
        kubectl_plugin::story(&vmgroup_e2e::real::operator().unwrap()).await.unwrap();
    }
}

/// The identity in the lease; none when it is released or was never taken.
async fn leader(world: &RealWorld) -> Option<String> {
    let api: Api<Lease> = Api::namespaced(world.kube(), OPERATOR_NAMESPACE);
    let lease = api.get_opt("vmgroup-operator").await.unwrap();
    lease.and_then(|lease| lease.spec?.holder_identity).filter(|holder| !holder.is_empty())
}

async fn led_by(world: &RealWorld, wished: &str) {
    eventually(&format!("{wished} leads"), SOON, async || match leader(world).await {
        Some(holder) if holder.starts_with(wished) => Ok(()),
        holder => Err(format!("{holder:?}")),
    })
    .await;
}

/// SIGTERM, as at every rollout: the process ends by itself, the lease and the
/// sessions are given back, and the standby takes over at once (L12).
#[tokio::test(flavor = "multi_thread")]
async fn l12_sigterm_hands_over() {
    if !wanted("l12_sigterm_hands_over") {
        return;
    }
    let options = Options { clone_takes: Duration::from_secs(2), max_tasks: 3, ..Options::default() };
    let mut world = RealWorld::make(options).await.unwrap();
    world.start_operator().await.unwrap();
    led_by(&world, "operator-0").await;
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 9).await;
    eventually("the scale-out is under way, and the standby is logged in", SOON, async || {
        let (vms, sessions) = (world.vms().await.unwrap().len(), world.sessions().await.unwrap());
        if vms >= 2 && sessions.len() == 2 { Ok(()) } else { Err(format!("{vms}, {sessions:?}")) }
    })
    .await;

    // In the middle of the work, tasks in flight.
    let (status, took) = world.stop_operator(Duration::from_secs(15)).await.unwrap();
    assert!(status.success(), "{status} after {took:?}");
    assert_eq!(world.sessions().await.unwrap().len(), 1, "it logged out");
    led_by(&world, "operator-1").await;
    user.ready("shop", "web", 9, SOON).await;
    assert_eq!(world.vms().await.unwrap().len(), 9);

    let (status, took) = world.stop_operator(Duration::from_secs(15)).await.unwrap();
    assert!(status.success(), "{status} after {took:?}");
    assert_eq!(leader(&world).await, None, "the lease is released");
    assert_eq!(world.sessions().await.unwrap(), Vec::<String>::new());
}

/// A certificate that nobody vouches for: no password is sent, and the group says
/// what is to be done.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_trusted_is_named() {
    if !wanted("a_certificate_that_is_not_trusted_is_named") {
        return;
    }
    let mut world = RealWorld::make(Options::default()).await.unwrap();
    world.start_operator_trusting(None).await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 1).await;
    let message = user.told("shop", "web", "Stalled", "certificate is not trusted", SOON).await;
    assert!(message.contains("give the CA that signed it") && message.contains("--vc-ca-file"), "{message}");
    assert_eq!(world.calls().await.unwrap().get("Login"), None);
    // The way out is a restart with the right file.
    world.kill_operator().await.unwrap();
    world.start_operator().await.unwrap();
    user.ready("shop", "web", 1, SOON).await;
}

/// `vmgroup doctor` is content with vcsim, which grants every privilege, and names what
/// is wrong before anything else is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_doctor_sees_what_is_wrong() {
    if !wanted("a_doctor_sees_what_is_wrong") {
        return;
    }
    let mut world = RealWorld::make(Options::default()).await.unwrap();
    world.start_lone_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;
    let well = world.at_the_desk(&["doctor"]).await.unwrap().success().unwrap();
    assert!(well.contains("The operator can work") && well.contains(&format!("/DC0/vm/{TEMPLATE}")), "{well}");
    for (wrong, check) in [
        (["--vc-pass", "wrong"], "login"),
        (["--vc-ca-file", "/etc/ssl/certs/ca-certificates.crt"], "certificate"),
        (["--vc-host", "127.0.0.1:1"], "address"),
        (["--datastore", "nowhere"], "site"),
        (["--template", "golden"], "template"),
    ] {
        let said = world.at_the_desk(&["doctor", "--output", "json", wrong[0], wrong[1]]).await.unwrap();
        let told: Value = serde_json::from_str(&said.out).unwrap();
        let bad = told["findings"].as_array().unwrap().iter().find(|finding| finding["condition"] == "bad").unwrap();
        assert!(!said.ok && told["well"] == false && bad["check"] == check, "{wrong:?}: {said:?}");
    }
}

/// Machines whose group's finalizer was removed by hand: the metrics count them,
/// `vmgroup orphans` names them, one is destroyed and the other adopted.
#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_found_destroyed_and_adopted() {
    if !wanted("orphans_are_found_destroyed_and_adopted") {
        return;
    }
    let mut world = RealWorld::make(Options::default()).await.unwrap();
    world.start_lone_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    let old: Vec<String> = world.vms().await.unwrap().into_iter().map(|vm| vm.name).collect();
    world.kill_operator().await.unwrap();
    user.delete("shop", "web").await;
    let give_up = ["patch", "vg", "web", "-n", "shop", "--type=json", "-p"];
    let give_up = [&give_up[..], &[r#"[{"op":"remove","path":"/metadata/finalizers"}]"#]].concat();
    world.kubectl(&give_up, None).await.unwrap().success().unwrap();
    user.gone("shop", "web", SOON).await;
    world.start_lone_operator().await.unwrap();
    user.group("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;
    assert_eq!(world.vms().await.unwrap().len(), 3);
    let (_, page) = world.page("/metrics").await.unwrap();
    assert!(page.contains(r#"vmgroup_machines{connection="default",standing="orphan"} 2"#), "{page}");

    let listed = world.at_the_desk(&["orphans"]).await.unwrap().success().unwrap();
    assert!(old.iter().all(|name| listed.contains(name)) && listed.matches("orphan ").count() == 2, "{listed}");
    let dry = world.at_the_desk(&["orphans", "--delete", "--all"]).await.unwrap().success().unwrap();
    assert!(dry.contains("would have deleted") && dry.contains("--yes"), "{dry}");
    let dry = world.at_the_desk(&["adopt", "shop/web", &old[1], "--scale"]).await.unwrap().success().unwrap();
    assert!(dry.contains("spec.replicas: 1 -> 2") && dry.contains("Nothing was changed"), "{dry}");
    assert_eq!(world.vms().await.unwrap().len(), 3);

    world.at_the_desk(&["orphans", "--delete", &old[0], "--yes"]).await.unwrap().success().unwrap();
    world.at_the_desk(&["adopt", "shop/web", &old[1], "--scale", "--yes"]).await.unwrap().success().unwrap();
    user.ready("shop", "web", 2, SOON).await;
    let vms = world.vms().await.unwrap();
    assert!(vms.len() == 2 && vms.iter().any(|vm| vm.name == old[1]), "{vms:?}");
    let clones = world.calls().await.unwrap()["CloneVM_Task"];
    assert_eq!(clones, 3, "nobody was made in the place of the adopted one");
    let (_, page) = world.page("/metrics").await.unwrap();
    assert!(page.contains(r#"vmgroup_machines{connection="default",standing="orphan"} 0"#), "{page}");
    let refused = world.at_the_desk(&["orphans", "--delete", &vms[0].name, "--yes"]).await.unwrap();
    assert!(!refused.ok && refused.err.contains("scale or delete its group instead"), "{refused:?}");
}

//! The CEL rules of the CRD, evaluated in-process as the API server does: each
//! bound, each immutable field, and that every message says what to do.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use kube::core::cel::{validate_cel, validate_cel_update};
use serde_json::json;
use vmgroup_api::VmGroup;

fn group(cpu: i32, memory: i32, replicas: i32, template: &str) -> VmGroup {
    serde_json::from_value(json!({
        "apiVersion": "vm.codeconnect.vmworld.com/v1alpha1", "kind": "VmGroup", "metadata": {"name": "g"},
        "spec": {"cpu": cpu, "memory": memory, "replicas": replicas, "template": template},
    }))
    .unwrap()
}

fn refusal(group: &VmGroup) -> String {
    validate_cel(group).map_or_else(|errors| errors.to_string(), |()| String::new())
}

#[test]
fn what_is_legal_is_accepted() {
    for (cpu, memory, replicas) in [(1, 1, 0), (768, 24576, 1000), (2, 1, 3)] {
        assert_eq!(refusal(&group(cpu, memory, replicas, "small")), "");
    }
}

#[test]
fn each_bound_is_kept_and_says_what_to_do() {
    for (bad, says) in [
        (group(0, 1, 1, "t"), "change spec.cpu"),
        (group(769, 1, 1, "t"), "change spec.cpu"),
        (group(1, 0, 1, "t"), "the unit is GB"),
        (group(1, 24577, 1, "t"), "the unit is GB"),
        (group(1, 1, -1, "t"), "split a larger group"),
        (group(1, 1, 1001, "t"), "split a larger group"),
        (group(1, 1, 1, ""), "inventory path"),
    ] {
        let message = refusal(&bad);
        assert!(message.contains(says), "{bad:?}: {message:?}");
    }
}

/// What members are to be may be changed while they stand, within the bounds.
#[test]
fn a_standing_group_may_be_changed() {
    let old = group(2, 4, 3, "small");
    for changed in [group(2, 4, 7, "small"), group(3, 4, 3, "small"), group(2, 5, 3, "small"), group(2, 4, 3, "large")]
    {
        assert!(validate_cel_update(&changed, &old).is_ok(), "{changed:?}");
    }
    assert!(validate_cel_update(&group(0, 4, 3, "small"), &old).is_err());
}

fn with(field: &str, value: serde_json::Value) -> VmGroup {
    let mut group = serde_json::to_value(group(1, 1, 1, "t")).unwrap();
    group["spec"][field] = value;
    serde_json::from_value(group).unwrap()
}

#[test]
fn a_strategy_that_never_changes_anybody_is_refused() {
    let rolling = |bounds: serde_json::Value| refusal(&with("updateStrategy", json!({"rollingUpdate": bounds})));
    for fine in [
        json!({}),
        json!({"maxUnavailable": 2}),
        json!({"maxUnavailable": 0, "maxSurge": 1}),
        json!({"maxUnavailable": "25%", "maxSurge": "0%"}),
        json!({"maxUnavailable": "0%", "maxSurge": "10%"}),
    ] {
        assert_eq!(rolling(fine.clone()), "", "{fine}");
    }
    for bad in [json!({"maxUnavailable": 0}), json!({"maxUnavailable": "0%", "maxSurge": 0})] {
        assert!(rolling(bad.clone()).contains("cannot both be 0"), "{bad}");
    }
    assert!(refusal(&with("progressDeadlineSeconds", json!(0))).contains("progressDeadlineSeconds"));
    assert!(refusal(&with("minReadySeconds", json!(-1))).contains("minReadySeconds"));
    assert!(refusal(&with("readiness", json!({"type": "Address", "timeoutSeconds": 0}))).contains("timeoutSeconds"));
    assert_eq!(refusal(&with("readiness", json!({"type": "Heartbeat"}))), "");
}

fn at(target: &serde_json::Value) -> VmGroup {
    with("target", target.clone())
}

/// The group once it has its folder.
fn standing(mut group: VmGroup) -> VmGroup {
    group.status = Some(serde_json::from_value(json!({"folder": {"name": "n-g", "id": "group-v1"}})).unwrap());
    group
}

#[test]
fn a_target_is_of_one_cluster_and_its_folder_below_the_root() {
    for fine in [
        json!({}),
        json!({"cluster": "C0", "datastore": "fast", "connection": "muc"}),
        json!({"pool": "/DC0/host/C0/Resources/dev", "folder": "team-a"}),
        json!({"folder": "team-a/web.1/..."}),
    ] {
        assert_eq!(refusal(&at(&fine)), "", "{fine}");
    }
    assert!(refusal(&at(&json!({"cluster": "C0", "pool": "dev"}))).contains("give the pool alone"));
    for bad in ["", "/", "/team-a", "team-a/", "a//b", "..", "../a", "a/..", "a/./b"] {
        assert!(refusal(&at(&json!({"folder": bad}))).contains("below the operator's root folder"), "{bad}");
    }
}

/// Whoever has machines stays where they are, and is told so; before that a target may be
/// corrected.
#[test]
fn the_target_of_a_standing_group_cannot_be_changed() {
    let without = || group(1, 1, 1, "t");
    let (here, there) = (at(&json!({"cluster": "C0", "folder": "a"})), at(&json!({"cluster": "C1", "folder": "a"})));
    for (old, new) in [(&here, &there), (&here, &without()), (&without(), &here)] {
        assert!(validate_cel_update(new, old).is_ok(), "{new:?}");
        let refused = validate_cel_update(&standing(new.clone()), &standing(old.clone())).unwrap_err().to_string();
        assert!(refused.contains("spec.target") && refused.contains("stay where they are"), "{refused}");
    }
    for same in [here, without()] {
        let mut other = standing(same.clone());
        other.spec.replicas = 7;
        assert!(validate_cel_update(&other, &standing(same)).is_ok());
    }
}

/// What the schema bounds has no rule of its own.
#[test]
fn tags_are_bounded_by_the_schema() {
    let crd = serde_json::to_value(<VmGroup as kube::CustomResourceExt>::crd()).unwrap();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    let tags = &spec["tags"];
    assert_eq!(tags["maxItems"], 20, "{tags}");
    for field in ["category", "name"] {
        let text = &tags["items"]["properties"][field];
        assert_eq!((&text["minLength"], &text["maxLength"]), (&json!(1), &json!(256)), "{tags}");
    }
    assert_eq!(refusal(&with("tags", json!([{"category": "env", "name": "prod"}]))), "");
}

/// The sample of the original, to the letter.
#[test]
fn the_original_manifest_is_a_vmgroup() {
    let group: VmGroup = serde_json::from_value(json!({
        "apiVersion": "vm.codeconnect.vmworld.com/v1alpha1",
        "kind": "VmGroup",
        "metadata": {"name": "vmgroup-sample", "namespace": "myoperator-vms"},
        "spec": {"cpu": 2, "memory": 1, "replicas": 3, "template": "my-operator-template"}
    }))
    .unwrap();
    assert_eq!(refusal(&group), "");
}

/// L13: a status that knows nothing of later fields, or something of fields that
/// are gone, is understood.
#[test]
fn l13_a_status_of_another_version_is_understood() {
    let group: VmGroup = serde_json::from_value(json!({
        "apiVersion": "vm.codeconnect.vmworld.com/v1alpha1", "kind": "VmGroup",
        "metadata": {"name": "g"},
        "spec": {"cpu": 2, "memory": 1, "replicas": 3, "template": "t", "later": true},
        "status": {"phase": "RUNNING", "currentReplicas": 3, "desiredReplicas": 3, "lastMessage": "m", "former": {}}
    }))
    .unwrap();
    let status = group.status.unwrap();
    assert_eq!((status.current_replicas, status.members.len()), (Some(3), 0));
}

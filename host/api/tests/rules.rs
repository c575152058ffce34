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

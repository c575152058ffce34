//! Server-side apply: ownership, conflicts, force, pruning, lists with keys.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod kube_common;

use kube_common::*;
use serde_json::{Value, json};

fn config(spec: Value) -> Value {
    let mut object = group("sample");
    object["spec"] = spec;
    object
}

fn managers(object: &Value) -> Vec<String> {
    object["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| {
            let text = |key: &str| m[key].as_str().unwrap_or_default();
            format!("{} {} {}", text("manager"), text("operation"), text("subresource")).trim().to_owned()
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn applying_creates_then_updates() {
    let sim = server();
    let (code, made) = apply(&sim, ONE, "a", &group("sample")).await;
    assert_eq!(code, 201);
    assert_eq!(managers(&made), ["a Apply"]);
    let fields = &made["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"];
    assert_eq!(
        *fields,
        json!({"f:cpu": {}, "f:memory": {}, "f:replicas": {}, "f:template": {}}),
        "defaulted fields belong to nobody"
    );
    let (code, _) = apply(&sim, ONE, "a", &config(json!({"cpu": 4, "template": "tpl"}))).await;
    assert_eq!(code, 200);
}

#[tokio::test(start_paused = true)]
async fn a_field_that_is_no_longer_applied_goes() {
    let sim = server();
    let first = json!({"cpu": 2, "template": "tpl", "guest": {"x": "1", "y": "2"}, "strategy": "Recreate"});
    apply(&sim, ONE, "a", &config(first)).await;
    // Somebody else wants y as well.
    apply(&sim, ONE, "b", &config(json!({"cpu": 2, "template": "tpl", "guest": {"y": "2"}}))).await;
    let (_, after) = apply(&sim, ONE, "a", &config(json!({"cpu": 2, "template": "tpl"}))).await;
    assert_eq!(after["spec"]["guest"], json!({"y": "2"}));
    assert_eq!(after["spec"]["strategy"], "Rolling", "removed, and defaulted anew");
}

#[tokio::test(start_paused = true)]
async fn foreign_fields_conflict_until_forced() {
    let sim = server();
    post(&sim, &format!("{GROUPS}?fieldManager=creator"), &group("sample")).await;
    merge(&sim, &format!("{ONE}/scale?fieldManager=hpa"), &json!({"spec": {"replicas": 9}})).await;
    let wanted = config(json!({"cpu": 4, "replicas": 3, "template": "tpl"}));
    let refused = apply(&sim, ONE, "a", &wanted).await;
    assert_eq!(refused.0, 409);
    assert_eq!(
        message(&refused),
        "Apply failed with 2 conflicts: conflicts with \"creator\" using vm.codeconnect.vmworld.com/v1alpha1:\n- .spec.cpu\nconflicts with \"hpa\" with subresource \"scale\" using vm.codeconnect.vmworld.com/v1alpha1:\n- .spec.replicas"
    );
    assert_eq!(refused.1["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let (code, after) = apply(&sim, &format!("{ONE}?force=true"), "a", &wanted).await;
    assert_eq!(code, 200);
    assert_eq!(after["spec"]["replicas"], 3);
    assert_eq!(managers(&after), ["a Apply", "creator Update"], "hpa has nothing left");

    // With the same value there is nothing to fight about.
    let (code, shared) = apply(&sim, ONE, "b", &config(json!({"cpu": 4, "template": "tpl"}))).await;
    assert_eq!(code, 200);
    assert_eq!(managers(&shared), ["a Apply", "b Apply", "creator Update"]);
}

#[tokio::test(start_paused = true)]
async fn lists_with_keys_are_merged_by_key() {
    let sim = server();
    let disks = |list: Value| config(json!({"cpu": 2, "template": "tpl", "disks": list}));
    apply(&sim, ONE, "a", &disks(json!([{"name": "root", "size": 5}]))).await;
    apply(&sim, ONE, "b", &disks(json!([{"name": "data"}]))).await;
    let (_, both) = get(&sim, ONE).await;
    assert_eq!(both["spec"]["disks"], json!([{"name": "root", "size": 5}, {"name": "data", "size": 10}]));
    let (_, after) = apply(&sim, ONE, "a", &disks(json!([]))).await;
    assert_eq!(after["spec"]["disks"], json!([{"name": "data", "size": 10}]));
}

#[tokio::test(start_paused = true)]
async fn conditions_of_two_writers_live_together() {
    let sim = server();
    post(&sim, GROUPS, &group("sample")).await;
    let status = |kind: &str, status: &str| {
        let mut object = group("sample");
        object.as_object_mut().unwrap().remove("spec");
        object["status"] = json!({"conditions": [{"type": kind, "status": status}]});
        object
    };
    let uri = format!("{ONE}/status");
    assert_eq!(apply(&sim, &uri, "a", &status("Ready", "True")).await.0, 200);
    let (_, after) = apply(&sim, &uri, "b", &status("Stalled", "False")).await;
    assert_eq!(after["status"]["conditions"].as_array().map(Vec::len), Some(2));
    assert_eq!(managers(&after), ["a Apply status", "b Apply status", "tests Update"]);
    assert_eq!(apply(&sim, &uri, "b", &status("Ready", "False")).await.0, 409);
    let version = sim.version();
    apply(&sim, &uri, "b", &status("Stalled", "False")).await;
    assert_eq!(sim.version(), version);
}

#[tokio::test(start_paused = true)]
async fn finalizers_are_a_set() {
    let sim = server();
    let with = |finalizer: &str| {
        let mut object = group("sample");
        object["metadata"]["finalizers"] = json!([finalizer]);
        object
    };
    apply(&sim, ONE, "a", &with("a/x")).await;
    let (_, both) = apply(&sim, ONE, "b", &with("b/x")).await;
    assert_eq!(both["metadata"]["finalizers"], json!(["a/x", "b/x"]));
    let (_, after) = apply(&sim, ONE, "a", &group("sample")).await;
    assert_eq!(after["metadata"]["finalizers"], json!(["b/x"]));
}

#[tokio::test(start_paused = true)]
async fn what_an_apply_must_bring() {
    let sim = server();
    let anonymous = send(&sim, "PATCH", ONE, APPLY, &group("sample")).await;
    assert_eq!(anonymous.0, 422);
    assert!(message(&anonymous).contains("fieldManager: Required value: is required for apply patch"));
    let forced = merge(&sim, &format!("{ONE}?force=true"), &json!({})).await;
    assert!(message(&forced).contains("may not be specified for non-apply patch"));
    let mut unknown = group("sample");
    unknown["spec"]["bogus"] = json!(1);
    let refused = apply(&sim, ONE, "a", &unknown).await;
    assert_eq!(
        (refused.0, message(&refused)),
        (
            500,
            "failed to create typed patch object (default/sample; vm.codeconnect.vmworld.com/v1alpha1, Kind=VmGroup): .spec.bogus: field not declared in schema"
        )
    );
}

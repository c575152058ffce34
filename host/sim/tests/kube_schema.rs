//! Validation, defaulting and pruning from the CRD. The sentences were compared
//! with a kube-apiserver 1.36.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod kube_common;

use kube_common::*;
use serde_json::{Value, json};

const UNCHECKED: &str = "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";

/// What a merge patch on a valid group's spec is refused with.
async fn refused(spec: Value) -> String {
    let sim = server();
    post(&sim, GROUPS, &group("sample")).await;
    let answer = merge(&sim, ONE, &json!({"spec": spec})).await;
    assert_eq!((answer.0, answer.1["reason"].as_str()), (422, Some("Invalid")));
    let message = message(&answer);
    message.strip_prefix("VmGroup.vm.codeconnect.vmworld.com \"sample\" is invalid: ").unwrap_or(message).to_owned()
}

#[tokio::test(start_paused = true)]
async fn bounds_types_and_patterns() {
    let blocked = |first: &str| format!("[{first}, {UNCHECKED}]");
    for (spec, expected) in [
        (json!({"cpu": 0}), "spec.cpu: Invalid value: 0: spec.cpu in body should be greater than or equal to 1".to_owned()),
        (json!({"cpu": "four"}), blocked("spec.cpu: Invalid value: \"string\": spec.cpu in body must be of type integer: \"string\"")),
        (json!({"cpu": null}), blocked("spec.cpu: Required value")),
        (
            json!({"replicas": -1}),
            "[.spec.replicas: Invalid value: -1: should be a non-negative integer, spec.replicas: Invalid value: -1: spec.replicas in body should be greater than or equal to 0]".to_owned(),
        ),
        (
            json!({"cpu": 1025}),
            "[spec.cpu: Invalid value: 1025: spec.cpu in body should be less than or equal to 128, spec: Invalid value: too big]".to_owned(),
        ),
        (json!({"strategy": "Foo"}), blocked("spec.strategy: Unsupported value: \"Foo\": supported values: \"Recreate\", \"Rolling\"")),
        (json!({"tags": ["A"]}), "spec.tags[0]: Invalid value: \"A\": spec.tags[0] in body should match '^[a-z=]+$'".to_owned()),
        (json!({"tags": ["a", "b", "c", "d"]}), blocked("spec.tags: Too many: 4: must have at most 3 items")),
        (json!({"tags": ["a", "a"]}), "spec.tags[1]: Duplicate value: \"a\"".to_owned()),
        (json!({"disks": [{"name": "a"}, {"name": "a"}]}), "spec.disks[1]: Duplicate value: {\"name\":\"a\"}".to_owned()),
        (json!({"disks": [{"size": 1}]}), blocked("spec.disks[0].name: Required value")),
    ] {
        assert_eq!(refused(spec).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn rules_and_transition_rules() {
    assert_eq!(refused(json!({"cpu": 100, "memory": 100})).await, "spec: Invalid value: too big");
    assert_eq!(
        refused(json!({"template": "other"})).await,
        "spec.template: Invalid value: \"other\": the template of a group cannot be changed; make a new group"
    );
    let sim = server();
    let long = post(&sim, GROUPS, &group(&"a".repeat(41))).await;
    assert!(message(&long).ends_with("<nil>: Invalid value: names are at most 40 characters long"));
    assert_eq!(long.1["details"]["causes"][0]["reason"], "FieldValueInvalid");
}

/// A rule of the whole object may look into spec and status, as they were and as they
/// would be, and names the field that it is about.
#[tokio::test(start_paused = true)]
async fn a_transition_rule_over_spec_and_status() {
    let sim = server();
    let mut ruled = crd();
    let schema = &mut ruled["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["x-kubernetes-validations"].as_array_mut().unwrap().push(json!({
        "rule": "!has(oldSelf.status) || !has(oldSelf.status.phase) || self.spec.strategy == oldSelf.spec.strategy",
        "message": "it stays", "reason": "FieldValueForbidden", "fieldPath": ".spec.strategy",
    }));
    sim.apply(ruled).unwrap();
    post(&sim, GROUPS, &group("sample")).await;
    assert_eq!(merge(&sim, ONE, &json!({"spec": {"strategy": "Recreate"}})).await.0, 200);
    let status = format!("{ONE}/status");
    assert_eq!(merge(&sim, &status, &json!({"status": {"phase": "Running"}})).await.0, 200);
    let answer = merge(&sim, ONE, &json!({"spec": {"strategy": "Rolling"}})).await;
    assert!(answer.0 == 422 && message(&answer).ends_with("spec.strategy: Forbidden: it stays"), "{answer:?}");
    assert_eq!(merge(&sim, ONE, &json!({"spec": {"cpu": 2}})).await.0, 200);
    assert_eq!(merge(&sim, &status, &json!({"status": {"phase": "Pending"}})).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn defaults_are_filled_in_and_unknown_fields_go() {
    let sim = server();
    let object = json!({
        "apiVersion": format!("{GROUP}/v1alpha1"), "kind": "VmGroup",
        "metadata": {"name": "sample"},
        "spec": {"cpu": 1, "template": "t", "bogus": 1, "nested": {"bogus": 2}, "disks": [{"name": "a"}]},
    });
    let bytes = object.to_string().into_bytes();
    let headers = [("content-type", JSON)];
    let made = raw(&sim, "POST", GROUPS, &headers, bytes.clone()).await;
    assert_eq!(made.status(), 201);
    let warnings: Vec<_> = made.headers().get_all("warning").iter().collect();
    assert_eq!(
        warnings,
        ["299 - \"unknown field \\\"spec.bogus\\\"\"", "299 - \"unknown field \\\"spec.nested.bogus\\\"\""]
    );
    let made: Value = serde_json::from_slice(made.body()).unwrap();
    assert_eq!(
        made["spec"],
        json!({
            "cpu": 1, "template": "t", "memory": 1, "replicas": 1, "strategy": "Rolling",
            "nested": {"grace": 30}, "disks": [{"name": "a", "size": 10}],
        })
    );
    let strict = format!("{GROUPS}?fieldValidation=Strict");
    let answer = post(&sim, &strict, &object).await;
    assert_eq!(
        (answer.0, message(&answer)),
        (
            400,
            "VmGroup in version \"v1alpha1\" cannot be handled as a VmGroup: strict decoding error: unknown field \"spec.bogus\", unknown field \"spec.nested.bogus\""
        )
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_stored_wrong_may_stay_wrong() {
    let sim = server();
    post(&sim, GROUPS, &group("sample")).await;
    let mut stricter = crd();
    stricter["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["cpu"]["minimum"] =
        json!(4);
    sim.apply(stricter).unwrap();
    assert_eq!(merge(&sim, ONE, &json!({"spec": {"replicas": 5}})).await.0, 200);
    assert_eq!(merge(&sim, ONE, &json!({"spec": {"cpu": 3}})).await.0, 422);
    assert_eq!(post(&sim, GROUPS, &group("another")).await.0, 422);
}

#[tokio::test(start_paused = true)]
async fn the_status_is_validated_too() {
    let sim = server();
    post(&sim, GROUPS, &group("sample")).await;
    let answer = merge(&sim, &format!("{ONE}/status"), &json!({"status": {"phase": 1}})).await;
    assert!(
        message(&answer)
            .contains("status.phase: Invalid value: \"integer\": phase in body must be of type string: \"integer\"")
    );
}

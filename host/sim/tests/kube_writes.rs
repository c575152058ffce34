//! The rules of writing: versions, generations, isolation, patches, deletion.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod kube_common;

use kube_common::*;
use serde_json::{Value, json};

#[tokio::test(start_paused = true)]
async fn a_write_that_changes_nothing_is_no_write() {
    let sim = server();
    let (code, created) = post(&sim, GROUPS, &group("sample")).await;
    assert_eq!(code, 201);
    assert_eq!(created["metadata"]["generation"], 1);
    tokio::time::advance(std::time::Duration::from_secs(5)).await;

    for answer in [
        merge(&sim, ONE, &json!({"spec": {"cpu": 2}})).await,
        put(&sim, ONE, &created).await,
        send(&sim, "PATCH", ONE, JSON_PATCH, &json!([])).await,
    ] {
        assert_eq!(answer, (200, created.clone()));
    }
    apply(&sim, ONE, "me", &group("sample")).await;
    let version = sim.version();
    tokio::time::advance(std::time::Duration::from_secs(5)).await;
    apply(&sim, ONE, "me", &group("sample")).await;
    assert_eq!(sim.version(), version);
}

#[tokio::test(start_paused = true)]
async fn generation_rises_with_the_spec_and_with_deletion_only() {
    let sim = server();
    post(&sim, GROUPS, &group("sample")).await;
    let generation = || sim.get("vmgroups", Some("default"), "sample").unwrap()["metadata"]["generation"].clone();
    merge(&sim, ONE, &json!({"metadata": {"labels": {"a": "b"}, "finalizers": ["x/y"]}})).await;
    merge(&sim, &format!("{ONE}/status"), &json!({"status": {"phase": "RUNNING"}})).await;
    assert_eq!(generation(), 1);
    merge(&sim, ONE, &json!({"spec": {"cpu": 3}})).await;
    assert_eq!(generation(), 2);
    merge(&sim, &format!("{ONE}/scale"), &json!({"spec": {"replicas": 5}})).await;
    assert_eq!(generation(), 3);
    delete(&sim, ONE, &Value::Null).await;
    assert_eq!(generation(), 4);
    delete(&sim, ONE, &Value::Null).await;
    assert_eq!(generation(), 4);
}

#[tokio::test(start_paused = true)]
async fn spec_and_status_are_written_apart() {
    let sim = server();
    let mut whole = group("sample");
    whole["status"] = json!({"phase": "RUNNING"});
    let (_, created) = post(&sim, GROUPS, &whole).await;
    assert_eq!(created.get("status"), None);

    let both = json!({"spec": {"cpu": 9}, "status": {"phase": "PENDING"}, "metadata": {"labels": {"a": "b"}}});
    let (_, after) = merge(&sim, &format!("{ONE}/status"), &both).await;
    assert_eq!((&after["spec"]["cpu"], &after["status"]["phase"]), (&json!(2), &json!("PENDING")));
    assert_eq!(after["metadata"].get("labels"), None);

    let (_, after) = merge(&sim, ONE, &json!({"spec": {"cpu": 9}, "status": {"phase": "ERROR"}})).await;
    assert_eq!((&after["spec"]["cpu"], &after["status"]["phase"]), (&json!(9), &json!("PENDING")));
}

#[tokio::test(start_paused = true)]
async fn what_the_server_gives_cannot_be_taken() {
    let sim = server();
    let (_, created) = post(&sim, GROUPS, &group("sample")).await;
    let (code, after) = merge(
        &sim,
        ONE,
        &json!({"metadata": {"creationTimestamp": null, "generation": 40, "deletionTimestamp": "2020-01-01T00:00:00Z"}}),
    )
    .await;
    assert_eq!(code, 200);
    assert_eq!(after, created);
    // It is another object to a PUT, and a change to a patch.
    assert_eq!(merge(&sim, ONE, &json!({"metadata": {"uid": "other"}})).await.0, 422);
    let mut other = created;
    other["metadata"]["uid"] = json!("other");
    assert_eq!(put(&sim, ONE, &other).await.0, 409);
}

#[tokio::test(start_paused = true)]
async fn optimistic_locking() {
    let sim = server();
    let (_, first) = post(&sim, GROUPS, &group("sample")).await;
    merge(&sim, ONE, &json!({"spec": {"cpu": 3}})).await;
    let stale = put(&sim, ONE, &first).await;
    assert_eq!(stale.0, 409);
    assert_eq!(stale.1["reason"], "Conflict");
    assert_eq!(
        message(&stale),
        "Operation cannot be fulfilled on vmgroups.vm.codeconnect.vmworld.com \"sample\": the object has been modified; please apply your changes to the latest version and try again"
    );
    let version = &first["metadata"]["resourceVersion"];
    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"cpu": 4}});
    assert_eq!(merge(&sim, ONE, &patch).await.0, 409);

    let unversioned = put(&sim, ONE, &group("sample")).await;
    assert_eq!(unversioned.0, 422);
    assert_eq!(unversioned.1["details"]["causes"][0]["field"], "metadata.resourceVersion");
    // Built-in kinds accept it.
    post(&sim, CONFIG_MAPS, &config_map("c")).await;
    assert_eq!(put(&sim, &format!("{CONFIG_MAPS}/c"), &config_map("c")).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn refusals_have_the_real_ones_words() {
    let sim = server();
    let absent = get(&sim, ONE).await;
    assert_eq!(absent.0, 404);
    assert_eq!(
        absent.1,
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "vmgroups.vm.codeconnect.vmworld.com \"sample\" not found",
            "reason": "NotFound",
            "details": {"name": "sample", "group": GROUP, "kind": "vmgroups"},
            "code": 404,
        })
    );
    post(&sim, GROUPS, &group("sample")).await;
    let twice = post(&sim, GROUPS, &group("sample")).await;
    assert_eq!((twice.0, twice.1["reason"].as_str()), (409, Some("AlreadyExists")));

    let nowhere = post(&sim, &GROUPS.replace("default", "nowhere"), &{
        let mut g = group("x");
        g["metadata"]["namespace"] = json!("nowhere");
        g
    })
    .await;
    assert_eq!((nowhere.0, message(&nowhere)), (404, "namespaces \"nowhere\" not found"));

    let elsewhere = post(&sim, &GROUPS.replace("default", "kube-system"), &group("x")).await;
    assert_eq!(elsewhere.0, 400);
    let misnamed = put(&sim, ONE, &group("other")).await;
    assert_eq!(misnamed.0, 400);
    let illegal = post(&sim, GROUPS, &group("No_Good")).await;
    assert_eq!(illegal.0, 422);
    assert!(message(&illegal).contains("a lowercase RFC 1123 subdomain must consist of"));
    let nameless = post(&sim, GROUPS, &group("")).await;
    assert!(message(&nameless).ends_with("metadata.name: Required value: name or generateName is required"));
    let strategic = send(&sim, "PATCH", ONE, STRATEGIC, &json!({})).await;
    assert_eq!(strategic.0, 415);
    assert_eq!(send(&sim, "POST", ONE, JSON, &json!({})).await.0, 405);
    assert_eq!(get(&sim, "/apis/nosuch/v1/things").await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn generated_names_and_uids_follow_the_seed() {
    let names = |sim: vmgroup_sim::kube::KubeSim| async move {
        let mut object = group("");
        object["metadata"] = json!({"generateName": "g-"});
        let (_, a) = post(&sim, GROUPS, &object).await;
        let (_, b) = post(&sim, GROUPS, &object).await;
        (a["metadata"]["name"].clone(), b["metadata"]["name"].clone(), a["metadata"]["uid"].clone())
    };
    let first = names(server()).await;
    assert_eq!(first, names(server()).await);
    assert_ne!(first.0, first.1);
    assert!(first.0.as_str().is_some_and(|n| n.starts_with("g-") && n.len() == 7));
}

#[tokio::test(start_paused = true)]
async fn json_patch_as_the_finalizer_helper_uses_it() {
    let sim = server();
    post(&sim, GROUPS, &group("sample")).await;
    let add = json!([
        {"op": "test", "path": "/metadata/finalizers", "value": null},
        {"op": "add", "path": "/metadata/finalizers", "value": ["a/b"]},
    ]);
    assert_eq!(send(&sim, "PATCH", ONE, JSON_PATCH, &add).await.0, 200);
    let again = send(&sim, "PATCH", ONE, JSON_PATCH, &add).await;
    assert_eq!((again.0, again.1["reason"].as_str()), (422, Some("Invalid")));
    let remove = json!([
        {"op": "test", "path": "/metadata/finalizers/0", "value": "a/b"},
        {"op": "remove", "path": "/metadata/finalizers/0"},
    ]);
    assert_eq!(send(&sim, "PATCH", ONE, JSON_PATCH, &remove).await.0, 200);
    assert_eq!(send(&sim, "PATCH", ONE, JSON_PATCH, &remove).await.0, 422);
}

#[tokio::test(start_paused = true)]
async fn strategic_merge_knows_the_built_in_lists() {
    let sim = server();
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 2, "template": {"spec": {"containers": [
            {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"},
        ]}}},
    });
    post(&sim, deployments, &deployment).await;
    let patch = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]},
        {"name": "b", "$patch": "delete"},
        {"name": "c"},
    ]}}}});
    let (code, after) = send(&sim, "PATCH", &format!("{deployments}/d"), STRATEGIC, &patch).await;
    assert_eq!(code, 200);
    assert_eq!(
        after["spec"]["template"]["spec"]["containers"],
        json!([
            {"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "c"},
        ])
    );
    assert_eq!(after["metadata"]["generation"], 2);
}

#[tokio::test(start_paused = true)]
async fn deletion_waits_for_finalizers() {
    let sim = server();
    let mut object = group("sample");
    object["metadata"]["finalizers"] = json!(["a/b"]);
    post(&sim, GROUPS, &object).await;
    let (code, marked) = delete(&sim, ONE, &Value::Null).await;
    assert_eq!((code, marked["kind"].as_str()), (200, Some("VmGroup")));
    assert!(marked["metadata"]["deletionTimestamp"].is_string());

    let more = merge(&sim, ONE, &json!({"metadata": {"finalizers": ["a/b", "c/d"]}})).await;
    assert_eq!(more.0, 422);
    assert!(message(&more).contains(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{\"c/d\"}"
    ));
    // The status goes on while it is being deleted.
    let status = json!({"status": {"phase": "DELETING"}});
    assert_eq!(merge(&sim, &format!("{ONE}/status"), &status).await.0, 200);

    let (code, _) = merge(&sim, ONE, &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(code, 200);
    assert_eq!(get(&sim, ONE).await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn deletion_honours_preconditions() {
    let sim = server();
    let (_, created) = post(&sim, GROUPS, &group("sample")).await;
    let refused = delete(&sim, ONE, &json!({"preconditions": {"uid": "other"}})).await;
    assert_eq!(refused.0, 409);
    assert!(message(&refused).contains("The object might have been deleted and then recreated"));
    let stale = delete(&sim, ONE, &json!({"preconditions": {"resourceVersion": "1"}})).await;
    assert_eq!(stale.0, 409);
    let uid = &created["metadata"]["uid"];
    let (code, done) =
        delete(&sim, ONE, &json!({"preconditions": {"uid": uid}, "propagationPolicy": "Background"})).await;
    assert_eq!((code, done["status"].as_str()), (200, Some("Success")));
    assert_eq!(&done["details"]["uid"], uid);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_leaves_no_trace() {
    let sim = server();
    let version = sim.version();
    let (code, shown) = post(&sim, &format!("{GROUPS}?dryRun=All"), &group("sample")).await;
    assert_eq!((code, shown["spec"]["strategy"].as_str()), (201, Some("Rolling")));
    assert_eq!(get(&sim, ONE).await.0, 404);
    post(&sim, GROUPS, &group("sample")).await;
    let before = (sim.version(), sim.writes());
    merge(&sim, &format!("{ONE}?dryRun=All"), &json!({"spec": {"cpu": 3}})).await;
    delete(&sim, ONE, &json!({"dryRun": ["All"]})).await;
    assert_eq!((sim.version(), sim.writes()), before);
    assert!(version < before.0);
}

#[tokio::test(start_paused = true)]
async fn scale_in_both_directions() {
    let sim = server();
    post(&sim, GROUPS, &group("sample")).await;
    merge(&sim, &format!("{ONE}/status"), &json!({"status": {"currentReplicas": 3, "selector": "g=sample"}})).await;
    let (_, mut scale) = get(&sim, &format!("{ONE}/scale")).await;
    assert_eq!(scale["spec"], json!({"replicas": 3}));
    assert_eq!(scale["status"], json!({"replicas": 3, "selector": "g=sample"}));
    scale["spec"]["replicas"] = json!(8);
    assert_eq!(put(&sim, &format!("{ONE}/scale"), &scale).await.0, 200);
    assert_eq!(get(&sim, ONE).await.1["spec"]["replicas"], 8);
    // The version that it was read at is gone.
    assert_eq!(put(&sim, &format!("{ONE}/scale"), &scale).await.0, 409);
}

#[tokio::test(start_paused = true)]
async fn a_collection_goes_by_selector() {
    let sim = server();
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut object = group(name);
        object["metadata"]["labels"] = json!({"l": label});
        post(&sim, GROUPS, &object).await;
    }
    let (code, _) = delete(&sim, &format!("{GROUPS}?labelSelector=l%3Dx"), &Value::Null).await;
    assert_eq!(code, 200);
    let left = sim.list("vmgroups", None);
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["metadata"]["name"], "c");
}

#[tokio::test(start_paused = true)]
async fn secrets_and_config_maps() {
    let sim = server();
    let secrets = "/api/v1/namespaces/default/secrets";
    let (_, secret) = post(
        &sim,
        secrets,
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"user": "me"}}),
    )
    .await;
    assert_eq!(secret["data"], json!({"user": "bWU="}));
    assert_eq!(secret["type"], "Opaque");
    assert_eq!(secret.get("stringData"), None);

    let mut map = config_map("c");
    map["binaryData"] = json!({"p.wasm": "AGFzbQ=="});
    assert_eq!(post(&sim, CONFIG_MAPS, &map).await.0, 201);
    map["metadata"]["name"] = json!("d");
    map["binaryData"] = json!({"p.wasm": "not base64!"});
    assert_eq!(post(&sim, CONFIG_MAPS, &map).await.0, 400);
    map["binaryData"] = json!({"a": "AGFzbQ=="});
    assert!(message(&post(&sim, CONFIG_MAPS, &map).await).contains("duplicate of key present in binaryData"));
    map["binaryData"] = json!({"big": "A".repeat(1_500_000)});
    let big = post(&sim, CONFIG_MAPS, &map).await;
    assert_eq!(
        (big.0, message(&big)),
        (422, "ConfigMap \"d\" is invalid: []: Too long: may not be more than 1048576 bytes")
    );
    let huge = json!({"data": {"x": "y".repeat(3 * 1024 * 1024)}});
    assert_eq!(post(&sim, CONFIG_MAPS, &huge).await.0, 413);

    let frozen = json!({"immutable": true});
    assert_eq!(merge(&sim, &format!("{CONFIG_MAPS}/c"), &frozen).await.0, 200);
    assert_eq!(merge(&sim, &format!("{CONFIG_MAPS}/c"), &json!({"data": {"a": "x"}})).await.0, 422);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_takes_its_content_along() {
    let sim = server();
    sim.create_namespace("gone").unwrap();
    let mut held = group("held");
    held["metadata"] = json!({"name": "held", "namespace": "gone", "finalizers": ["a/b"]});
    sim.apply(held).unwrap();
    let mut map = config_map("c");
    map["metadata"]["namespace"] = json!("gone");
    sim.apply(map).unwrap();

    let (_, terminating) = delete(&sim, "/api/v1/namespaces/gone", &Value::Null).await;
    assert_eq!(terminating["kind"], "Namespace");
    assert_eq!(sim.get("configmaps", Some("gone"), "c"), None);
    assert_eq!(sim.get("namespaces", None, "gone").unwrap()["status"]["phase"], "Terminating");
    let late = post(&sim, "/api/v1/namespaces/gone/configmaps", &json!({"metadata": {"name": "x"}})).await;
    assert_eq!(late.0, 403);
    assert!(message(&late).contains("because it is being terminated"));

    sim.patch("vmgroups", Some("gone"), "held", json!({"metadata": {"finalizers": null}})).unwrap();
    assert_eq!(sim.get("namespaces", None, "gone"), None);
}

#[tokio::test(start_paused = true)]
async fn a_crd_makes_its_kind_and_takes_it_away() {
    let sim = bare();
    assert_eq!(get(&sim, GROUPS).await.0, 404);
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, made) = post(&sim, crds, &crd()).await;
    assert_eq!(code, 201);
    let established = made["status"]["conditions"].as_array().unwrap();
    assert!(established.iter().any(|c| c["type"] == "Established" && c["status"] == "True"));
    assert_eq!(get(&sim, GROUPS).await.0, 200);

    let mut held = group("held");
    held["metadata"]["finalizers"] = json!(["a/b"]);
    post(&sim, GROUPS, &held).await;
    post(&sim, GROUPS, &group("free")).await;
    let one = format!("{crds}/vmgroups.{GROUP}");
    delete(&sim, &one, &Value::Null).await;
    assert_eq!(sim.list("vmgroups", None).len(), 1, "the finalizer holds one, and it the CRD");
    assert_eq!(get(&sim, &one).await.0, 200);
    merge(&sim, &format!("{GROUPS}/held"), &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(get(&sim, &one).await.0, 404);
    assert_eq!(get(&sim, GROUPS).await.0, 404);

    let mut wrong = crd();
    wrong["metadata"]["name"] = json!("wrong");
    assert_eq!(post(&sim, crds, &wrong).await.0, 422);
    let mut broken = crd();
    broken["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["x-kubernetes-validations"][0]["rule"] = json!("self.(");
    assert_eq!(post(&sim, crds, &broken).await.0, 422);
}

#[tokio::test(start_paused = true)]
async fn a_token_where_one_is_required() {
    let sim = server();
    sim.require_token(Some("secret"));
    assert_eq!(get(&sim, GROUPS).await.0, 401);
    let answer = raw(&sim, "GET", GROUPS, &[("authorization", "Bearer secret")], Vec::new()).await;
    assert_eq!(answer.status(), 200);
}

//! Reading: discovery, lists, tables, watches.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod kube_common;

use std::time::Duration;

use kube_common::*;
use serde_json::{Value, json};
use vmgroup_sim::kube::WatchFault;

#[tokio::test(start_paused = true)]
async fn discovery_in_both_forms() {
    let sim = server();
    assert_eq!(get(&sim, "/version").await.1["major"], "1");
    let (_, groups) = get(&sim, "/apis").await;
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == GROUP));
    let (_, list) = get(&sim, &format!("/apis/{GROUP}/v1alpha1")).await;
    let names: Vec<&str> = list["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
    assert_eq!(names, ["vmgroups", "vmgroups/status", "vmgroups/scale"]);

    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let answer = raw(&sim, "GET", "/apis", &[("accept", aggregated)], Vec::new()).await;
    assert_eq!(
        answer.headers()["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let answer: Value = serde_json::from_slice(answer.body()).unwrap();
    let group = answer["items"].as_array().unwrap().iter().find(|i| i["metadata"]["name"] == GROUP).unwrap().clone();
    let resource = &group["versions"][0]["resources"][0];
    assert_eq!(resource["shortNames"], json!(["vg"]));
    assert_eq!(resource["subresources"].as_array().map(Vec::len), Some(2));

    let (_, index) = get(&sim, "/openapi/v3").await;
    let url = index["paths"][format!("apis/{GROUP}/v1alpha1")]["serverRelativeURL"].as_str().unwrap().to_owned();
    let (_, document) = get(&sim, &url).await;
    let schema = &document["components"]["schemas"]["com.vmworld.codeconnect.vm.v1alpha1.VmGroup"];
    assert_eq!(schema["properties"]["spec"]["properties"]["cpu"]["maximum"], 128);
}

#[tokio::test(start_paused = true)]
async fn pages_show_one_version() {
    let sim = server();
    for name in ["a", "b", "c", "d", "e"] {
        post(&sim, GROUPS, &group(name)).await;
    }
    let (_, first) = get(&sim, &format!("{GROUPS}?limit=2")).await;
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    // What happens in between is not seen.
    sim.delete("vmgroups", Some("default"), "d").unwrap();
    sim.patch_spec("vmgroups", Some("default"), "c", json!({"cpu": 9})).unwrap();
    let (_, rest) = get(&sim, &format!("{GROUPS}?limit=10&continue={token}")).await;
    let seen: Vec<_> = rest["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| (o["metadata"]["name"].clone(), o["spec"]["cpu"].clone()))
        .collect();
    assert_eq!(seen, [(json!("c"), json!(2)), (json!("d"), json!(2)), (json!("e"), json!(2))]);
    assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(rest["metadata"].get("continue"), None);

    sim.expire_history();
    let expired = get(&sim, &format!("{GROUPS}?limit=2&continue={token}")).await;
    assert_eq!((expired.0, expired.1["reason"].as_str()), (410, Some("Expired")));
    assert_eq!(get(&sim, &format!("{GROUPS}?resourceVersion=999999")).await.0, 504);
    assert_eq!(get(&sim, &format!("{GROUPS}?fieldSelector=spec.cpu%3D2")).await.0, 400);
    let (_, one) = get(&sim, &format!("{GROUPS}?fieldSelector=metadata.name%3Da")).await;
    assert_eq!(one["items"].as_array().map(Vec::len), Some(1));
}

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[tokio::test(start_paused = true)]
async fn tables_have_the_crds_columns() {
    let sim = server();
    post(&sim, GROUPS, &group("sample")).await;
    let status =
        json!({"phase": "RUNNING", "currentReplicas": 2, "conditions": [{"type": "Ready", "status": "False"}]});
    sim.set_status("vmgroups", Some("default"), "sample", status).unwrap();
    tokio::time::advance(Duration::from_secs(125)).await;
    let answer = raw(&sim, "GET", GROUPS, &[("accept", TABLE)], Vec::new()).await;
    let table: Value = serde_json::from_slice(answer.body()).unwrap();
    let columns: Vec<_> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(columns, ["Name", "Phase", "Current", "Desired", "Ready", "Template", "Age"]);
    assert_eq!(table["rows"][0]["cells"], json!(["sample", "RUNNING", 2, 3, "False", "tpl", "2m5s"]));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_what_happens() {
    let sim = server();
    let (_, list) = get(&sim, GROUPS).await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    post(&sim, GROUPS, &group("early")).await;
    let mut watch = Watch::open(&sim, &format!("{GROUPS}?watch=true&resourceVersion={version}")).await;
    assert_eq!(watch.brief().await, "ADDED early");
    post(&sim, GROUPS, &group("late")).await;
    post(&sim, CONFIG_MAPS, &config_map("other-kind")).await;
    merge(&sim, &format!("{GROUPS}/late"), &json!({"spec": {"cpu": 5}})).await;
    delete(&sim, &format!("{GROUPS}/early"), &Value::Null).await;
    assert_eq!(watch.brief().await, "ADDED late");
    assert_eq!(watch.brief().await, "MODIFIED late");
    let gone = watch.next().await.unwrap().unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(gone["object"]["metadata"]["resourceVersion"], sim.version().to_string());
}

#[tokio::test(start_paused = true)]
async fn a_watch_by_label_sees_objects_come_and_go() {
    let sim = server();
    let uri = format!("{GROUPS}?watch=true&labelSelector=in%3Dyes&resourceVersion={}", sim.version());
    let mut watch = Watch::open(&sim, &uri).await;
    post(&sim, GROUPS, &group("sample")).await;
    merge(&sim, ONE, &json!({"metadata": {"labels": {"in": "yes"}}})).await;
    merge(&sim, ONE, &json!({"spec": {"cpu": 5}})).await;
    merge(&sim, ONE, &json!({"metadata": {"labels": {"in": "no"}}})).await;
    merge(&sim, ONE, &json!({"spec": {"cpu": 6}})).await;
    merge(&sim, ONE, &json!({"metadata": {"labels": {"in": "yes"}}})).await;
    for expected in ["ADDED sample", "MODIFIED sample", "DELETED sample", "ADDED sample"] {
        assert_eq!(watch.brief().await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn bookmarks_initial_events_and_time() {
    let sim = server();
    post(&sim, GROUPS, &group("sample")).await;
    let uri = format!(
        "{GROUPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=100"
    );
    let mut watch = Watch::open(&sim, &uri).await;
    assert_eq!(watch.brief().await, "ADDED sample");
    let bookmark = watch.next().await.unwrap().unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    sim.apply(config_map("moves-the-version")).unwrap();
    let later = watch.next().await.unwrap().unwrap();
    assert_eq!(later["object"]["metadata"]["resourceVersion"], sim.version().to_string());
    assert_eq!(later["object"]["metadata"].get("annotations"), None);
    assert_eq!(watch.next().await.unwrap(), None, "its time is over");

    let wrong = get(&sim, &format!("{GROUPS}?watch=true&sendInitialEvents=true")).await;
    assert_eq!(wrong.0, 422);
}

#[tokio::test(start_paused = true)]
async fn l11_history_expires_and_watches_break() {
    let sim = server();
    let version = sim.version();
    let mut open = Watch::open(&sim, &format!("{GROUPS}?watch=true&resourceVersion={version}")).await;
    sim.expire_history();
    post(&sim, GROUPS, &group("sample")).await;
    assert_eq!(open.brief().await, "ADDED sample", "an open watch is not concerned");

    let mut late = Watch::open(&sim, &format!("{GROUPS}?watch=true&resourceVersion={version}")).await;
    let gone = late.next().await.unwrap().unwrap();
    assert_eq!((gone["type"].as_str(), gone["object"]["code"].as_u64()), (Some("ERROR"), Some(410)));
    assert_eq!(late.next().await.unwrap(), None);

    sim.drop_watches();
    assert!(open.next().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn l5_events_are_lost_repeated_overtaken_and_late() {
    let sim = server();
    let uri = |version: u64| format!("{GROUPS}?watch=true&resourceVersion={version}");
    let began = sim.version();
    let mut watch = Watch::open(&sim, &uri(began)).await;
    let time = Duration::from_secs(10);
    let mut faults = [
        Some(WatchFault::Drop),
        Some(WatchFault::Repeat),
        Some(WatchFault::Late(time)),
        None,
        Some(WatchFault::Stall(time)),
        None,
    ]
    .into_iter();
    sim.disturb_watches(move |kind| {
        assert_eq!(kind, "vmgroups");
        faults.next().flatten()
    });
    for name in ["dropped", "repeated", "overtaken", "overtaker", "stalled", "after"] {
        post(&sim, GROUPS, &group(name)).await;
    }
    let start = tokio::time::Instant::now();
    let mut told = Vec::new();
    for _ in 0..6 {
        let name = watch.brief().await;
        told.push((name, start.elapsed().as_secs()));
    }
    let told: Vec<(&str, u64)> = told.iter().map(|(name, at)| (name.as_str(), *at)).collect();
    assert_eq!(
        told,
        [
            ("ADDED repeated", 0),
            ("ADDED repeated", 0),
            ("ADDED overtaker", 0),
            ("ADDED overtaken", 10),
            ("ADDED stalled", 10),
            ("ADDED after", 10),
        ]
    );

    sim.calm_watches();
    let gone = watch.next().await.unwrap().unwrap();
    assert_eq!((gone["type"].as_str(), gone["object"]["code"].as_u64()), (Some("ERROR"), Some(410)));
    drop(watch);
    let mut again = Watch::open(&sim, &uri(began)).await;
    let gone = again.next().await.unwrap().unwrap();
    assert_eq!(gone["object"]["code"].as_u64(), Some(410), "who was told less than all has to list anew");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_falls_too_far_behind_is_told_so() {
    let sim = server();
    let (_, made) = post(&sim, CONFIG_MAPS, &config_map("busy")).await;
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = Watch::open(&sim, &format!("{CONFIG_MAPS}?watch=true&resourceVersion={version}")).await;
    for i in 0..5000 {
        sim.patch("configmaps", Some("default"), "busy", json!({"data": {"n": i.to_string()}})).unwrap();
    }
    let event = watch.next().await.unwrap().unwrap();
    assert_eq!((event["type"].as_str(), event["object"]["code"].as_u64()), (Some("ERROR"), Some(410)));
    assert_eq!(watch.next().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_watch_as_table_names_its_columns_once() {
    let sim = server();
    let uri = format!("{GROUPS}?watch=true&resourceVersion={}", sim.version());
    let mut watch = Watch::open_as(&sim, &uri, TABLE).await;
    post(&sim, GROUPS, &group("a")).await;
    post(&sim, GROUPS, &group("b")).await;
    let columns = |event: &Value| event["object"]["columnDefinitions"].as_array().map(Vec::len);
    let first = watch.next().await.unwrap().unwrap();
    assert_eq!((first["object"]["kind"].as_str(), columns(&first)), (Some("Table"), Some(7)));
    assert_eq!(columns(&watch.next().await.unwrap().unwrap()), Some(0));
}

#[tokio::test(start_paused = true)]
async fn events_have_two_faces() {
    let sim = server();
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": "e", "namespace": "default"},
        "regarding": {"kind": "VmGroup", "name": "sample", "namespace": "default", "uid": "u"},
        "type": "Normal", "reason": "Scaled", "action": "Scale", "note": "Scaled to 3",
        "reportingController": "vmgroup", "reportingInstance": "me",
        "eventTime": "2027-01-15T08:00:00.000000Z",
    });
    let uri = "/apis/events.k8s.io/v1/namespaces/default/events";
    assert_eq!(post(&sim, uri, &event).await.0, 201);
    let core = "/api/v1/namespaces/default/events";
    let (_, list) =
        get(&sim, &format!("{core}?fieldSelector=involvedObject.name%3Dsample,involvedObject.uid%3Du")).await;
    let shown = &list["items"][0];
    assert_eq!((&shown["message"], &shown["apiVersion"]), (&json!("Scaled to 3"), &json!("v1")));
    assert_eq!(shown["involvedObject"]["name"], "sample");
    let (_, none) = get(&sim, &format!("{core}?fieldSelector=involvedObject.name%3Dother")).await;
    assert_eq!(none["items"], json!([]));

    let mut long = event.clone();
    long["metadata"]["name"] = json!("long");
    long["note"] = json!("x".repeat(1025));
    assert_eq!(post(&sim, uri, &long).await.0, 422);
    let elsewhere = json!({
        "metadata": {"name": "elsewhere", "namespace": "default"},
        "involvedObject": {"kind": "VmGroup", "name": "sample", "namespace": "kube-system"},
    });
    assert_eq!(post(&sim, core, &elsewhere).await.0, 422);
}

#[tokio::test(start_paused = true)]
async fn protobuf_as_newer_kubectls_send_it() {
    // ConfigMap p with data a=b, as `kubectl create configmap` 1.33 writes it.
    let meta = [&[0x0a, 1, b'p'][..], &[0x42, 0]].concat();
    let entry = [0x0a, 1, b'a', 0x12, 1, b'b'];
    let binary = [0x0a, 1, b'w', 0x12, 4, 0, b'a', b's', b'm'];
    let field = |tag: u8, data: &[u8]| [&[tag, u8::try_from(data.len()).unwrap()], data].concat();
    let raw_map = [field(0x0a, &meta), field(0x12, &entry), field(0x1a, &binary)].concat();
    let kind = [field(0x0a, b"v1"), field(0x12, b"ConfigMap")].concat();
    let body = [b"k8s\0".to_vec(), field(0x0a, &kind), field(0x12, &raw_map)].concat();
    let sim = server();
    let headers = [
        ("content-type", "application/vnd.kubernetes.protobuf"),
        ("accept", "application/vnd.kubernetes.protobuf,application/json"),
    ];
    let answer = raw(&sim, "POST", CONFIG_MAPS, &headers, body).await;
    assert_eq!(answer.status(), 201);
    let made = sim.get("configmaps", Some("default"), "p").unwrap();
    assert_eq!((&made["data"], &made["binaryData"]), (&json!({"a": "b"}), &json!({"w": "AGFzbQ=="})));
}

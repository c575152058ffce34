//! What the tests of the simulated Kubernetes API share: a server with a CRD,
//! and requests to it as plain values.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::time::Duration;

use axum::body::Body;
use http::Request;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use vmgroup_sim::clock::Clock;
use vmgroup_sim::kube::KubeSim;

pub const GROUP: &str = "vm.codeconnect.vmworld.com";
pub const GROUPS: &str = "/apis/vm.codeconnect.vmworld.com/v1alpha1/namespaces/default/vmgroups";
pub const ONE: &str = "/apis/vm.codeconnect.vmworld.com/v1alpha1/namespaces/default/vmgroups/sample";
pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub const JSON: &str = "application/json";
pub const MERGE: &str = "application/merge-patch+json";
pub const JSON_PATCH: &str = "application/json-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const APPLY: &str = "application/apply-patch+yaml";

pub fn crd() -> Value {
    serde_saphyr::from_str(include_str!("crd.yaml")).unwrap()
}

/// A server at a fixed time, without CRD.
pub fn bare() -> KubeSim {
    KubeSim::new(Clock::starting_at(Duration::from_hours(500_000)), 7)
}

/// A server with the CRD installed.
pub fn server() -> KubeSim {
    let sim = bare();
    sim.apply(crd()).unwrap();
    sim
}

pub fn group(name: &str) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1alpha1"), "kind": "VmGroup",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"cpu": 2, "memory": 1, "replicas": 3, "template": "tpl"},
    })
}

pub fn config_map(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"}, "data": {"a": "b"},
    })
}

pub fn client(sim: &KubeSim) -> kube::Client {
    let service = sim.service().map_request(|r: http::Request<kube::client::Body>| r.map(Body::new));
    kube::Client::new(service, "default")
}

/// A request with headers; answers status, headers and body.
pub async fn raw(
    sim: &KubeSim,
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> http::Response<Vec<u8>> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body)).unwrap();
    let (parts, body) = sim.service().oneshot(request).await.unwrap().into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    http::Response::from_parts(parts, body.to_vec())
}

/// A request with a JSON body; answers status and body.
pub async fn send(sim: &KubeSim, method: &str, uri: &str, content_type: &str, body: &Value) -> (u16, Value) {
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let headers = [("content-type", content_type), ("user-agent", "tests/1")];
    let response = raw(sim, method, uri, &headers, bytes).await;
    let code = response.status().as_u16();
    (code, serde_json::from_slice(response.body()).unwrap_or(Value::Null))
}

pub async fn get(sim: &KubeSim, uri: &str) -> (u16, Value) {
    send(sim, "GET", uri, JSON, &Value::Null).await
}

pub async fn post(sim: &KubeSim, uri: &str, body: &Value) -> (u16, Value) {
    send(sim, "POST", uri, JSON, body).await
}

pub async fn put(sim: &KubeSim, uri: &str, body: &Value) -> (u16, Value) {
    send(sim, "PUT", uri, JSON, body).await
}

pub async fn merge(sim: &KubeSim, uri: &str, body: &Value) -> (u16, Value) {
    send(sim, "PATCH", uri, MERGE, body).await
}

pub async fn delete(sim: &KubeSim, uri: &str, body: &Value) -> (u16, Value) {
    send(sim, "DELETE", uri, JSON, body).await
}

pub async fn apply(sim: &KubeSim, uri: &str, manager: &str, body: &Value) -> (u16, Value) {
    let separator = if uri.contains('?') { '&' } else { '?' };
    let uri = format!("{uri}{separator}fieldManager={manager}");
    send(sim, "PATCH", &uri, APPLY, body).await
}

pub fn message(answer: &(u16, Value)) -> &str {
    answer.1["message"].as_str().unwrap_or_default()
}

/// A watch, read line by line.
pub struct Watch {
    body: axum::body::BodyDataStream,
    buffer: Vec<u8>,
}

impl Watch {
    pub async fn open(sim: &KubeSim, uri: &str) -> Self {
        Self::open_as(sim, uri, JSON).await
    }

    pub async fn open_as(sim: &KubeSim, uri: &str, accept: &str) -> Self {
        let request = Request::get(uri).header("accept", accept).body(Body::empty()).unwrap();
        let response = sim.service().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Self { body: response.into_body().into_data_stream(), buffer: Vec::new() }
    }

    /// The next event; `None` at the end, an error if the watch broke.
    pub async fn next(&mut self) -> Result<Option<Value>, axum::Error> {
        use futures::StreamExt as _;
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line).unwrap()));
            }
            match self.body.next().await {
                None => return Ok(None),
                Some(Ok(chunk)) => self.buffer.extend_from_slice(&chunk),
                Some(Err(broken)) => return Err(broken),
            }
        }
    }

    /// The next event as `TYPE name`.
    pub async fn brief(&mut self) -> String {
        let event = self.next().await.unwrap().unwrap();
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap_or_default()).trim().to_owned()
    }
}

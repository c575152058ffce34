//! Traces as a collector gets them: over HTTP, from the operator in the
//! simulated world.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tracing_subscriber::layer::SubscriberExt as _;
use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Options, User, World};
use vmgroup_operator::traces::Exporter;

const SOON: Duration = Duration::from_secs(60);

/// A collector on a thread of its own, where time is real: its URL, and the
/// requests that it gets.
fn collector() -> (String, mpsc::Receiver<ExportTraceServiceRequest>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    listener.set_nonblocking(true).unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let take = move |body: bytes::Bytes| async move {
                let _ = sender.send(ExportTraceServiceRequest::decode(body).unwrap());
            };
            let router = axum::Router::new().route("/v1/traces", axum::routing::post(take));
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
    });
    (url, receiver)
}

/// The exporter's farewell blocks, which a runtime's thread must not.
fn end(exporter: Exporter) {
    std::thread::spawn(move || exporter.end()).join().unwrap();
}

fn text(value: &Value) -> String {
    match value {
        Value::StringValue(text) => text.clone(),
        other => format!("{other:?}"),
    }
}

fn attributes(span: &Span) -> BTreeMap<&str, String> {
    span.attributes
        .iter()
        .filter_map(|pair| Some((pair.key.as_str(), text(pair.value.as_ref()?.value.as_ref()?))))
        .collect()
}

/// A group's passes arrive with their steps, calls and decisions below them, and
/// nothing arrives that is not part of a pass.
#[tokio::test(start_paused = true)]
async fn a_pass_is_a_trace() {
    let (url, requests) = collector();
    let exporter = Exporter::new(&url, "operator-0").unwrap();
    let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(exporter.layer()));
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    world.kill_operator().await.unwrap();
    drop(guard);
    end(exporter);

    let mut spans = Vec::new();
    for batch in requests.try_iter().flat_map(|request| request.resource_spans) {
        let resource = batch.resource.unwrap();
        let named = |key: &str, value: &str| {
            resource.attributes.iter().any(|pair| {
                pair.key == key
                    && pair.value.as_ref().and_then(|it| it.value.as_ref()).map(text).as_deref() == Some(value)
            })
        };
        assert!(named("service.name", "vmgroup-operator") && named("service.instance.id", "operator-0"));
        spans.extend(batch.scope_spans.into_iter().flat_map(|scope| scope.spans));
    }
    let roots: Vec<&Span> = spans.iter().filter(|span| span.parent_span_id.is_empty()).collect();
    assert!(!roots.is_empty());
    for root in &roots {
        let attributes = attributes(root);
        assert_eq!(root.name, "pass");
        assert_eq!((attributes["namespace"].as_str(), attributes["name"].as_str()), ("shop", "web"));
        assert!(attributes.contains_key("result") && attributes.contains_key("reconcile_id"), "{attributes:?}");
    }
    // The pass that made the clones: what is below what.
    let clone = spans.iter().find(|span| span.name == "CloneVM_Task").unwrap();
    let of_its_trace = |name: &str| -> Vec<&Span> {
        spans.iter().filter(|span| span.trace_id == clone.trace_id && span.name == name).collect()
    };
    let apply = of_its_trace("apply");
    assert_eq!(clone.parent_span_id, apply[0].span_id);
    assert_eq!(attributes(clone)["outcome"], "ok");
    let pass = of_its_trace("pass");
    for step in ["look", "ask", "plan", "apply", "tell"] {
        let steps = of_its_trace(step);
        assert!(!steps.is_empty(), "no step {step}");
        assert!(steps.iter().all(|step| step.parent_span_id == pass[0].span_id));
    }
    let decisions = of_its_trace("decision");
    let kinds: Vec<String> = decisions.iter().map(|span| attributes(span)["kind"].clone()).collect();
    assert_eq!(kinds, ["naming", "placement"]);
    assert!(decisions.iter().all(|span| attributes(span)["outcome"] == "answered"));
    let status =
        spans.iter().find(|span| span.name.starts_with("PATCH ") && span.name.ends_with("/web/status")).unwrap();
    assert_eq!(attributes(status)["http.response.status_code"], "200");
}

/// A collector that takes the connection and never answers: groups get what they
/// want all the same, and the operator can end.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_collector() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let exporter = Exporter::new(&format!("http://{}", silent.local_addr().unwrap()), "operator-0").unwrap();
    let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(exporter.layer()));
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    // More spans than the queue holds.
    for index in 0..12 {
        user.group("shop", &format!("web-{index}"), 5).await;
    }
    for index in 0..12 {
        user.ready("shop", &format!("web-{index}"), 5, SOON).await;
    }
    drop(guard);
    end(exporter);
}

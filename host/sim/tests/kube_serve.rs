//! Serving over a socket: faults as broken connections, and the server's end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod kube_common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use kube_common::server;
use vmgroup_sim::faults::{Fault, Rule};
use vmgroup_sim::serve::{Server, kubeconfig, serve, serve_on};

/// What comes back for one request line until the connection closes.
async fn exchange(server: &Server, line: &str) -> String {
    let addr = server.addr;
    let request = format!("{line} HTTP/1.1\r\nhost: sim\r\nconnection: close\r\n\r\n");
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // A reset is an end like any other here.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_cut_closes_the_connection_without_an_answer() {
    let sim = server();
    let http = serve(sim.service(), None).await.unwrap();
    assert!(exchange(&http, "GET /version").await.starts_with("HTTP/1.1 200"));
    sim.faults().add(Rule::next("GET /version", Fault::Reset));
    assert_eq!(exchange(&http, "GET /version").await, "");
    sim.faults().add(Rule::next("GET /version", Fault::Error("503".into())));
    assert!(exchange(&http, "GET /version").await.starts_with("HTTP/1.1 503"));
}

#[tokio::test]
async fn dropping_the_server_frees_its_port() {
    let sim = server();
    let first = serve(sim.service(), None).await.unwrap();
    let port = first.addr.port();
    assert!(kubeconfig(first.addr).contains(&format!("http://127.0.0.1:{port}")));
    drop(first);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let again = loop {
        match serve_on(sim.service(), port, None).await {
            Ok(server) => break server,
            Err(e) => {
                assert!(tokio::time::Instant::now() < deadline, "{e}");
                tokio::task::yield_now().await;
            }
        }
    };
    assert!(exchange(&again, "GET /readyz").await.ends_with("ok"));
}

#[tokio::test]
async fn a_broken_watch_is_a_broken_connection() {
    let sim = server();
    let http = serve(sim.service(), None).await.unwrap();
    let watch = exchange(&http, "GET /api/v1/namespaces?watch=true");
    let breaker = async {
        // Broken once it is there: the call is counted before it is answered.
        while !sim.faults().calls().contains_key("WATCH namespaces") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sim.drop_watches();
    };
    let (answer, ()) = tokio::join!(watch, breaker);
    assert!(answer.starts_with("HTTP/1.1 200"));
    assert!(!answer.ends_with("0\r\n\r\n"), "no proper end of the body");
}

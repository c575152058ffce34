//! `pods/exec` over a socket, as a client sees it that knows RFC 6455 and no more. That
//! kubectl is content is tried in `host/e2e/tests/real/kubectl_plugin.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod kube_common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube_common::server;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use vmgroup_sim::kube::{Exec, KubeSim};
use vmgroup_sim::serve::{Server, serve};

/// With what a client has to say for a WebSocket; the key is the one of the RFC.
const WEBSOCKET: &str = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n";

const EXEC: &str = "/api/v1/namespaces/default/pods/one/exec?command=say&command=a+b&stdin=true&stdout=true";

async fn begin(server: &Server, method: &str, uri: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(format!("{method} {uri} HTTP/1.1\r\nhost: sim\r\n{headers}\r\n").as_bytes()).await.unwrap();
    stream
}

/// The head of the answer.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn with_pod() -> KubeSim {
    let sim = server();
    let containers = json!([{ "name": "c", "image": "i" }]);
    sim.apply(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "one", "namespace": "default" },
        "spec": { "containers": containers },
    }))
    .unwrap();
    sim
}

#[tokio::test]
async fn a_command_is_run_behind_a_web_socket() {
    let sim = with_pod();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = seen.clone();
    sim.on_exec(move |exec| {
        noted.lock().unwrap().extend([format!("{}/{}", exec.namespace, exec.pod), exec.command.join("|")]);
        async move {
            let Exec { mut stdin, mut stdout, .. } = exec;
            let mut text = Vec::new();
            stdin.read_to_end(&mut text).await.unwrap();
            text.reverse();
            stdout.write_all(&text).await.unwrap();
            0
        }
    });
    let http = serve(sim.service(), None).await.unwrap();
    let mut stream = begin(&http, "GET", EXEC, WEBSOCKET).await;
    let answer = head(&mut stream).await.to_lowercase();
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "as the RFC has it: {answer}");
    assert!(answer.contains("sec-websocket-protocol: v5.channel.k8s.io"), "{answer}");
    // A mask of zeros changes nothing: standard input, and its end.
    stream.write_all(&[0x82, 0x84, 0, 0, 0, 0, 0, b'a', b'b', b'c']).await.unwrap();
    stream.write_all(&[0x82, 0x82, 0, 0, 0, 0, 255, 0]).await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest[..6], [0x82, 4, 1, b'c', b'b', b'a']);
    assert!(String::from_utf8_lossy(&rest).contains("Success"), "{rest:?}");
    assert!(rest.ends_with(&[0x88, 2, 3, 232]), "it closes: {rest:?}");
    assert_eq!(*seen.lock().unwrap(), ["default/one", "say|a b"]);
}

#[tokio::test]
async fn whatever_else_is_no_exec() {
    let sim = with_pod();
    let http = serve(sim.service(), None).await.unwrap();
    let mut nobody = begin(&http, "GET", EXEC, WEBSOCKET).await;
    assert!(head(&mut nobody).await.starts_with("HTTP/1.1 400"), "nothing runs here yet");
    sim.on_exec(|_| async { 0 });
    for (method, uri, headers, code) in [
        ("POST", EXEC, "connection: Upgrade\r\nupgrade: SPDY/3.1\r\ncontent-length: 0\r\n", 400),
        ("GET", EXEC, "", 400),
        ("GET", "/api/v1/namespaces/default/pods/one/exec?stdin=true", WEBSOCKET, 400),
        ("GET", "/api/v1/namespaces/default/pods/two/exec?command=say", WEBSOCKET, 404),
        ("GET", EXEC, WEBSOCKET.replace("v5.", "v9.").as_str(), 400),
    ] {
        let mut stream = begin(&http, method, uri, headers).await;
        let answer = head(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{method} {uri}: {answer}");
    }
    sim.require_token(Some("secret"));
    let mut stranger = begin(&http, "GET", EXEC, WEBSOCKET).await;
    assert!(head(&mut stranger).await.starts_with("HTTP/1.1 401"));
}

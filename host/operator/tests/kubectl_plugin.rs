//! `kubectl vmgroup …`: the binary under its other name, and a kubectl that execs
//! on this machine instead of into a pod.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::{Json, Router, routing};
use tokio_util::sync::CancellationToken;
use vmgroup_operator::decisions;
use vmgroup_operator::offload::Offload;
use vmgroup_operator::preview::{Coming, Preview, Said, Wanted};
use vmgroup_records::Recorder;

/// A kubectl that knows one lease and one pod.
const KUBECTL: &str = r#"#!/bin/sh
[ "$1 $2" = "--namespace vmgroup-system" ] || { echo "unexpected: $*" >&2; exit 1; }
shift 2
case "$*" in
  "get lease vmgroup-operator "*) printf %s "$HOLDER" ;;
  "exec --stdin $POD -- /vmgroup tunnel") exec "$VMGROUP" tunnel ;;
  *) echo "unexpected: $*" >&2; exit 1 ;;
esac
"#;

struct Desk {
    folder: PathBuf,
    socket: PathBuf,
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Desk {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("vmgroup-plugin-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let kubectl = folder.join("kubectl");
        std::fs::write(&kubectl, KUBECTL).unwrap();
        std::fs::set_permissions(&kubectl, std::fs::Permissions::from_mode(0o755)).unwrap();
        symlink(env!("CARGO_BIN_EXE_vmgroup"), folder.join("kubectl-vmgroup")).unwrap();
        Self { socket: folder.join("socket"), folder }
    }

    async fn plugin(&self, holder: &str, pod: &str, arguments: &[&str]) -> Output {
        let path = format!("{}:{}", self.folder.display(), std::env::var("PATH").unwrap());
        tokio::process::Command::new(self.folder.join("kubectl-vmgroup"))
            .args(arguments)
            .env("PATH", path)
            .env("HOLDER", holder)
            .env("POD", pod)
            .env("VMGROUP", env!("CARGO_BIN_EXE_vmgroup"))
            .env("VMGROUP_SOCKET", &self.socket)
            .output()
            .await
            .unwrap()
    }

    fn serve(&self, router: Router) -> CancellationToken {
        let stop = CancellationToken::new();
        let listener = decisions::listen(&self.socket).unwrap();
        tokio::spawn(decisions::serve(listener, self.socket.clone(), router, stop.clone()));
        stop
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/plugins").join(format!("{name}.wasm"))
}

fn said() -> Preview {
    Preview {
        group: "shop/web".to_owned(),
        wished_now: 3,
        replicas: 2,
        members: 3,
        going: vec![Said { name: "web-7".to_owned(), reason: "it is the oldest".to_owned() }],
        coming: vec![Coming {
            name: "web-8".to_owned(),
            place: "c/h/d".to_owned(),
            named: "the next number".to_owned(),
            placed: "the emptiest".to_owned(),
        }],
        ..Preview::default()
    }
}

/// A policy's bytes and a megabyte of answer go through unharmed, and to the pod that leads.
#[tokio::test]
async fn a_preview_comes_through_kubectl() {
    let desk = Desk::new("preview");
    let seen: Arc<Mutex<Option<(Wanted, Bytes)>>> = Arc::default();
    let noted = seen.clone();
    let page = move |Query(wanted): Query<Wanted>, body: Bytes| {
        let noted = noted.clone();
        async move {
            if wanted.group == "shop/none" {
                return (StatusCode::NOT_FOUND, "there is no VmGroup shop/none").into_response();
            }
            *noted.lock().unwrap() = Some((wanted, body));
            Json(said()).into_response()
        }
    };
    let stop = desk.serve(Router::new().route("/preview", routing::post(page)));
    let (holder, pod) = ("vmgroup-operator-5d-x7_0123456789abcdef", "pod/vmgroup-operator-5d-x7");
    let file = shipped("ordered");
    let arguments = [
        "preview",
        "shop/web",
        "--replicas",
        "2",
        "--policy",
        file.to_str().unwrap(),
        "--config",
        r#"{"order":"oldest"}"#,
    ];
    let output = desk.plugin(holder, pod, &arguments).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    for part in [
        "shop/web: 3 there, 2 wished instead of 3",
        "- web-7  it is the oldest",
        "+ web-8  c/h/d",
        "Nothing was changed.",
    ] {
        assert!(shown.contains(part), "{part} is missing in:\n{shown}");
    }
    let (wanted, body) = seen.lock().unwrap().take().unwrap();
    assert_eq!(wanted.plugin.as_deref(), Some("ordered.wasm"));
    assert_eq!((wanted.replicas, wanted.config.as_deref()), (Some(2), Some(r#"{"order":"oldest"}"#)));
    assert_eq!(body, std::fs::read(&file).unwrap());

    // Without an election, to whichever pod there is; and for programs.
    let output = desk.plugin("", "deploy/vmgroup-operator", &["preview", "shop/web", "--output", "json"]).await;
    let shown: Preview = serde_json::from_slice(&output.stdout).expect("a preview");
    assert_eq!(shown, said());

    let output = desk.plugin(holder, pod, &["preview", "shop/none"]).await;
    assert_eq!(
        (output.status.code(), text(&output.stderr)),
        (Some(1), "error: there is no VmGroup shop/none\n".into())
    );
    stop.cancel();
}

#[tokio::test]
async fn decisions_come_through_kubectl_and_what_goes_wrong_is_said() {
    let desk = Desk::new("decisions");
    let stop = desk.serve(decisions::router(Recorder::off(), Offload::Blocking));
    let output = desk.plugin("", "deploy/vmgroup-operator", &["decisions", "list"]).await;
    assert_eq!(text(&output.stdout), "no decisions are kept that fit\n", "{}", text(&output.stderr));

    // kubectl's own words stay, and ours say what to look at.
    let output = desk.plugin("", "deploy/another", &["decisions", "list"]).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("unexpected: exec") && said.contains("through kubectl"), "{said}");

    // What asks no operator asks none.
    let output = desk.plugin("", "", &["policy", "request", "--kind", "scaling"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    stop.cancel();
}

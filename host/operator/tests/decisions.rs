//! Decisions of a running operator, asked for with the real binary over the
//! real socket.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::extract::Query;
use axum::{Json, Router, routing};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use vmgroup_operator::decisions;
use vmgroup_operator::offload::Offload;
use vmgroup_operator::preview::{Preview, Said, Wanted};
use vmgroup_policy::wit::types::{Context, Group, Inventory, Member, PowerState, Purpose};
use vmgroup_policy::wit::{naming, scaling};
use vmgroup_policy::{Host, Kind, Limits, Policy, Question, Source, shipped};
use vmgroup_records::{Entry, Made, Recorder, Role, Settings};

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("vmgroup-decisions-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn context() -> Context {
    Context {
        now: 1_000_000,
        utc_offset_minutes: None,
        seed: 7,
        attempt: 0,
        purpose: Purpose::ScaleIn,
        config: String::new(),
        group: Group {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: "uid".to_owned(),
            labels: Vec::new(),
            template: "ubuntu".to_owned(),
            cpus: 1,
            memory_mib: 1024,
            replicas: 2,
            attributes: Vec::new(),
        },
    }
}

fn member(number: u32) -> Member {
    Member {
        name: format!("web-{number}"),
        uuid: format!("00000000-0000-0000-0000-{number:012}"),
        created_at: Some(u64::from(number)),
        power: PowerState::PoweredOn,
        host: None,
        datastore: None,
        cpu_used_mhz: None,
        memory_used_mib: None,
        ready: true,
        protected: false,
        attributes: Vec::new(),
    }
}

/// One machine gets its name, and then one of three has to leave.
fn story() -> Recorder {
    let host = Host::new(Limits::default()).unwrap();
    let policy = |kind, name: &str, config: Value| -> Arc<Policy> {
        host.check(kind, &Source { config, ..shipped::find(name).unwrap() }).unwrap().policy
    };
    let recorder = Recorder::start(Settings { memory: 1 << 20, files: None }).unwrap();
    let decide = |policy: Arc<Policy>, question: Question| {
        let tried = policy.answer(&question);
        let made = Made { at_ms: 1_700_000_000_000, role: Role::InForce, micros: 250 };
        recorder.record(Entry { policy, question: Arc::new(question), tried, made });
    };
    decide(
        policy(Kind::Naming, "ordinal", json!({ "pattern": "{group}-{ordinal}", "start": 1 })),
        Question::Naming(naming::Request {
            context: context(),
            count: 1,
            members: [1, 2].map(member).to_vec(),
            taken_in_group: vec!["web-1".to_owned(), "web-2".to_owned()],
            taken_elsewhere: Vec::new(),
            max_length: 80,
        }),
    );
    decide(
        policy(Kind::Scaling, "ordered", json!({})),
        Question::Scaling(scaling::Request {
            context: context(),
            count: 1,
            members: [1, 2, 3].map(member).to_vec(),
            inventory: Inventory { clusters: Vec::new(), hosts: Vec::new(), datastores: Vec::new() },
        }),
    );
    recorder.flush(Duration::from_secs(60));
    recorder
}

async fn vmgroup(socket: &Path, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_vmgroup"));
    command.args(arguments).env("VMGROUP_SOCKET", socket).output().await.unwrap()
}

async fn prints(socket: &Path, arguments: &[&str]) -> String {
    let output = vmgroup(socket, arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn complains(socket: &Path, arguments: &[&str]) -> String {
    let output = vmgroup(socket, arguments).await;
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn decisions_are_listed_shown_explained_and_replayed() {
    let folder = Folder::new();
    let (socket, stop) = (folder.0.join("socket"), CancellationToken::new());
    let listener = decisions::listen(&socket).unwrap();
    // Of whom nothing is recorded, and of whom something is.
    let there = ["web-1", "web-3", "web-9"].map(str::to_owned).to_vec();
    let going = vec![Said { name: "web-3".to_owned(), reason: "the newest".to_owned() }];
    let page = move |Query(wanted): Query<Wanted>| {
        let (there, going) = (there.clone(), going.clone());
        async move {
            assert!(wanted.one_fewer && wanted.replicas.is_none());
            Json(Preview { there, going, ..Preview::default() })
        }
    };
    let router = decisions::router(story(), Offload::Blocking);
    let router = router.merge(Router::new().route("/preview", routing::post(page)));
    let server = tokio::spawn(decisions::serve(listener, socket.clone(), router, stop.clone()));

    let list = prints(&socket, &["decisions", "list", "--group", "shop/web"]).await;
    assert_eq!(list.lines().count(), 2, "{list}");
    assert!(list.contains("2023-11-14 22:13:20Z") && list.contains("web-3"), "{list}");
    let scaling = prints(&socket, &["decisions", "list", "--kind", "scaling", "--output", "json"]).await;
    let scaling: Value = serde_json::from_str(&scaling).unwrap();
    assert_eq!((&scaling[0]["number"], &scaling[0]["outcome"]), (&json!(2), &json!("answered")));
    assert!(prints(&socket, &["decisions", "list", "--group", "no/such"]).await.contains("no decisions"));

    let shown = prints(&socket, &["decisions", "show", "2"]).await;
    assert!(shown.contains("scaling for shop/web") && shown.contains("ordered") && shown.contains("fuel"), "{shown}");
    assert!(complains(&socket, &["decisions", "show", "77"]).await.contains("there is no decision 77"));

    let why = prints(&socket, &["explain", "shop/web", "web-3"]).await;
    assert!(why.contains("leaving  chosen: ") && why.contains("by ordinal"), "{why}");
    assert!(why.contains("next     yes: ") && why.contains("the newest"), "{why}");
    let why = prints(&socket, &["explain", "shop/web", "web-1"]).await;
    assert!(why.contains("not chosen when 1 of 3") && why.contains("web-3: "), "{why}");
    assert!(why.contains("next     no: if one fewer were wished, web-3 would go: the newest"), "{why}");
    let why = prints(&socket, &["explain", "shop/web", "web-2"]).await;
    assert!(why.contains("it is no member any more"), "{why}");
    let why = prints(&socket, &["explain", "shop/web", "web-9"]).await;
    assert!(why.contains("decided before the records begin") && why.contains("next     no"), "{why}");
    let why = prints(&socket, &["explain", "shop/web", "web-3", "--output", "json"]).await;
    let why: Value = serde_json::from_str(&why).unwrap();
    assert_eq!((&why["next"]["is"], &why["next"]["reason"]), (&json!("next"), &json!("the newest")));
    let nobody = complains(&socket, &["explain", "shop/web", "nobody"]).await;
    assert!(nobody.contains("no member of shop/web now, and no decision about `nobody`"), "{nobody}");

    let export = vmgroup(&socket, &["decisions", "export"]).await.stdout;
    let file = folder.0.join("decisions.jsonl.zst");
    std::fs::write(&file, export).unwrap();
    let (file, page) = (file.to_str().unwrap().to_owned(), folder.0.join("replay.html"));
    // The same of a file, whoever has written it.
    assert_eq!(prints(&socket, &["decisions", "list", "--group", "shop/web", "--records", &file]).await, list);
    let latest = prints(&socket, &["decisions", "list", "--limit", "1", "--records", &file]).await;
    assert_eq!(latest.trim_end(), list.lines().last().unwrap());
    assert_eq!(prints(&socket, &["decisions", "show", "2", "--records", &file]).await, shown);
    let why = prints(&socket, &["explain", "shop/web", "web-3", "--records", &file]).await;
    assert!(why.contains("leaving  chosen: ") && !why.contains("next"), "{why}");
    assert!(complains(&socket, &["explain", "shop/no", "web-3", "--records", &file]).await.contains("shop/no"));
    let replay = ["policy", "replay", &file, "--policy", "ordered", "--config"];
    let same = prints(&socket, &[&replay[..], &[r#"{"order":"newest"}"#, "--exit-code"]].concat()).await;
    assert!(same.contains("1  same\n") && same.contains("1 decisions replayed, 1 of another kind"), "{same}");
    let other = [&replay[..], &[r#"{"order":"oldest"}"#, "--html", page.to_str().unwrap()]].concat();
    let differs = prints(&socket, &other).await;
    assert!(differs.contains("then  web-3 (") && differs.contains("now   web-1 ("), "{differs}");
    assert!(std::fs::read_to_string(&page).unwrap().contains("1 of 1 decisions would have gone another way"));
    let judged = vmgroup(&socket, &[&other[..], &["--exit-code"]].concat()).await;
    assert_eq!(judged.status.code(), Some(1));
    let bad = [&replay[..], &[r#"{"order":"sideways"}"#]].concat();
    assert!(complains(&socket, &bad).await.contains("sideways"));

    stop.cancel();
    server.await.unwrap();
    assert!(!socket.exists());
    let absent = complains(&socket, &["decisions", "list"]).await;
    assert!(absent.contains("no operator listens") && absent.contains("kubectl exec"), "{absent}");
}

#[tokio::test]
async fn a_socket_left_behind_is_taken_over_and_a_live_one_is_not() {
    let folder = Folder::new();
    let socket = folder.0.join("socket");
    drop(decisions::listen(&socket).unwrap());
    let listener = decisions::listen(&socket).unwrap();
    assert!(decisions::listen(&socket).unwrap_err().to_string().contains("another operator"));
    drop(listener);
}

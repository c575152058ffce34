//! The client against the simulated registry, in this process.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;
use vmgroup_registry::{Again, Cache, Contents, Digest, Error, Pulled, Pushed, Reference, Registry, Settings};
use vmgroup_sim::registry::RegistrySim;
use vmgroup_wire::{Transport, TransportError, TransportKind};

const WASM: &[u8] = b"\0asm and what follows";
const MAX_WASM: usize = 1_000;

struct InProcess(RegistrySim);

impl Transport for InProcess {
    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Bytes>, TransportError>> {
        let service = self.0.service();
        async move {
            let cut = |cut| TransportError::new(TransportKind::Broken, cut);
            let (head, body) = service.oneshot(request.map(Body::from)).await.map_err(cut)?.into_parts();
            let body = body.collect().await.map_err(|error| TransportError::new(TransportKind::Broken, error))?;
            Ok(http::Response::from_parts(head, body.to_bytes()))
        }
        .boxed()
    }
}

/// A folder of its own, gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vmgroup-registry-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn settings() -> Settings {
    Settings { logins: None, plain_http: false, plain_http_if_local: true, max_wasm: MAX_WASM }
}

fn client(sim: &RegistrySim, settings: Settings, cache: Option<Cache>) -> Registry {
    Registry::new(Arc::new(InProcess(sim.clone())), settings, cache)
}

fn at(reference: &str) -> Reference {
    reference.parse().unwrap()
}

async fn push(registry: &Registry, wasm: &'static [u8]) -> Result<Pushed, Error> {
    let contents = Contents { exports: vec!["vmgroup:policy/scaling@0.2.0".to_owned()], imports: Vec::new() };
    let annotations = BTreeMap::from([("key".to_owned(), "value".to_owned())]);
    registry.push(&at("oci://127.0.0.1:5000/team/policy:1.0"), Bytes::from_static(wasm), contents, annotations).await
}

async fn pull(registry: &Registry, reference: &Reference) -> Result<Pulled, Error> {
    registry.pull(reference, SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600)).await
}

#[tokio::test]
async fn what_is_pushed_is_pulled_by_its_digest_and_by_nothing_else() {
    let sim = RegistrySim::default();
    let registry = client(&sim, settings(), None);
    let pushed = push(&registry, WASM).await.unwrap();
    assert!(!pushed.known && pushed.reference.tag.is_none());
    let again = push(&registry, WASM).await.unwrap();
    assert!(again.known);
    assert_eq!(again.reference, pushed.reference, "the same component is the same artifact");
    let pulled = pull(&registry, &pushed.reference).await.unwrap();
    assert_eq!((&pulled.wasm[..], pulled.annotations["key"].as_str()), (WASM, "value"));

    let by_tag = at("oci://127.0.0.1:5000/team/policy:1.0");
    assert_eq!(registry.resolve(&by_tag).await.unwrap(), pushed.reference);
    let error = pull(&registry, &by_tag).await.unwrap_err();
    assert!(matches!(&error, Error::Unpinned(_)) && error.again() == Again::Never, "{error}");

    let nowhere = pushed.reference.pinned(Digest::of(b"another manifest"));
    let error = pull(&registry, &nowhere).await.unwrap_err();
    assert!(matches!(&error, Error::NotFound { .. }) && error.again() == Again::Later, "{error}");
}

#[tokio::test]
async fn what_was_changed_on_the_way_is_refused() {
    let sim = RegistrySim::default();
    let registry = client(&sim, settings(), None);
    let reference = push(&registry, WASM).await.unwrap().reference;
    sim.tamper();
    let error = pull(&registry, &reference).await.unwrap_err();
    assert!(matches!(&error, Error::Digest { wanted, .. } if *wanted == Digest::of(WASM)), "{error}");
    assert!(error.remedy().contains("changed"), "{error}");
}

#[tokio::test]
async fn more_than_a_policy_may_have_is_not_read() {
    const LARGE: &[u8] = &[7; MAX_WASM + 1];
    let sim = RegistrySim::default();
    let registry = client(&sim, settings(), None);
    let reference = push(&registry, LARGE).await.unwrap().reference;
    let calls = sim.calls();
    let error = pull(&registry, &reference).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: MAX_WASM, .. }) && error.again() == Again::Never, "{error}");
    assert_eq!(sim.calls(), calls + 1, "the manifest says how large it is: nobody asks for it");
}

#[tokio::test]
async fn s9_a_login_goes_to_the_registry_and_no_further() {
    let sim = RegistrySim::default();
    sim.require("robot", "hunter2");
    sim.keep_blobs_elsewhere();
    let folder = Folder::new("logins");
    let file = folder.0.join("config.json");
    let with_password = |password: &str| {
        let text = format!(r#"{{"auths":{{"127.0.0.1:5000":{{"username":"robot","password":"{password}"}}}}}}"#);
        std::fs::write(&file, text).unwrap();
    };
    let logged_in = Settings { logins: Some(file.clone()), ..settings() };
    let registry = client(&sim, logged_in, None);

    let missing = push(&registry, WASM).await.unwrap_err();
    assert!(matches!(&missing, Error::Logins(_)), "{missing}");
    with_password("wrong");
    let error = push(&registry, WASM).await.unwrap_err();
    assert!(matches!(&error, Error::Denied { user: Some(user), status: 401, .. } if user == "robot"), "{error:?}");
    assert!(!format!("{error} {error:?} {}", error.remedy()).contains("wrong"), "{error:?}");
    // A corrected file counts at once, and the store behind it accepts no login.
    with_password("hunter2");
    let reference = push(&registry, WASM).await.unwrap().reference;
    assert_eq!(pull(&registry, &reference).await.unwrap().wasm, WASM);

    let nobody = pull(&client(&sim, settings(), None), &reference).await.unwrap_err();
    assert!(matches!(&nobody, Error::Denied { user: None, .. }), "{nobody:?}");
    assert!(nobody.remedy().contains("config.json"), "{nobody}");
}

#[tokio::test]
async fn what_was_pulled_once_needs_no_registry() {
    let folder = Folder::new("cache");
    let sim = RegistrySim::default();
    let cache = || Some(Cache::open(&folder.0, 1 << 20).unwrap());
    let registry = client(&sim, settings(), cache());
    let reference = push(&registry, WASM).await.unwrap().reference;
    pull(&registry, &reference).await.unwrap();
    sim.set_down(true);
    let later = client(&sim, settings(), cache());
    assert_eq!(pull(&later, &reference).await.unwrap().wasm, WASM);
    let error = pull(&client(&sim, settings(), None), &reference).await.unwrap_err();
    assert!(matches!(&error, Error::Transport { .. }) && error.again() == Again::Soon, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_says_nothing_is_not_waited_for() {
    struct Silent;
    impl Transport for Silent {
        fn call(&self, _: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Bytes>, TransportError>> {
            futures::future::pending().boxed()
        }
    }
    let registry = Registry::new(Arc::new(Silent), settings(), None);
    let reference = at("oci://r.example.com/a").pinned(Digest::of(b"x"));
    let error = pull(&registry, &reference).await.unwrap_err();
    assert!(matches!(&error, Error::Slow { .. }) && error.again() == Again::Soon, "{error}");
}

//! A simulated OCI registry: the distribution protocol as far as one artifact is
//! pushed and pulled, with a login by token, redirects and damage where wished.
//!
//! Must not know what is in the blobs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tower::Service;
use tower::util::service_fn;

use crate::faults::Cut;

/// The token that a login is given.
const TOKEN: &str = "a-token-of-the-simulated-registry";

#[derive(Default)]
struct State {
    /// By repository and digest.
    blobs: BTreeMap<(String, String), Bytes>,
    /// By repository and tag or digest.
    manifests: BTreeMap<(String, String), Bytes>,
    login: Option<(String, String)>,
    down: bool,
    silent: bool,
    elsewhere: bool,
    calls: u64,
}

/// The registry. Cheap to clone; all clones are the same one.
#[derive(Clone, Default)]
pub struct RegistrySim(Arc<Mutex<State>>);

impl RegistrySim {
    /// Nobody gets in from now on but with this login.
    pub fn require(&self, user: &str, password: &str) {
        self.state().login = Some((user.to_owned(), password.to_owned()));
    }

    /// Breaks all connections, or no more.
    pub fn set_down(&self, down: bool) {
        self.state().down = down;
    }

    /// Answers nobody, and closes no connection; or does so again.
    pub fn set_silent(&self, silent: bool) {
        self.state().silent = silent;
    }

    /// Sends whoever wants a blob to another place for it, where a login is refused,
    /// as object stores do.
    pub fn keep_blobs_elsewhere(&self) {
        self.state().elsewhere = true;
    }

    /// Changes the last byte of everything that is stored, but no name.
    pub fn tamper(&self) {
        let damaged = |bytes: &mut Bytes| {
            let mut changed = bytes.to_vec();
            if let Some(last) = changed.last_mut() {
                *last ^= 1;
            }
            *bytes = changed.into();
        };
        self.state().blobs.values_mut().for_each(damaged);
    }

    /// How often anything was asked.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// It as a service.
    pub fn service(
        &self,
    ) -> impl Service<Request<Body>, Response = Response<Body>, Error = Cut, Future: Send + 'static> + Clone + Send + 'static
    {
        let sim = self.clone();
        service_fn(move |request| sim.clone().answer(request))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, Cut> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let answer = self.state().take(&head.method, &head.uri, &head.headers, body);
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

fn plain(status: StatusCode) -> Response<Body> {
    with(status, &[], Body::empty())
}

fn with(status: StatusCode, headers: &[(header::HeaderName, &str)], body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    for (name, value) in headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn refusal(status: StatusCode, code: &str) -> Response<Body> {
    with(status, &[], json!({ "errors": [{ "code": code, "message": "says the simulated registry" }] }).to_string())
}

impl State {
    /// None: silence.
    fn take(
        &mut self,
        method: &Method,
        uri: &http::Uri,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Option<Result<Response<Body>, Cut>> {
        self.calls += 1;
        match (self.silent, self.down) {
            (true, _) => None,
            (false, true) => Some(Err(Cut)),
            (false, false) => Some(Ok(self.answer(method, uri, headers, body))),
        }
    }

    fn answer(&mut self, method: &Method, uri: &http::Uri, headers: &HeaderMap, body: Bytes) -> Response<Body> {
        let authorization = headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok());
        let path = uri.path();
        if path == "/token" {
            return self.token(authorization);
        }
        if let Some(blob) = path.strip_prefix("/elsewhere/") {
            // A signed URL and a login at once are too much for an object store.
            if authorization.is_some() {
                return plain(StatusCode::BAD_REQUEST);
            }
            let found = self.blobs.iter().find(|((_, digest), _)| digest == blob);
            return found.map_or_else(|| plain(StatusCode::NOT_FOUND), |(_, it)| with(StatusCode::OK, &[], it.clone()));
        }
        if self.login.is_some() && authorization != Some(&format!("Bearer {TOKEN}")) {
            let host = headers.get(header::HOST).and_then(|it| it.to_str().ok()).or(uri.host()).unwrap_or_default();
            let scheme = uri.scheme_str().unwrap_or("http");
            let challenge = format!(r#"Bearer realm="{scheme}://{host}/token",service="sim",scope="all""#);
            let headers = [(header::WWW_AUTHENTICATE, challenge.as_str())];
            return with(StatusCode::UNAUTHORIZED, &headers, Body::empty());
        }
        let rest = path.strip_prefix("/v2/").unwrap_or_default();
        let begins_upload = rest.strip_suffix("/blobs/uploads/");
        if let Some(repository) = begins_upload.filter(|_| method == Method::POST) {
            let place = format!("/v2/{repository}/blobs/uploads/1");
            return with(StatusCode::ACCEPTED, &[(header::LOCATION, &place)], Body::empty());
        }
        if let Some(repository) = rest.strip_suffix("/blobs/uploads/1").filter(|_| method == Method::PUT) {
            return self.upload(repository, uri.query().unwrap_or_default(), body);
        }
        if let Some((repository, digest)) = rest.split_once("/blobs/") {
            let Some(blob) = self.blobs.get(&(repository.to_owned(), digest.to_owned())) else {
                return refusal(StatusCode::NOT_FOUND, "BLOB_UNKNOWN");
            };
            if self.elsewhere && method == Method::GET {
                let place = format!("http://blobs.sim.example/elsewhere/{digest}");
                return with(StatusCode::TEMPORARY_REDIRECT, &[(header::LOCATION, &place)], Body::empty());
            }
            let shown = if method == Method::HEAD { Bytes::new() } else { blob.clone() };
            return with(StatusCode::OK, &[], shown);
        }
        if let Some((repository, name)) = rest.split_once("/manifests/") {
            if method == Method::PUT {
                for name in [name, &digest_of(&body)] {
                    self.manifests.insert((repository.to_owned(), name.to_owned()), body.clone());
                }
                return plain(StatusCode::CREATED);
            }
            return match self.manifests.get(&(repository.to_owned(), name.to_owned())) {
                Some(manifest) => with(StatusCode::OK, &[], manifest.clone()),
                None => refusal(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            };
        }
        refusal(StatusCode::NOT_FOUND, "NAME_UNKNOWN")
    }

    fn upload(&mut self, repository: &str, query: &str, body: Bytes) -> Response<Body> {
        let digest = digest_of(&body);
        if query != format!("digest={digest}") && query != format!("digest={}", digest.replace(':', "%3A")) {
            return refusal(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
        }
        self.blobs.insert((repository.to_owned(), digest), body);
        plain(StatusCode::CREATED)
    }

    fn token(&self, authorization: Option<&str>) -> Response<Body> {
        let wanted = self
            .login
            .as_ref()
            .map(|(user, password)| format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))));
        if wanted.as_deref() != authorization {
            return plain(StatusCode::UNAUTHORIZED);
        }
        with(StatusCode::OK, &[], json!({ "token": TOKEN }).to_string())
    }
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

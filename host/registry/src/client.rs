//! The distribution protocol (OCI distribution specification 1.1): pull by digest,
//! resolve a tag, push.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use vmgroup_wire::{AtMost, Credentials, Password, Transport};

use crate::challenge::Challenge;
use crate::manifest::{Config, INDEX, MANIFEST, Manifest};
use crate::{Cache, Contents, Digest, Error, Logins, Reference};

/// One exchange, however large what is sent.
const EXCHANGE: Duration = Duration::from_secs(60);
/// The largest manifest, as the specification has registries take at least.
const MAX_MANIFEST: usize = 4 << 20;
/// Any other answer: tokens, errors.
const MAX_WORDS: usize = 64 << 10;
/// A registry sends for a blob to where it lies; further than this is a circle.
const MAX_REDIRECTS: usize = 5;

/// How registries are met.
#[derive(Clone, Debug)]
pub struct Settings {
    /// docker's `config.json`, read at each pull; none: nobody logs in.
    pub logins: Option<PathBuf>,
    /// Every registry speaks plain HTTP.
    pub plain_http: bool,
    /// Those on this machine do, as they mostly have no certificate.
    pub plain_http_if_local: bool,
    /// The largest component.
    pub max_wasm: usize,
}

/// A client for any registry.
#[derive(Clone)]
pub struct Registry {
    transport: Arc<dyn Transport>,
    settings: Settings,
    cache: Option<Cache>,
}

/// An artifact that was pulled.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// Where from, with its digest.
    pub reference: Reference,
    /// The component.
    pub wasm: Bytes,
    /// The manifest's.
    pub annotations: BTreeMap<String, String>,
}

/// An artifact that was pushed.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// Where to, with its digest.
    pub reference: Reference,
    /// Whether the component was there already.
    pub known: bool,
}

/// A conversation with one registry about one repository.
struct Session<'a> {
    registry: &'a Registry,
    reference: &'a Reference,
    credentials: Option<Credentials>,
    authorization: Option<HeaderValue>,
}

/// A request, as it can be sent again.
struct Call<'a> {
    method: Method,
    url: String,
    /// In words, for messages.
    what: &'a str,
    headers: &'a [(http::HeaderName, &'a str)],
    body: Bytes,
    at_most: usize,
}

/// What a token service answers.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// What a registry answers when it refuses.
#[derive(Deserialize)]
struct Refusals {
    errors: Vec<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Registry {
    /// A client with this transport. With a cache, what was pulled once is not
    /// asked for again.
    pub fn new(transport: Arc<dyn Transport>, settings: Settings, cache: Option<Cache>) -> Self {
        Self { transport, settings, cache }
    }

    /// The artifact of this digest: from the cache, or else from the registry.
    pub async fn pull(&self, reference: &Reference, now: SystemTime) -> Result<Pulled, Error> {
        let digest = reference.digest.clone().ok_or_else(|| Error::Unpinned(reference.clone()))?;
        let mut session = None;
        let manifest = if let Some(bytes) = self.cached(&digest, MAX_MANIFEST, now).await {
            bytes
        } else {
            let session = session.insert(self.session(reference).await?);
            let bytes = session.manifest(digest.as_str()).await?;
            session.is(&digest, &bytes)?;
            self.keep(&digest, &bytes, now).await;
            bytes
        };
        let layout = |problem| Error::Layout { reference: reference.clone(), problem };
        let manifest = Manifest::read(&manifest).map_err(layout)?;
        let (layer, limit) = (manifest.layer(), self.settings.max_wasm);
        if usize::try_from(layer.size).is_ok_and(|size| size > limit) {
            return Err(Error::TooLarge { what: reference.to_string(), limit });
        }
        let wasm = if let Some(bytes) = self.cached(&layer.digest, limit, now).await {
            bytes
        } else {
            let session = match &mut session {
                Some(session) => session,
                none => none.insert(self.session(reference).await?),
            };
            let bytes = session.blob(&layer.digest, limit).await?;
            session.is(&layer.digest, &bytes)?;
            self.keep(&layer.digest, &bytes, now).await;
            bytes
        };
        Ok(Pulled { reference: reference.pinned(digest), wasm, annotations: manifest.annotations })
    }

    /// The digest that a tag means at this moment, or the one that is there already.
    pub async fn resolve(&self, reference: &Reference) -> Result<Reference, Error> {
        if let Some(digest) = &reference.digest {
            return Ok(reference.pinned(digest.clone()));
        }
        let tag = reference.tag.as_deref().unwrap_or("latest");
        let bytes = self.session(reference).await?.manifest(tag).await?;
        Ok(reference.pinned(Digest::of(&bytes)))
    }

    /// Puts a component into a registry, under its digest and the reference's tag,
    /// if it has one.
    pub async fn push(
        &self,
        reference: &Reference,
        wasm: Bytes,
        contents: Contents,
        annotations: BTreeMap<String, String>,
    ) -> Result<Pushed, Error> {
        let mut session = self.session(reference).await?;
        let problem = |error: serde_json::Error| Error::Layout {
            reference: reference.clone(),
            problem: format!("its manifest cannot be written: {error}"),
        };
        let config = serde_json::to_vec(&Config::new(Digest::of(&wasm), contents)).map_err(problem)?;
        let manifest = serde_json::to_vec(&Manifest::new(&config, &wasm, annotations)).map_err(problem)?;
        let digest = Digest::of(&manifest);
        let known = session.upload("the component", wasm).await?;
        session.upload("the config", config.into()).await?;
        let name = reference.tag.as_deref().unwrap_or(digest.as_str());
        session.put_manifest(name, manifest.into()).await?;
        Ok(Pushed { reference: reference.pinned(digest), known })
    }

    async fn session<'a>(&'a self, reference: &'a Reference) -> Result<Session<'a>, Error> {
        let credentials = match self.settings.logins.clone() {
            // A file that was changed counts without a restart.
            Some(path) => blocking(move || Logins::read(&path)).await?.of(&reference.host).cloned(),
            None => None,
        };
        Ok(Session { registry: self, reference, credentials, authorization: None })
    }

    async fn cached(&self, digest: &Digest, at_most: usize, now: SystemTime) -> Option<Bytes> {
        let (cache, digest) = (self.cache.clone()?, digest.clone());
        blocking(move || cache.get(&digest, at_most, now)).await
    }

    /// What cannot be kept is pulled again the next time.
    async fn keep(&self, digest: &Digest, bytes: &Bytes, now: SystemTime) {
        let Some(cache) = self.cache.clone() else { return };
        let (digest, bytes) = (digest.clone(), bytes.clone());
        if let Err(error) = blocking(move || cache.put(&digest, &bytes, now)).await {
            tracing::warn!(%error, "what was pulled cannot be kept in the cache");
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

impl Session<'_> {
    fn base(&self) -> String {
        let Settings { plain_http, plain_http_if_local, .. } = self.registry.settings;
        let plain = plain_http || (plain_http_if_local && self.reference.is_local());
        let scheme = if plain { "http" } else { "https" };
        format!("{scheme}://{}/v2/{}", self.reference.host, self.reference.repository)
    }

    fn host(&self) -> String {
        self.reference.host.clone()
    }

    fn is(&self, wanted: &Digest, bytes: &[u8]) -> Result<(), Error> {
        let found = Digest::of(bytes);
        if found == *wanted { Ok(()) } else { Err(Error::Digest { host: self.host(), wanted: wanted.clone(), found }) }
    }

    async fn manifest(&mut self, name: &str) -> Result<Bytes, Error> {
        let what = format!("manifest {name} of {}", self.reference.repository);
        let accept = format!("{MANIFEST}, {INDEX}");
        let url = format!("{}/manifests/{name}", self.base());
        self.get(&what, url, &[(ACCEPT, &accept)], MAX_MANIFEST).await
    }

    async fn blob(&mut self, digest: &Digest, at_most: usize) -> Result<Bytes, Error> {
        let what = format!("blob {digest} of {}", self.reference.repository);
        let url = format!("{}/blobs/{digest}", self.base());
        self.get(&what, url, &[], at_most).await
    }

    /// Follows to where it lies. There nobody is told who we are.
    async fn get(
        &mut self,
        what: &str,
        mut url: String,
        headers: &[(http::HeaderName, &str)],
        at_most: usize,
    ) -> Result<Bytes, Error> {
        for _ in 0..=MAX_REDIRECTS {
            let call = Call { method: Method::GET, url: url.clone(), what, headers, body: Bytes::new(), at_most };
            let response = self.call(&call).await?;
            if !response.status().is_redirection() {
                return match response.status() {
                    StatusCode::OK => Ok(response.into_body()),
                    _ => Err(self.refused(what, &response)),
                };
            }
            url = self.location(what, &url, &response)?;
        }
        Err(self.protocol(what, "it sends from one place to another in a circle"))
    }

    /// Whether it was there already.
    async fn upload(&mut self, what: &str, bytes: Bytes) -> Result<bool, Error> {
        let digest = Digest::of(&bytes);
        let call = |method, url, headers, body| Call { method, url, what, headers, body, at_most: MAX_WORDS };
        let there = call(Method::HEAD, format!("{}/blobs/{digest}", self.base()), &[], Bytes::new());
        // A registry that keeps its blobs elsewhere sends there.
        let there = self.call(&there).await?.status();
        if there.is_success() || there.is_redirection() {
            return Ok(true);
        }
        let begin = format!("{}/blobs/uploads/", self.base());
        let response = self.call(&call(Method::POST, begin.clone(), &[], Bytes::new())).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.refused(what, &response));
        }
        let place = self.location(what, &begin, &response)?;
        let joint = if place.contains('?') { '&' } else { '?' };
        let headers = [(CONTENT_TYPE, "application/octet-stream")];
        let put = call(Method::PUT, format!("{place}{joint}digest={digest}"), &headers, bytes);
        let response = self.call(&put).await?;
        if response.status() == StatusCode::CREATED { Ok(false) } else { Err(self.refused(what, &response)) }
    }

    async fn put_manifest(&mut self, name: &str, bytes: Bytes) -> Result<(), Error> {
        let what = format!("manifest {name} of {}", self.reference.repository);
        let call = Call {
            method: Method::PUT,
            url: format!("{}/manifests/{name}", self.base()),
            what: &what,
            headers: &[(CONTENT_TYPE, MANIFEST)],
            body: bytes,
            at_most: MAX_WORDS,
        };
        let response = self.call(&call).await?;
        if response.status() == StatusCode::CREATED { Ok(()) } else { Err(self.refused(&what, &response)) }
    }

    /// One exchange; where it is asked who we are, another one with the answer.
    async fn call(&mut self, call: &Call<'_>) -> Result<Response<Bytes>, Error> {
        let ours = origin(&call.url) == origin(&self.base());
        let authorization = self.authorization.clone().filter(|_| ours);
        let response = self.exchange(call, authorization).await?;
        if response.status() != StatusCode::UNAUTHORIZED || !ours {
            return Ok(response);
        }
        let asked = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let Some(challenge) = asked.filter_map(|value| value.to_str().ok()).find_map(Challenge::parse) else {
            return Ok(response);
        };
        self.authorization = match challenge {
            Challenge::Basic => self.basic(),
            Challenge::Bearer { realm, service, scope } => {
                Some(self.token(&realm, service.as_deref(), scope.as_deref()).await?)
            }
        };
        match self.authorization.clone() {
            Some(authorization) => self.exchange(call, Some(authorization)).await,
            None => Ok(response),
        }
    }

    async fn exchange(&self, call: &Call<'_>, authorization: Option<HeaderValue>) -> Result<Response<Bytes>, Error> {
        let Call { method, url, what, headers, body, at_most } = call;
        let mut request = Request::builder().method(method).uri(url).extension(AtMost(*at_most));
        for (name, value) in *headers {
            request = request.header(name, *value);
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request =
            request.body(body.clone()).map_err(|source| Error::Request { what: (*what).to_owned(), source })?;
        let host = origin(url).rsplit('/').next().unwrap_or_default().to_owned();
        let response = match tokio::time::timeout(EXCHANGE, self.registry.transport.call(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(source)) => return Err(Error::Transport { host, source }),
            Err(_) => return Err(Error::Slow { host, seconds: EXCHANGE.as_secs() }),
        };
        // The transport stops reading there and lets it be seen.
        if response.body().len() > *at_most {
            return Err(Error::TooLarge { what: (*what).to_owned(), limit: *at_most });
        }
        Ok(response)
    }

    fn basic(&self) -> Option<HeaderValue> {
        let Credentials { user, password } = self.credentials.as_ref()?;
        secret(&format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{}", password.expose()))))
    }

    async fn token(&self, realm: &str, service: Option<&str>, scope: Option<&str>) -> Result<HeaderValue, Error> {
        let what = "a token";
        // A login goes to whoever the registry names, so not over an open line
        // unless the registry itself is at the end of one.
        let open = realm.starts_with("http://") && self.base().starts_with("http://");
        if !(open || realm.starts_with("https://")) {
            return Err(self.protocol(what, "its token service is not reached by https"));
        }
        let asked: Vec<(&str, &str)> =
            [("service", service), ("scope", scope)].into_iter().filter_map(|(name, it)| Some((name, it?))).collect();
        let query = serde_urlencoded::to_string(asked).unwrap_or_default();
        let joint = if realm.contains('?') { '&' } else { '?' };
        let call = Call {
            method: Method::GET,
            url: format!("{realm}{joint}{query}"),
            what,
            headers: &[],
            body: Bytes::new(),
            at_most: MAX_WORDS,
        };
        let response = self.exchange(&call, self.basic()).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(what, &response));
        }
        let token =
            serde_json::from_slice(response.body()).ok().and_then(|token: Token| token.token.or(token.access_token));
        let token = token.map(Password::from).filter(|token| !token.expose().is_empty());
        token
            .and_then(|token| secret(&format!("Bearer {}", token.expose())))
            .ok_or_else(|| self.protocol(what, "there is no token in it"))
    }

    fn refused(&self, what: &str, response: &Response<Bytes>) -> Error {
        let (host, what) = (self.host(), what.to_owned());
        match response.status() {
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                let user = self.credentials.as_ref().map(|it| it.user.clone());
                Error::Denied { host, user, status: status.as_u16() }
            }
            StatusCode::NOT_FOUND => Error::NotFound { host, what },
            status => {
                let refusals: Option<Refusals> = serde_json::from_slice(response.body()).ok();
                let first = refusals.and_then(|it| it.errors.into_iter().next());
                let words = first.map(|it| format!("{} {}", it.code, it.message)).unwrap_or_default();
                let words = words.chars().filter(|it| !it.is_control()).take(200).collect();
                Error::Status { host, what, status: status.as_u16(), words }
            }
        }
    }

    fn protocol(&self, what: &str, problem: &str) -> Error {
        Error::Protocol { host: self.host(), what: what.to_owned(), problem: problem.to_owned() }
    }

    /// Where an answer sends us: a URL, or a path at the same server.
    fn location(&self, what: &str, from: &str, response: &Response<Bytes>) -> Result<String, Error> {
        let place = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let place = place.ok_or_else(|| self.protocol(what, "it sends elsewhere without saying where"))?;
        if place.starts_with('/') && !place.starts_with("//") {
            return Ok(format!("{}{place}", origin(from)));
        }
        if place.starts_with("https://") || (place.starts_with("http://") && from.starts_with("http://")) {
            return Ok(place.to_owned());
        }
        Err(self.protocol(what, "it sends to a place that is not reached by https"))
    }
}

/// `https://host:port` of a URL.
fn origin(url: &str) -> &str {
    let begins = url.find("://").map_or(0, |at| at + 3);
    let ends = url[begins..].find(['/', '?']).map_or(url.len(), |at| begins + at);
    &url[..ends]
}

/// A header that is not shown in traces.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

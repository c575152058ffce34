//! Requests into operations, operations into responses.
//!
//! Knows HTTP and the operations; the rules of writing are in `write`, the
//! faults come from outside.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};

use super::json::{array, field, text};
use super::request::{Query, Route, Target, accepted, operation, route};
use super::resources::{Resource, storage_key};
use super::select::Selector;
use super::status::{ApiError, FieldError};
use super::store::{Key, State};
use super::table;
use super::watch::{self, Start, View, Wish};
use super::write::{FieldValidation, PatchBody, Preconditions, Sub, Write, Written, scale_of};
use super::{discovery, exec, openapi, proto};
use crate::faults::{Cut, Fault, Faults};

/// What the real server reads of a request at most.
const MAX_BODY: usize = 3 * 1024 * 1024;

/// The API as a tower service.
#[derive(Clone)]
pub struct KubeService {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) faults: Faults,
}

impl tower::Service<Request<Body>> for KubeService {
    type Response = Response<Body>;
    type Error = Cut;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Cut>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Cut>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { service.answer(request).await })
    }
}

fn respond(code: u16, content_type: &str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = content_type.parse() {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-cache, private"));
    response
}

fn json_response(code: u16, value: &Value) -> Response<Body> {
    respond(code, "application/json", value.to_string())
}

fn refusal(error: &ApiError) -> Response<Body> {
    let mut response = json_response(error.code, &error.to_status());
    if error.code == 429 {
        response.headers_mut().insert(header::RETRY_AFTER, http::HeaderValue::from_static("1"));
    }
    response
}

fn page_not_found() -> Response<Body> {
    respond(404, "text/plain; charset=utf-8", "404 page not found\n")
}

/// A request with its body read.
struct Call {
    method: Method,
    query: Query,
    headers: HeaderMap,
    body: Bytes,
}

impl KubeService {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, Cut> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let route = route(&path);
        let query = Query::of(&parts.uri);
        let operation = operation(&parts.method, &route, &path, &query);
        let fault = self.faults.on_call(&operation);
        match &fault {
            Some(Fault::Reset) => return Err(Cut),
            Some(Fault::Error(text)) => return Ok(refusal(&ApiError::scripted(text))),
            Some(Fault::Delay(time)) => tokio::time::sleep(*time).await,
            Some(Fault::LoseReply | Fault::FailTask(_) | Fault::LoseTask | Fault::DenyTask { .. }) | None => {}
        }
        if let Route::Resource(target) = &route
            && target.is_exec()
        {
            return Ok(self.exec(parts, target, &query).unwrap_or_else(|e| refusal(&e)));
        }
        let Ok(body) = axum::body::to_bytes(body, MAX_BODY).await else {
            let message = format!("Request entity too large: limit is {MAX_BODY}");
            return Ok(refusal(&ApiError::new(413, "RequestEntityTooLarge", message)));
        };
        let call = Call { method: parts.method, query, headers: parts.headers, body };
        let response = self.dispatch(&route, &call).unwrap_or_else(|e| refusal(&e));
        if fault == Some(Fault::LoseReply) { Err(Cut) } else { Ok(response) }
    }

    /// The one thing that is no exchange of documents.
    fn exec(&self, parts: Parts, target: &Target, query: &Query) -> Result<Response<Body>, ApiError> {
        let state = self.lock();
        authenticate(&state, &parts.headers)?;
        let key = (target.namespace.clone(), target.name.clone());
        if state.get(&storage_key("", "pods"), &key).is_none() {
            return Err(ApiError::not_found("", "pods", &target.name));
        }
        exec::accept(parts, target, query, state.exec.clone())
    }

    fn dispatch(&self, route: &Route, call: &Call) -> Result<Response<Body>, ApiError> {
        let mut state = self.lock();
        authenticate(&state, &call.headers)?;
        if let Route::Resource(target) = route {
            if target.plural == "selfsubjectaccessreviews" && call.method == Method::POST {
                // There is no authorization: everybody may do everything.
                let review = json!({
                    "kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
                    "metadata": {}, "spec": {}, "status": {"allowed": true},
                });
                return Ok(json_response(201, &review));
            }
            return self.resource(&mut state, target, call);
        }
        if !matches!(call.method, Method::GET | Method::HEAD) {
            return Ok(page_not_found());
        }
        let resources = &state.resources;
        let found = match route {
            Route::Root => Some(json!({"paths": [
                "/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version",
            ]})),
            Route::Version => Some(discovery::version()),
            Route::Health => return Ok(respond(200, "text/plain; charset=utf-8", "ok")),
            Route::Core | Route::Groups => {
                let core = *route == Route::Core;
                // Clients that cannot read the legacy form alone still get it.
                if accepted(&call.headers, &call.query).is_ok_and(|a| a.aggregated) {
                    return Ok(respond(
                        200,
                        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                        discovery::aggregated(resources, core).to_string(),
                    ));
                }
                Some(if core { discovery::core() } else { discovery::group_list(resources) })
            }
            Route::Group(group) => discovery::one_group(resources, group),
            Route::Resources { group, version } => discovery::resource_list(resources, group, version),
            Route::OpenApiIndex => Some(openapi::index(resources, state.version)),
            Route::OpenApi(path) => openapi::document(resources, path),
            Route::Resource(_) | Route::Unknown => None,
        };
        Ok(found.map_or_else(page_not_found, |value| json_response(200, &value)))
    }

    fn resource(&self, state: &mut State, target: &Target, call: &Call) -> Result<Response<Body>, ApiError> {
        let Some(resource) = state.find(&target.group, &target.version, &target.plural) else {
            return Ok(page_not_found());
        };
        let sub = match target.sub.as_str() {
            "" => Sub::Main,
            "status" if resource.status => Sub::Status,
            "scale" if resource.scale.is_some() => Sub::Scale,
            _ => return Ok(page_not_found()),
        };
        if !resource.namespaced && !target.namespace.is_empty() {
            return Ok(page_not_found());
        }
        let named = !target.name.is_empty();
        match (&call.method, named) {
            (&Method::GET | &Method::HEAD, true) if !call.query.on("watch") => get(state, &resource, target, sub, call),
            (&Method::GET | &Method::HEAD, _) if call.query.on("watch") => self.watch(state, resource, target, call),
            (&Method::GET | &Method::HEAD, _) => list(state, &resource, target, call),
            (&Method::POST, false) | (&Method::PUT | &Method::PATCH, true) | (&Method::DELETE, _) => {
                write(state, &resource, target, sub, call)
            }
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    fn watch(
        &self,
        state: &State,
        resource: Arc<Resource>,
        target: &Target,
        call: &Call,
    ) -> Result<Response<Body>, ApiError> {
        let query = &call.query;
        let view = accepted(&call.headers, query)?.view;
        let mut selector = Selector::parse(query.get("labelSelector"), query.get("fieldSelector"), &resource)?;
        if !target.name.is_empty() {
            selector = Selector::parse("", &format!("metadata.name={}", target.name), &resource)?;
        }
        let version = version_of(query)?;
        let streaming = query.on("sendInitialEvents");
        if streaming && query.get("resourceVersionMatch") != "NotOlderThan" {
            let error = FieldError::forbidden(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            );
            return Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", &[error]));
        }
        let start = match version {
            _ if streaming => Start::Present { streaming: true },
            None | Some(0) => Start::Present { streaming: false },
            Some(version) => Start::After(version),
        };
        let seconds = query.get("timeoutSeconds").parse().unwrap_or(0);
        // The real server picks 30 to 60 minutes for those who name no time.
        let timeout = Duration::from_secs(if seconds == 0 { 2400 } else { seconds });
        let wish = Wish {
            resource,
            namespace: target.namespace.clone(),
            selector,
            view,
            bookmarks: query.on("allowWatchBookmarks"),
            timeout,
            start,
        };
        Ok(respond(200, "application/json", watch::open(state, self.state.clone(), wish)))
    }
}

fn authenticate(state: &State, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(token) = &state.token else { return Ok(()) };
    let given = headers.get(header::AUTHORIZATION).and_then(|h| h.to_str().ok());
    if given.and_then(|g| g.strip_prefix("Bearer ")) == Some(token) {
        return Ok(());
    }
    Err(ApiError::new(401, "Unauthorized", "Unauthorized"))
}

fn version_of(query: &Query) -> Result<Option<u64>, ApiError> {
    match query.get("resourceVersion") {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            ApiError::bad_request(format!(
                "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))
        }),
    }
}

fn shown(state: &State, resource: &Resource, object: &Value, call: &Call) -> Result<Value, ApiError> {
    Ok(match accepted(&call.headers, &call.query)?.view {
        View::Whole => object.clone(),
        View::Partial => table::partial(object),
        View::Table(include) => {
            let metadata = json!({"resourceVersion": super::json::meta(object, "resourceVersion")});
            let now = state.clock.now();
            table::table(resource, std::slice::from_ref(object), &metadata, now, include, true)
        }
    })
}

fn get(state: &State, resource: &Resource, target: &Target, sub: Sub, call: &Call) -> Result<Response<Body>, ApiError> {
    let key = (target.namespace.clone(), target.name.clone());
    let stored = state
        .get(&resource.storage_key(), &key)
        .ok_or_else(|| ApiError::not_found(&resource.group, &resource.plural, &target.name))?;
    let object = State::present(resource, &stored);
    if sub == Sub::Scale {
        return Ok(json_response(200, &scale_of(resource, &object)));
    }
    Ok(json_response(200, &shown(state, resource, &object, call)?))
}

/// Where a list goes on: the version it shows, and the last key given out.
fn continue_token(version: u64, last: &Key) -> String {
    URL_SAFE_NO_PAD.encode(json!({"rv": version, "ns": last.0, "name": last.1}).to_string())
}

fn read_token(token: &str) -> Option<(u64, Key)> {
    let token = URL_SAFE_NO_PAD.decode(token).ok()?;
    let token: Value = serde_json::from_slice(&token).ok()?;
    let key = (text(&token, "ns").to_owned(), text(&token, "name").to_owned());
    Some((field(&token, "rv").as_u64()?, key))
}

fn list(state: &State, resource: &Resource, target: &Target, call: &Call) -> Result<Response<Body>, ApiError> {
    let query = &call.query;
    let view = accepted(&call.headers, query)?.view;
    let selector = Selector::parse(query.get("labelSelector"), query.get("fieldSelector"), resource)?;
    let storage = resource.storage_key();
    let asked = version_of(query)?;
    let token = query.get("continue");
    let (version, after) = if token.is_empty() {
        if let Some(asked) = asked.filter(|v| *v > state.version) {
            return Err(too_large(asked, state.version));
        }
        match asked {
            Some(exact) if query.get("resourceVersionMatch") == "Exact" => (exact, None),
            _ => (state.version, None),
        }
    } else {
        if asked.is_some_and(|v| v != 0) {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        let (version, key) = read_token(token).ok_or_else(|| ApiError::bad_request("continue key is not valid"))?;
        (version, Some(key))
    };
    if version < state.compacted && version != state.version {
        return Err(ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.",
        ));
    }
    let snapshot = state.at_version(&storage, version);
    let limit = query.get("limit").parse::<usize>().unwrap_or(0);
    let mut selected = snapshot
        .iter()
        .filter(|(key, _)| target.namespace.is_empty() || key.0 == target.namespace)
        .filter(|(key, _)| after.as_ref().is_none_or(|a| *key > a))
        .map(|(key, stored)| (key, State::present(resource, stored)))
        .filter(|(_, object)| selector.matches(object));
    let mut items = Vec::new();
    let mut last = None;
    while limit == 0 || items.len() < limit {
        let Some((key, object)) = selected.next() else { break };
        last = Some(key);
        items.push(object);
    }
    let remaining = selected.count();
    let next = last.filter(|_| remaining > 0).map(|key| continue_token(version, key));
    let metadata = table::list_metadata(version, next.as_deref(), remaining);
    let body = match view {
        View::Whole => json!({
            "kind": resource.list_kind, "apiVersion": resource.api_version(),
            "metadata": metadata, "items": items,
        }),
        View::Partial => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata,
            "items": items.iter().map(table::partial).collect::<Vec<_>>(),
        }),
        View::Table(include) => table::table(resource, &items, &metadata, state.clock.now(), include, true),
    };
    Ok(json_response(200, &body))
}

fn too_large(asked: u64, current: u64) -> ApiError {
    let mut error =
        ApiError::new(504, "Timeout", format!("Timeout: Too large resource version: {asked}, current: {current}"));
    error.details = Some(json!({
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    }));
    error
}

fn media_type(headers: &HeaderMap) -> &str {
    let header = headers.get(header::CONTENT_TYPE).and_then(|h| h.to_str().ok());
    header.and_then(|h| h.split(';').next()).map_or("", str::trim)
}

fn parsed(body: &[u8], yaml: bool) -> Result<Value, ApiError> {
    if yaml {
        let text = std::str::from_utf8(body).map_err(|e| ApiError::bad_request(format!("error decoding YAML: {e}")))?;
        return serde_saphyr::from_str(text).map_err(|e| ApiError::bad_request(format!("error decoding YAML: {e}")));
    }
    serde_json::from_slice(body)
        .map_err(|e| ApiError::bad_request(format!("couldn't get version/kind; json parse error: {e}")))
}

/// The body of a POST or PUT.
fn object_of(call: &Call) -> Result<Value, ApiError> {
    match media_type(&call.headers) {
        "" | "application/json" => parsed(&call.body, false),
        "application/yaml" => parsed(&call.body, true),
        "application/vnd.kubernetes.protobuf" => proto::decode(&call.body)
            .map_err(|e| ApiError::unsupported_media(&format!("application/json, application/yaml ({e})"))),
        _ => Err(ApiError::unsupported_media("application/json, application/yaml")),
    }
}

fn patch_of(call: &Call) -> Result<PatchBody, ApiError> {
    let query = &call.query;
    let media = media_type(&call.headers);
    let options = |error| ApiError::invalid("meta.k8s.io", "PatchOptions", "", &[error]);
    if media == "application/apply-patch+yaml" {
        if query.get("fieldManager").is_empty() {
            return Err(options(FieldError::required("fieldManager", "is required for apply patch")));
        }
        let json = call.body.first() == Some(&b'{');
        return Ok(PatchBody::Apply { config: parsed(&call.body, !json)?, force: query.on("force") });
    }
    if query.on("force") {
        return Err(options(FieldError::forbidden("force", "may not be specified for non-apply patch")));
    }
    let body =
        || serde_json::from_slice(&call.body).map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")));
    match media {
        "application/json-patch+json" => Ok(PatchBody::Json(body()?)),
        "application/merge-patch+json" => Ok(PatchBody::Merge(body()?)),
        "application/strategic-merge-patch+json" => Ok(PatchBody::Strategic(body()?)),
        _ => Err(ApiError::unsupported_media(
            "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
        )),
    }
}

fn manager_of(call: &Call) -> String {
    match call.query.get("fieldManager") {
        "" => call
            .headers
            .get(header::USER_AGENT)
            .and_then(|h| h.to_str().ok())
            .and_then(|agent| agent.split('/').next())
            .filter(|name| !name.is_empty())
            .unwrap_or("unknown")
            .to_owned(),
        named => named.to_owned(),
    }
}

fn write(
    state: &mut State,
    resource: &Arc<Resource>,
    target: &Target,
    sub: Sub,
    call: &Call,
) -> Result<Response<Body>, ApiError> {
    let options = if call.method == Method::DELETE && !call.body.is_empty() { object_of(call)? } else { Value::Null };
    let dry_run = match call.query.get("dryRun") {
        "" => array(&options, "dryRun").contains(&json!("All")),
        "All" => true,
        other => {
            let error = FieldError::unsupported("dryRun", &json!([other]), &[json!("All")]);
            return Err(ApiError::invalid("meta.k8s.io", "CreateOptions", "", &[error]));
        }
    };
    let w = Write {
        resource: resource.clone(),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        sub,
        manager: manager_of(call),
        dry_run,
        validation: match call.query.get("fieldValidation") {
            "Strict" => FieldValidation::Strict,
            "Ignore" => FieldValidation::Ignore,
            _ => FieldValidation::Warn,
        },
    };
    let all_namespaces = resource.namespaced && target.namespace.is_empty();
    let written = match call.method {
        _ if all_namespaces && (call.method != Method::DELETE || !target.name.is_empty()) => {
            return Err(ApiError::method_not_allowed());
        }
        Method::POST => state.create(&w, object_of(call)?)?,
        Method::PUT => state.replace(&w, object_of(call)?)?,
        Method::PATCH => state.patch(&w, patch_of(call)?)?,
        _ if target.name.is_empty() => {
            let selector = Selector::parse(call.query.get("labelSelector"), call.query.get("fieldSelector"), resource)?;
            let object = state.delete_all(&w, &selector)?;
            Written { object, code: 200, warnings: Vec::new() }
        }
        _ => {
            let wanted = field(&options, "preconditions");
            let precondition = |key: &str| wanted.get(key).and_then(Value::as_str).map(str::to_owned);
            let preconditions = Preconditions { uid: precondition("uid"), version: precondition("resourceVersion") };
            state.delete(&w, &preconditions)?
        }
    };
    if !dry_run {
        state.writes += 1;
    }
    let kind = text(&written.object, "kind");
    let body = if kind == resource.kind { shown(state, resource, &written.object, call)? } else { written.object };
    let mut response = json_response(written.code, &body);
    for warning in written.warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = format!("299 - \"{quoted}\"").parse() {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    Ok(response)
}

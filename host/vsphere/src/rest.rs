//! vCenter's other API: JSON over HTTP, with sessions of its own. Where it is, what its
//! answers and errors look like, and how one logs in and out. It knows no tag.
//!
//! It is spoken to under `/rest`, which every vCenter since 6.5 answers, and not under the
//! younger `/api` (7.0 and later): the same operations are in both, with the same bodies,
//! and govmomi, its `govc` and its simulator know tags under `/rest` alone. So there is one
//! client for all of them, tried against what others go by.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::{Caller, Inner, Purpose, Vcenter};
use crate::error::{Error, Fault, FaultKind};
use crate::session;
use vmgroup_wire::Credentials;

/// Where the operations that are of use here lie.
const BELOW: &str = "/rest/com/vmware/cis";
/// What an error's type begins with.
const ERRORS: &str = "com.vmware.vapi.std.errors.";
/// A session that was not used for so long is not used again: whether it is still there,
/// or there by half (behind this API are others, with timeouts of their own), nobody asks.
const STALE: Duration = Duration::from_mins(10);
const SESSION: &str = "vmware-api-session-id";

/// One operation with its arguments.
pub(crate) struct Operation {
    /// Its name, as in the vendor's documentation: for metrics and errors.
    pub(crate) method: &'static str,
    pub(crate) verb: Method,
    /// Below `com.vmware.cis`, with its query.
    pub(crate) path: String,
    pub(crate) body: Option<Value>,
    /// The privilege that it takes: a refusal does not name it.
    pub(crate) privilege: &'static str,
}

impl Vcenter {
    /// An operation in whatever session there is; what the session's loss does to it is
    /// what it does to a SOAP call. One that changes something passes the gate.
    pub(crate) async fn operate<T: DeserializeOwned>(
        &self,
        purpose: Purpose,
        operation: &Operation,
    ) -> Result<T, Error> {
        let (inner, method) = (&self.inner, operation.method);
        session::retire_idle(inner, Purpose::Tag, STALE).await;
        let mut session = self.session(Purpose::Tag, method).await?;
        inner.paced(method).await?;
        inner.may(purpose, method)?;
        let deadline = inner.options.call_timeout;
        session.touch();
        let mut result = exchange(inner, operation, session.caller(), None, deadline).await;
        if result.as_ref().is_err_and(Error::is_session_lost) {
            inner.invalidate(&session);
            session = self.session(Purpose::Tag, method).await?;
            inner.may(purpose, method)?;
            result = exchange(inner, operation, session.caller(), None, deadline).await;
            if result.as_ref().is_err_and(Error::is_session_lost) {
                inner.invalidate(&session);
            }
        }
        serde_json::from_value(result?).map_err(|error| Error::Protocol { method, detail: error.to_string() })
    }
}

/// Opens a session, by which calls are made from then on.
pub(crate) async fn log_in(
    inner: &Inner,
    agent: &str,
    credentials: &Credentials,
    deadline: Duration,
) -> Result<String, Error> {
    let operation = session_operation("session.create", Method::POST);
    let method = operation.method;
    let caller = Caller { agent, cookie: None };
    match exchange(inner, &operation, caller, Some(credentials), deadline).await {
        Ok(Value::String(id)) if !id.is_empty() => Ok(id),
        Ok(_) => Err(Error::Protocol { method, detail: "it has no session".to_owned() }),
        Err(Error::Fault { fault, .. }) if fault.kind == FaultKind::NotAuthenticated => {
            let fault = Box::new(Fault { kind: FaultKind::InvalidLogin, message: fault.message });
            Err(Error::Login { user: credentials.user.clone(), fault })
        }
        Err(error) => Err(error),
    }
}

/// Ends a session.
pub(crate) async fn log_out(inner: &Inner, caller: Caller<'_>, deadline: Duration) -> Result<(), Error> {
    exchange(inner, &session_operation("session.delete", Method::DELETE), caller, None, deadline).await.map(drop)
}

fn session_operation(method: &'static str, verb: Method) -> Operation {
    Operation { method, verb, path: "/session".to_owned(), body: None, privilege: "System.View" }
}

async fn exchange(
    inner: &Inner,
    operation: &Operation,
    caller: Caller<'_>,
    login: Option<&Credentials>,
    deadline: Duration,
) -> Result<Value, Error> {
    let method = operation.method;
    inner
        .counted(method, deadline, async {
            let request = request(&inner.options.endpoint, operation, &caller, login)
                .map_err(|error| Error::Config(format!("{method} cannot be sent: {error}")))?;
            let response = inner.carry(method, request).await?;
            answer(operation, response.status(), response.body())
        })
        .await
}

/// The SDK's address says where vCenter is; this API lies beside it.
fn request(
    sdk: &http::Uri,
    operation: &Operation,
    caller: &Caller<'_>,
    login: Option<&Credentials>,
) -> Result<http::Request<Bytes>, http::Error> {
    let before = sdk.path().strip_suffix("/sdk").unwrap_or_default();
    let mut parts = sdk.clone().into_parts();
    parts.path_and_query = Some(format!("{before}{BELOW}{}", operation.path).parse()?);
    let mut request = http::Request::builder()
        .method(operation.verb.clone())
        .uri(http::Uri::from_parts(parts)?)
        .header(USER_AGENT, caller.agent)
        .header(ACCEPT, "application/json");
    if let Some(session) = caller.cookie {
        request = request.header(SESSION, secret(session)?);
    }
    if let Some(Credentials { user, password }) = login {
        let pair = STANDARD.encode(format!("{user}:{}", password.expose()));
        request = request
            .header(AUTHORIZATION, secret(&format!("Basic {pair}"))?)
            // Without it the answer sets a cookie besides.
            .header("vmware-use-header-authn", "true");
    }
    let body = match &operation.body {
        Some(body) => {
            request = request.header(CONTENT_TYPE, "application/json");
            Bytes::from(body.to_string())
        }
        None => Bytes::new(),
    };
    request.body(body)
}

/// A header that is never printed.
fn secret(value: &str) -> Result<HeaderValue, http::Error> {
    let mut value = HeaderValue::try_from(value)?;
    value.set_sensitive(true);
    Ok(value)
}

/// What is inside of an answer, or the error that it is.
fn answer(operation: &Operation, status: StatusCode, body: &[u8]) -> Result<Value, Error> {
    let method = operation.method;
    let parsed = serde_json::from_slice::<Value>(body).ok();
    if status.is_success() {
        return match parsed {
            Some(Value::Object(mut answer)) => Ok(answer.remove("value").unwrap_or_default()),
            None if body.is_empty() => Ok(Value::Null),
            _ => Err(Error::Protocol { method, detail: "it is not JSON of the kind that was asked for".to_owned() }),
        };
    }
    let type_ = parsed.as_ref().and_then(|error| error["type"].as_str()?.strip_prefix(ERRORS));
    let no_permission = || FaultKind::NoPermission { privilege: operation.privilege.to_owned(), object: None };
    let kind = match (type_, status) {
        (Some("unauthenticated"), _) | (_, StatusCode::UNAUTHORIZED) => FaultKind::NotAuthenticated,
        (Some("unauthorized"), _) | (_, StatusCode::FORBIDDEN) => no_permission(),
        (Some("not_found"), _) => FaultKind::ManagedObjectNotFound { object: None },
        (None, StatusCode::NOT_FOUND) if operation.path.contains("/id:") => {
            FaultKind::ManagedObjectNotFound { object: None }
        }
        // Whoever is overloaded, or has nobody behind it, may know of errors as well.
        (_, StatusCode::SERVICE_UNAVAILABLE) => {
            return Err(Error::Http { method, status: status.as_u16() });
        }
        (Some("invalid_argument" | "unexpected_input" | "invalid_element_type" | "invalid_request"), _) => {
            FaultKind::InvalidArgument { property: String::new() }
        }
        (Some("unsupported" | "operation_not_found"), _) => FaultKind::Other("NotSupported".to_owned()),
        (Some("concurrent_change" | "resource_busy" | "resource_in_use"), _) => FaultKind::ConcurrentAccess,
        (Some(state @ "not_allowed_in_current_state"), _) => FaultKind::InvalidState(state.to_owned()),
        (Some("timed_out"), _) => FaultKind::Timedout,
        (Some(other), _) => FaultKind::Other(other.to_owned()),
        (None, status) => return Err(Error::Http { method, status: status.as_u16() }),
    };
    let messages = parsed.as_ref().map(|error| messages(&error["value"]["messages"])).unwrap_or_default();
    Err(fault(method, kind, messages))
}

/// The texts of localizable messages, for people.
pub(crate) fn messages(list: &Value) -> String {
    let texts = list.as_array().into_iter().flatten().filter_map(|message| message["default_message"].as_str());
    texts.collect::<Vec<_>>().join("; ")
}

pub(crate) fn fault(method: &'static str, kind: FaultKind, message: String) -> Error {
    Error::Fault { method, fault: Box::new(Fault { kind, message }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Category;

    fn operation(path: &str) -> Operation {
        Operation { method: "tag.get", verb: Method::GET, path: path.to_owned(), body: None, privilege: "P" }
    }

    fn failed(path: &str, status: u16, body: &str) -> Error {
        answer(&operation(path), StatusCode::from_u16(status).unwrap(), body.as_bytes()).unwrap_err()
    }

    #[test]
    fn it_lies_beside_the_sdk_and_its_secrets_are_not_printed() {
        let sdk = http::Uri::from_static("https://proxy:8443/vc1/sdk");
        let caller = Caller { agent: "us", cookie: Some("session-7") };
        let login = Credentials { user: "me".to_owned(), password: "hunter2".into() };
        let request = request(&sdk, &operation("/tagging/tag?~action=x"), &caller, Some(&login)).unwrap();
        assert_eq!(request.uri().to_string(), "https://proxy:8443/vc1/rest/com/vmware/cis/tagging/tag?~action=x");
        assert_eq!(request.headers()[AUTHORIZATION], format!("Basic {}", STANDARD.encode("me:hunter2")));
        let printed = format!("{request:?}");
        assert!(!printed.contains("session-7") && !printed.contains(&STANDARD.encode("me:hunter2")), "S9: {printed}");
    }

    #[test]
    fn an_answer_is_what_is_inside() {
        let of = |body: &str| answer(&operation("/tagging/tag"), StatusCode::OK, body.as_bytes());
        assert_eq!(of("{\"value\": [\"a\"]}").unwrap(), serde_json::json!(["a"]));
        assert_eq!(of("{}").unwrap(), Value::Null);
        assert_eq!(of("").unwrap(), Value::Null);
        assert!(matches!(of("<html>"), Err(Error::Protocol { .. })));
    }

    #[test]
    fn errors_are_known_by_their_types() {
        let typed = |name: &str| format!("{{\"type\": \"{ERRORS}{name}\", \"value\": {{\"messages\": []}}}}");
        let cases = [
            (failed("/tagging/tag", 401, ""), Category::Transient),
            (failed("/tagging/tag", 403, ""), Category::Permission),
            (failed("/tagging/tag/id:x", 404, "404 page not found"), Category::Gone),
            (failed("/tagging/tag", 404, &typed("not_found")), Category::Gone),
            // Nobody there knows this API.
            (failed("/tagging/tag", 404, ""), Category::Configuration),
            (failed("/tagging/tag", 400, &typed("invalid_argument")), Category::Configuration),
            (failed("/tagging/tag", 400, &typed("resource_busy")), Category::Conflict),
            (failed("/tagging/tag", 503, &typed("service_unavailable")), Category::Transient),
            (failed("/tagging/tag", 500, "oops"), Category::Transient),
        ];
        for (error, category) in cases {
            assert_eq!(error.category(), category, "{error}");
        }
        assert!(failed("/tagging/tag", 401, "").is_session_lost());
        let told = "{\"type\": \"com.vmware.vapi.std.errors.unauthorized\", \"value\": {\"messages\": \
                    [{\"id\": \"x\", \"default_message\": \"in words\", \"args\": []}]}}";
        assert_eq!(
            failed("/tagging/tag", 403, told).to_string(),
            "tag.get failed: NoPermission: privilege P is missing (in words)"
        );
    }
}

//! The endpoint: HTTP, cookies, the fault script, and the long poll.
//!
//! Must not know what methods mean, but for those about sessions and waiting.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use http::header::{CONTENT_TYPE, COOKIE, SET_COOKIE, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode};

use super::Shared;
use super::entity::Moref;
use super::methods::{self, Call};
use super::rest;
use super::session::{SessionId, invalid_login};
use super::soap::{self, Node, VimFault};
use super::tasks::Doom;
use crate::faults::{Cut, Fault};

/// The largest request that is read.
const MAX_BODY: usize = 16 << 20;
const COOKIE_NAME: &str = "vmware_soap_session";

/// The endpoint of a simulated vCenter. Answers POST `/sdk` and GET
/// `/sdk/vimServiceVersions.xml` as vim25 does, and below `/rest` what is about tags. Errs with [`Cut`] where a connection would
/// break.
#[derive(Clone)]
pub struct VcenterService(Arc<Shared>);

impl VcenterService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

impl tower::Service<Request<Body>> for VcenterService {
    type Response = Response<Body>;
    type Error = Cut;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Cut>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Cut>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(answer(self.0.clone(), request))
    }
}

/// What the fault script does to one call.
#[derive(Default)]
struct Script {
    doom: Doom,
    missing: Option<String>,
    end_session: bool,
    lose_reply: bool,
}

/// How a call ends, unless its connection breaks.
enum Outcome {
    Answer { content: String, cookie: Option<String> },
    Fault(VimFault),
    Status(StatusCode),
}

impl From<Result<String, VimFault>> for Outcome {
    fn from(result: Result<String, VimFault>) -> Self {
        match result {
            Ok(content) => Self::Answer { content, cookie: None },
            Err(fault) => Self::Fault(fault),
        }
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Body>) -> Result<Response<Body>, Cut> {
    let (head, body) = request.into_parts();
    if head.method == Method::GET && head.uri.path().ends_with("/vimServiceVersions.xml") {
        return Ok(respond(StatusCode::OK, VERSIONS.to_owned()));
    }
    if head.uri.path().starts_with(rest::BELOW) {
        let Ok(body) = axum::body::to_bytes(body, MAX_BODY).await else { return Err(Cut) };
        return rest::answer(shared, head, &body).await;
    }
    if !matches!(head.uri.path(), "/sdk" | "/sdk/" | "/sdk/vimService") {
        return Ok(respond(StatusCode::NOT_FOUND, String::new()));
    }
    if head.method != Method::POST {
        return Ok(respond(StatusCode::METHOD_NOT_ALLOWED, String::new()));
    }
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY).await else { return Err(Cut) };
    let Some(node) = std::str::from_utf8(&body).ok().and_then(|body| soap::parse(body).ok()) else {
        let fault = VimFault::new("InvalidRequest", "The request is not a SOAP request.");
        return Ok(respond(StatusCode::INTERNAL_SERVER_ERROR, fault.envelope()));
    };
    let cookie = head
        .headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE_NAME)
        .map(|(_, value)| value.trim_matches('"').to_owned());
    let agent = head.headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
    let caller = Caller { cookie, agent: agent.unwrap_or_default().to_owned() };

    let mut script = Script::default();
    match shared.faults.on_call(&node.name) {
        None => {}
        Some(Fault::Reset) => return Err(Cut),
        Some(Fault::Error(what)) => {
            // A vCenter that says so does not know the session any more.
            script.end_session = what.ends_with("NotAuthenticated");
            if let Some(kind) = what.strip_prefix("missingSet:") {
                script.missing = Some(kind.to_owned());
            } else if let Some(status) = what.parse().ok().and_then(|n| StatusCode::from_u16(n).ok()) {
                return Ok(respond(status, String::new()));
            } else {
                let this = node.moref("_this").ok().flatten();
                let fault = VimFault::scripted(&what, this);
                if script.end_session {
                    end_session(&shared, &caller);
                }
                return Ok(respond(StatusCode::INTERNAL_SERVER_ERROR, fault.envelope()));
            }
        }
        Some(Fault::LoseReply) => script.lose_reply = true,
        Some(Fault::FailTask(kind)) => script.doom.fail = Some(kind),
        Some(Fault::LoseTask) => script.doom.lose = true,
        Some(Fault::DenyTask { fault, later }) => script.doom.deny = Some((fault, later)),
        Some(Fault::Delay(time)) => {
            // It takes effect even if its client has given up meanwhile.
            let late = tokio::spawn(async move {
                tokio::time::sleep(time).await;
                finish(shared, node, caller, script).await
            });
            return late.await.unwrap_or(Err(Cut));
        }
    }
    finish(shared, node, caller, script).await
}

fn end_session(shared: &Shared, caller: &Caller) {
    shared.change(|state| {
        if let Some(id) = caller.cookie.as_deref().and_then(|cookie| state.session_of(cookie)) {
            state.end_session(id);
        }
    });
}

struct Caller {
    cookie: Option<String>,
    agent: String,
}

async fn finish(shared: Arc<Shared>, node: Node, caller: Caller, script: Script) -> Result<Response<Body>, Cut> {
    let outcome = carry_out(&shared, &node, &caller, &script).await?;
    if script.end_session {
        end_session(&shared, &caller);
    }
    if script.lose_reply {
        return Err(Cut);
    }
    Ok(match outcome {
        Outcome::Answer { content, cookie } => {
            let mut response = respond(StatusCode::OK, soap::answer(&node.name, &content));
            let header = cookie
                .and_then(|cookie| HeaderValue::try_from(format!("{COOKIE_NAME}=\"{cookie}\"; Path=/; HttpOnly")).ok());
            if let Some(header) = header {
                response.headers_mut().insert(SET_COOKIE, header);
            }
            response
        }
        Outcome::Fault(fault) => respond(StatusCode::INTERNAL_SERVER_ERROR, fault.envelope()),
        Outcome::Status(status) => respond(status, String::new()),
    })
}

fn respond(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/xml; charset=utf-8"));
    response
}

/// A call under way on a session, which is not idle as long.
struct InFlight<'a>(&'a Shared, SessionId);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.end_call(self.1));
    }
}

async fn carry_out(shared: &Shared, node: &Node, caller: &Caller, script: &Script) -> Result<Outcome, Cut> {
    let this = match node.moref("_this") {
        Ok(Some(this)) => this,
        Ok(None) => return Ok(Outcome::Fault(VimFault::invalid_argument("_this"))),
        Err(fault) => return Ok(Outcome::Fault(fault)),
    };
    let session = shared.change(|state| {
        let id = state.session_of(caller.cookie.as_deref()?)?;
        state.begin_call(id);
        Some(id)
    });
    let _in_flight = session.map(|id| InFlight(shared, id));
    match node.name.as_str() {
        "RetrieveServiceContent" => {
            let content = shared.change(|state| methods::service_content(state));
            return Ok(Outcome::Answer { content, cookie: None });
        }
        "Login" => return Ok(login(shared, node, caller, session)),
        _ => {}
    }
    let Some(session) = session else {
        return Ok(Outcome::Fault(VimFault::not_authenticated(this)));
    };
    match node.name.as_str() {
        "WaitForUpdatesEx" | "WaitForUpdates" | "CheckForUpdates" => {
            wait_for_updates(shared, node, this, session).await
        }
        _ => {
            let call = Call { node, this, session, doom: script.doom.clone(), missing: script.missing.clone() };
            Ok(shared.change(|state| methods::dispatch(state, &call)).into())
        }
    }
}

fn login(shared: &Shared, node: &Node, caller: &Caller, session: Option<SessionId>) -> Outcome {
    // "This method fails if the user name and password are invalid, or if the
    // user is already logged in."
    if session.is_some() {
        return Outcome::Fault(invalid_login());
    }
    let user = node.str("userName").unwrap_or_default();
    let password = node.str("password").unwrap_or_default();
    shared.change(|state| {
        if state.sessions.len() >= state.config.max_sessions {
            return Outcome::Status(StatusCode::SERVICE_UNAVAILABLE);
        }
        match state.login(user, password, &caller.agent) {
            Ok((id, cookie)) => {
                let content = methods::returned(&state.user_session(id));
                Outcome::Answer { content, cookie: Some(cookie) }
            }
            Err(fault) => Outcome::Fault(fault),
        }
    })
}

/// What a look at the collector tells a blocked call to do.
enum Look {
    Done(Outcome),
    Cut,
    /// Nothing yet; sleep at most this long.
    Sleep(Option<Duration>),
}

async fn wait_for_updates(shared: &Shared, node: &Node, collector: Moref, session: SessionId) -> Result<Outcome, Cut> {
    let options = node.child("options");
    let number = |name| options.map_or(Ok(None), |options| options.number::<i64>(name));
    let (most_seconds, most_objects) = match (number("maxWaitSeconds"), number("maxObjectUpdates")) {
        (Ok(seconds), Ok(objects)) => (seconds, objects),
        (Err(fault), _) | (_, Err(fault)) => return Ok(Outcome::Fault(fault)),
    };
    let most_seconds = match (node.name.as_str(), most_seconds) {
        ("CheckForUpdates", _) => Some(0),
        (_, Some(seconds)) => match u64::try_from(seconds) {
            Ok(seconds) => Some(seconds),
            Err(_) => {
                return Ok(Outcome::Fault(VimFault::invalid_argument("options.maxWaitSeconds")));
            }
        },
        (_, None) => None,
    };
    let most = most_objects.and_then(|most| usize::try_from(most).ok());
    let version = node.str("version").unwrap_or_default();

    let mut changed = shared.changed.subscribe();
    let begin = shared.change(|state| {
        let cancels = state.collector(session, collector)?.cancels;
        Ok((state.now, state.epoch, cancels))
    });
    let (start, epoch, cancels) = match begin {
        Ok(begin) => begin,
        Err(fault) => return Ok(Outcome::Fault(fault)),
    };
    let deadline = most_seconds.map(|seconds| start + Duration::from_secs(seconds));
    loop {
        changed.borrow_and_update();
        let look = shared.change(|state| {
            if state.epoch != epoch {
                return Look::Cut;
            }
            if !state.sessions.contains_key(&session) {
                return Look::Done(Outcome::Fault(VimFault::not_authenticated(collector)));
            }
            match state.collector(session, collector) {
                Err(fault) => return Look::Done(Outcome::Fault(fault)),
                Ok(own) if own.cancels != cancels => {
                    let fault = VimFault::new("RequestCanceled", "The request was canceled.");
                    return Look::Done(Outcome::Fault(fault));
                }
                Ok(_) => {}
            }
            match state.updates(session, collector, version, most) {
                Err(fault) => Look::Done(Outcome::Fault(fault)),
                Ok(Some(content)) => Look::Done(Outcome::Answer { content, cookie: None }),
                Ok(None) if deadline.is_some_and(|deadline| state.now >= deadline) => {
                    Look::Done(Outcome::Answer { content: methods::nothing(), cookie: None })
                }
                Ok(None) => {
                    let until = match (state.next_due(), deadline) {
                        (Some(due), Some(deadline)) => Some(due.min(deadline)),
                        (one, other) => one.or(other),
                    };
                    Look::Sleep(until.map(|until| until.saturating_sub(state.now)))
                }
            }
        });
        let sleep = match look {
            Look::Done(outcome) => return Ok(outcome),
            Look::Cut => return Err(Cut),
            Look::Sleep(sleep) => sleep,
        };
        let alarm = async {
            match sleep {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending::<()>().await,
            }
        };
        tokio::select! {
            () = alarm => {}
            told = changed.changed() => {
                // The sender lives as long as we do.
                if told.is_err() {
                    return Err(Cut);
                }
            }
        }
    }
}

const VERSIONS: &str = concat!(
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<namespaces version=\"1.0\">",
    "<namespace><name>urn:vim25</name><version>8.0.2.0</version>",
    "<priorVersions><version>8.0.1.0</version><version>8.0.0.0</version><version>7.0.3.0</version>",
    "<version>7.0</version><version>6.7</version><version>6.5</version></priorVersions>",
    "</namespace></namespaces>\n",
);

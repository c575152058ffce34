//! The other endpoint: JSON under `/rest`, as far as tags need it, with sessions of its
//! own (`com.vmware.cis.session`) that count apart from those of SOAP.
//!
//! Answers are as the vendor's reference has them: what is inside stands under `value`,
//! an error has its type, and a batch tells of each object that it did not get done.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use serde_json::{Value, json};

use super::Shared;
use super::entity::Moref;
use super::world::State;
use crate::faults::{Cut, Fault};

/// Where it lies.
pub(super) const BELOW: &str = "/rest/";
const CIS: &str = "/rest/com/vmware/cis";
const SESSION: &str = "vmware-api-session-id";
const ERRORS: &str = "com.vmware.vapi.std.errors.";
/// What attaching and taking off takes: on the tag, and on the object.
const PRIVILEGES: [&str; 2] = ["InventoryService.Tagging.AttachTag", "InventoryService.Tagging.ObjectAttachable"];

/// A session.
#[derive(Debug)]
pub(super) struct ApiSession {
    user: String,
    agent: String,
    last_active: Duration,
}

/// The name of an operation, as in the vendor's reference without its package: by it
/// the fault script knows a call. `path` is without a query.
pub fn operation(method: &Method, path: &str, query: Option<&str>) -> Option<&'static str> {
    let path = path.strip_prefix(CIS)?;
    let action = query.and_then(|query| query.strip_prefix("~action="));
    let (resource, with_id) = path.split_once("/id:").map_or((path, false), |(resource, _)| (resource, true));
    Some(match (method.as_str(), resource, with_id, action) {
        ("POST", "/session", false, None) => "session.create",
        ("DELETE", "/session", false, None) => "session.delete",
        ("GET", "/tagging/category", false, None) => "category.list",
        ("GET", "/tagging/category", true, None) => "category.get",
        ("POST", "/tagging/tag", true, Some("list-tags-for-category")) => "tag.list_tags_for_category",
        ("GET", "/tagging/tag", true, None) => "tag.get",
        ("POST", "/tagging/tag-association", false, Some("list-attached-tags-on-objects")) => {
            "tag_association.list_attached_tags_on_objects"
        }
        ("POST", "/tagging/tag-association", true, Some("attach-tag-to-multiple-objects")) => {
            "tag_association.attach_tag_to_multiple_objects"
        }
        ("POST", "/tagging/tag-association", true, Some("detach")) => "tag_association.detach",
        _ => return None,
    })
}

/// A call, as it came in.
struct Call {
    operation: &'static str,
    /// What stands after `id:`.
    id: String,
    session: Option<String>,
    /// User and password.
    login: Option<(String, String)>,
    agent: String,
    body: Value,
}

impl Call {
    fn read(head: &Parts, body: &[u8]) -> Option<Self> {
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let login = header(AUTHORIZATION.as_str()).and_then(|value| {
            let pair = STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
            let (user, password) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
            Some((user.to_owned(), password.to_owned()))
        });
        let path = head.uri.path();
        Some(Self {
            operation: operation(&head.method, path, head.uri.query())?,
            id: path.split_once("/id:").map(|(_, id)| id.to_owned()).unwrap_or_default(),
            session: header(SESSION),
            login,
            agent: header(USER_AGENT.as_str()).unwrap_or_default(),
            body: serde_json::from_slice(body).unwrap_or_default(),
        })
    }
}

type Answer = Result<Value, Refusal>;

/// A status, and with it an error of this type.
struct Refusal(StatusCode, Option<(&'static str, String)>);

impl Refusal {
    fn of(status: StatusCode, type_: &'static str, message: &str) -> Self {
        Self(status, Some((type_, message.to_owned())))
    }

    fn unauthenticated() -> Self {
        Self::of(StatusCode::UNAUTHORIZED, "unauthenticated", "This method requires authentication.")
    }

    fn unauthorized() -> Self {
        Self::of(StatusCode::FORBIDDEN, "unauthorized", "Permission to perform this operation was denied.")
    }

    fn not_found(id: &str) -> Self {
        Self::of(StatusCode::NOT_FOUND, "not_found", &format!("The object {id} could not be found."))
    }

    fn invalid(message: &str) -> Self {
        Self::of(StatusCode::BAD_REQUEST, "invalid_argument", message)
    }
}

pub(super) async fn answer(shared: Arc<Shared>, head: Parts, body: &[u8]) -> Result<Response<Body>, Cut> {
    let Some(call) = Call::read(&head, body) else {
        return Ok(respond(Err(Refusal(StatusCode::NOT_FOUND, None))));
    };
    let mut lose_reply = false;
    match shared.faults.on_call(call.operation) {
        Some(Fault::Reset) => return Err(Cut),
        Some(Fault::Error(what)) => {
            let refusal = if let Some(status) = what.parse().ok().and_then(|n| StatusCode::from_u16(n).ok()) {
                Refusal(status, None)
            } else if what == "NotAuthenticated" {
                // A vCenter that says so does not know the session any more.
                shared.change(|state| call.session.as_ref().and_then(|id| state.api_sessions.remove(id)));
                Refusal::unauthenticated()
            } else if what == "NoPermission" {
                Refusal::unauthorized()
            } else {
                Refusal::of(StatusCode::INTERNAL_SERVER_ERROR, "error", &what)
            };
            return Ok(respond(Err(refusal)));
        }
        Some(Fault::LoseReply) => lose_reply = true,
        Some(Fault::Delay(time)) => {
            // It takes effect even if its client has given up meanwhile.
            let late = tokio::spawn(async move {
                tokio::time::sleep(time).await;
                shared.change(|state| state.operate(&call))
            });
            return late.await.map(respond).map_err(|_| Cut);
        }
        // There are no tasks here.
        None | Some(Fault::FailTask(_) | Fault::LoseTask | Fault::DenyTask { .. }) => {}
    }
    let result = shared.change(|state| state.operate(&call));
    if lose_reply { Err(Cut) } else { Ok(respond(result)) }
}

fn respond(result: Answer) -> Response<Body> {
    let (status, body) = match result {
        Ok(Value::Null) => (StatusCode::OK, String::new()),
        Ok(value) => (StatusCode::OK, json!({"value": value}).to_string()),
        Err(Refusal(status, None)) => (status, String::new()),
        Err(Refusal(status, Some((type_, message)))) => {
            let messages = json!([{"id": format!("vapi.{type_}"), "default_message": message, "args": []}]);
            (status, json!({"type": format!("{ERRORS}{type_}"), "value": {"messages": messages}}).to_string())
        }
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl State {
    fn operate(&mut self, call: &Call) -> Answer {
        let (now, timeout) = (self.now, self.config.session_timeout);
        self.api_sessions.retain(|_, session| now.saturating_sub(session.last_active) < timeout);
        if call.operation == "session.create" {
            return self.open_api_session(call);
        }
        let session = call.session.as_ref().and_then(|id| Some((id, self.api_sessions.get_mut(id)?)));
        let Some((id, session)) = session else { return Err(Refusal::unauthenticated()) };
        session.last_active = now;
        let user = session.user.clone();
        match call.operation {
            "session.delete" => {
                self.api_sessions.remove(id);
                Ok(Value::Null)
            }
            "tag_association.attach_tag_to_multiple_objects" | "tag_association.detach" => {
                let missing = &self.config.missing_privileges;
                if user != self.config.user || PRIVILEGES.iter().any(|privilege| missing.contains(*privilege)) {
                    return Err(Refusal::unauthorized());
                }
                if call.operation == "tag_association.detach" { self.take_off(call) } else { self.put_on(call) }
            }
            _ => self.tell(call),
        }
    }

    fn open_api_session(&mut self, call: &Call) -> Answer {
        let (user, password) = call.login.as_ref().ok_or_else(Refusal::unauthenticated)?;
        if self.api_sessions.len() >= self.config.max_sessions {
            return Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, None));
        }
        if !self.knows(user, password) {
            return Err(Refusal::unauthenticated());
        }
        let id = self.new_uuid();
        let session = ApiSession { user: user.clone(), agent: call.agent.clone(), last_active: self.now };
        self.api_sessions.insert(id.clone(), session);
        let open = self.api_sessions.values().filter(|session| session.agent == call.agent).count();
        let most = self.most_sessions.entry(call.agent.clone()).or_default();
        *most = open.max(*most);
        Ok(json!(id))
    }

    /// What only looks.
    fn tell(&self, call: &Call) -> Answer {
        let (tagging, id) = (&self.tagging, &call.id);
        Ok(match call.operation {
            "category.list" => json!(tagging.categories.keys().collect::<Vec<_>>()),
            "category.get" => {
                let category = tagging.categories.get(id).ok_or_else(|| Refusal::not_found(id))?;
                let cardinality = if category.single { "SINGLE" } else { "MULTIPLE" };
                json!({
                    "id": id, "name": category.name, "description": "", "cardinality": cardinality,
                    "associable_types": [], "used_by": [],
                })
            }
            "tag.list_tags_for_category" if !tagging.categories.contains_key(id) => {
                return Err(Refusal::not_found(id));
            }
            "tag.list_tags_for_category" => json!(tagging.tags_in(id)),
            "tag.get" => {
                let tag = tagging.tags.get(id).ok_or_else(|| Refusal::not_found(id))?;
                json!({"id": id, "name": tag.name, "description": "", "category_id": tag.category, "used_by": []})
            }
            "tag_association.list_attached_tags_on_objects" => {
                let objects = call.body["object_ids"].as_array().ok_or_else(|| Refusal::invalid("object_ids"))?;
                // Who has none is not listed.
                let listed = objects.iter().filter_map(|object| {
                    let tags: Vec<&String> = tagging.of(moref(object)?).collect();
                    (!tags.is_empty()).then(|| json!({"object_id": object, "tag_ids": tags}))
                });
                json!(listed.collect::<Vec<_>>())
            }
            _ => return Err(Refusal(StatusCode::NOT_FOUND, None)),
        })
    }

    fn tag_and_objects(&self, call: &Call, objects: &[&Value]) -> Result<Vec<Moref>, Refusal> {
        if !self.tagging.tags.contains_key(&call.id) {
            return Err(Refusal::not_found(&call.id));
        }
        let there = |object: &&Value| moref(object).filter(|object| self.entity(*object).is_some());
        // Of what it does not know it says that it may not be touched.
        objects.iter().map(|object| there(object).ok_or_else(Refusal::unauthorized)).collect()
    }

    fn put_on(&mut self, call: &Call) -> Answer {
        let objects = call.body["object_ids"].as_array().ok_or_else(|| Refusal::invalid("object_ids"))?;
        let objects = self.tag_and_objects(call, &objects.iter().collect::<Vec<_>>())?;
        let mut errors = Vec::new();
        for object in objects {
            if self.attach(&call.id, object).is_err() {
                let text =
                    format!("Tag {} is ineligible to attach to {object} because of a cardinality violation.", call.id);
                let id = "cis.tagging.attach.invalidArgument.cardinality.error";
                errors.push(json!({"id": id, "default_message": text, "args": []}));
            }
        }
        Ok(json!({"success": errors.is_empty(), "error_messages": errors}))
    }

    fn take_off(&mut self, call: &Call) -> Answer {
        for object in self.tag_and_objects(call, &[&call.body["object_id"]])? {
            self.detach(&call.id, object);
        }
        Ok(Value::Null)
    }
}

fn moref(object: &Value) -> Option<Moref> {
    Moref::parse(object["type"].as_str()?, object["id"].as_str()?)
}

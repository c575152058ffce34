//! `Status` bodies: every refusal of the API, in the words of the real one
//! (apimachinery `api/errors` and `util/validation/field`).
//!
//! Knows no objects and no HTTP beyond the status code.

use serde_json::{Value, json};

/// A refusal: what the API answers instead of an object.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status.
    pub code: u16,
    /// The machine-readable reason, as in `NotFound`; empty for an unnamed
    /// server error.
    pub reason: &'static str,
    /// The sentence for people.
    pub message: String,
    /// `details` of the `Status`: name, group, kind, causes.
    pub details: Option<Value>,
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FieldError {
    /// Path as in `spec.volumes[0].name`.
    pub path: String,
    /// The cause's reason, as in `FieldValueInvalid`.
    pub reason: &'static str,
    /// The message without the path.
    pub body: String,
}

/// A bad value as Go prints it in a field error.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(s) => format!("{s:?}"),
        other => other.to_string(),
    }
}

impl FieldError {
    pub(super) fn invalid(path: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self {
            path: path.into(),
            reason: "FieldValueInvalid",
            body: format!("Invalid value: {}: {detail}", shown(value)),
        }
    }

    pub(super) fn wrong_type(path: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self {
            path: path.into(),
            reason: "FieldValueTypeInvalid",
            body: format!("Invalid value: {}: {detail}", shown(value)),
        }
    }

    pub(super) fn required(path: impl Into<String>, detail: &str) -> Self {
        let body = if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        Self { path: path.into(), reason: "FieldValueRequired", body }
    }

    pub(super) fn forbidden(path: impl Into<String>, detail: &str) -> Self {
        Self { path: path.into(), reason: "FieldValueForbidden", body: format!("Forbidden: {detail}") }
    }

    pub(super) fn too_long(path: impl Into<String>, max: u64) -> Self {
        Self {
            path: path.into(),
            reason: "FieldValueTooLong",
            body: format!("Too long: may not be more than {max} bytes"),
        }
    }

    pub(super) fn too_many(path: impl Into<String>, actual: usize, max: u64) -> Self {
        Self {
            path: path.into(),
            reason: "FieldValueTooMany",
            body: format!("Too many: {actual}: must have at most {max} items"),
        }
    }

    pub(super) fn unsupported(path: impl Into<String>, value: &Value, allowed: &[Value]) -> Self {
        let allowed: Vec<String> = allowed.iter().map(shown).collect();
        Self {
            path: path.into(),
            reason: "FieldValueNotSupported",
            body: format!("Unsupported value: {}: supported values: {}", shown(value), allowed.join(", ")),
        }
    }

    pub(super) fn duplicate(path: impl Into<String>, value: &Value) -> Self {
        Self { path: path.into(), reason: "FieldValueDuplicate", body: format!("Duplicate value: {}", shown(value)) }
    }
}

/// `plural.group`, or the plural alone in the core group.
fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

fn details(name: &str, group: &str, kind: &str) -> Value {
    let mut details = json!({});
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            details[key] = json!(value);
        }
    }
    details
}

impl ApiError {
    pub(super) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// A server error without a reason, as an unwrapped Go error becomes one.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    pub(super) fn not_found(group: &str, plural: &str, name: &str) -> Self {
        Self {
            code: 404,
            reason: "NotFound",
            message: format!("{} {name:?} not found", qualified(plural, group)),
            details: Some(details(name, group, plural)),
        }
    }

    pub(super) fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        Self {
            code: 409,
            reason: "AlreadyExists",
            message: format!("{} {name:?} already exists", qualified(plural, group)),
            details: Some(details(name, group, plural)),
        }
    }

    pub(super) fn conflict(group: &str, plural: &str, name: &str, why: &str) -> Self {
        Self {
            code: 409,
            reason: "Conflict",
            message: format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(plural, group)),
            details: Some(details(name, group, plural)),
        }
    }

    /// The optimistic lock failed.
    pub(super) fn modified(group: &str, plural: &str, name: &str) -> Self {
        Self::conflict(
            group,
            plural,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub(super) fn forbidden(group: &str, plural: &str, name: &str, why: &str) -> Self {
        Self {
            code: 403,
            reason: "Forbidden",
            message: format!("{} {name:?} is forbidden: {why}", qualified(plural, group)),
            details: Some(details(name, group, plural)),
        }
    }

    pub(super) fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let mut lines: Vec<String> = Vec::new();
        for e in errors {
            let line = format!("{}: {}", e.path, e.body);
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let text = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut details = details(name, group, kind);
        details["causes"] =
            errors.iter().map(|e| json!({"reason": e.reason, "message": e.body, "field": e.path})).collect();
        Self {
            code: 422,
            reason: "Invalid",
            message: format!("{} {name:?} is invalid: {text}", qualified(kind, group)),
            details: Some(details),
        }
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub(super) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(super) fn unsupported_media(accepted: &str) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}"),
        )
    }

    /// What a fault script's `Error("503")` answers.
    pub(super) fn scripted(text: &str) -> Self {
        let code = text.parse::<u16>().ok().filter(|c| (400..600).contains(c)).unwrap_or(500);
        let (reason, message) = match code {
            400 => ("BadRequest", "a simulated fault"),
            401 => ("Unauthorized", "Unauthorized"),
            403 => ("Forbidden", "forbidden: a simulated fault"),
            404 => ("NotFound", "the server could not find the requested resource"),
            409 => (
                "Conflict",
                "Operation cannot be fulfilled: the object has been modified; please apply your changes to the latest version and try again",
            ),
            410 => ("Expired", "too old resource version: a simulated fault"),
            422 => ("Invalid", "a simulated fault"),
            429 => ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
            503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
            504 => (
                "Timeout",
                "the server was unable to return a response in the time allotted, but may still be processing the request",
            ),
            _ => ("InternalError", "Internal error occurred: a simulated fault"),
        };
        Self::new(code, reason, message)
    }

    /// The error as a `v1.Status`.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        });
        if !self.reason.is_empty() {
            status["reason"] = json!(self.reason);
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status["code"] = json!(self.code);
        status
    }
}

//! A login, from the first question to the session or the doubt about one; and
//! the logout. It knows no account, and keeps nothing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::{COOKIE, ServiceContent, Session};
use crate::client::{Caller, Inner, Purpose};
use crate::error::{Error, FaultKind};
use crate::model::About;
use crate::refs::ManagedObjectRef;
use crate::rest;
use crate::soap;
use crate::xml::Element;
use vmgroup_wire::Credentials;

/// How long vCenter may take over a login before it is given up. Longer than
/// anybody waits for one: a login that is given up may still open a session.
const PATIENCE: Duration = Duration::from_mins(3);
/// How long a logout may take; nobody waits for it with pleasure.
const LOGOUT: Duration = Duration::from_secs(5);

/// A login that gave no session.
pub(super) struct Failed {
    pub(super) error: Error,
    /// There may be a session nevertheless.
    pub(super) in_doubt: bool,
}

impl Failed {
    fn surely(error: Error) -> Self {
        Self { error, in_doubt: false }
    }
}

/// What a login is made with.
pub(super) struct Attempt {
    pub(super) purpose: Purpose,
    pub(super) agent: String,
    pub(super) credentials: Credentials,
    pub(super) epoch: u64,
    pub(super) generation: u64,
}

/// Opens a session of the API that it is for.
pub(super) async fn log_in(inner: &Arc<Inner>, attempt: Attempt) -> Result<Arc<Session>, Failed> {
    match attempt.purpose {
        Purpose::Tag => log_in_to_rest(inner, attempt).await,
        Purpose::Read | Purpose::Write => log_in_to_soap(inner, attempt).await,
    }
}

/// `com.vmware.cis.session.create`. The SOAP session is had and used first: who is refused
/// there is not refused here as well, and on a line that carries nothing no session is
/// left in doubt.
async fn log_in_to_rest(inner: &Arc<Inner>, attempt: Attempt) -> Result<Arc<Session>, Failed> {
    let Attempt { purpose, agent, credentials, epoch, generation } = attempt;
    let beside = soap_session(inner).await.map_err(Failed::surely)?;
    match rest::log_in(inner, &agent, &credentials, PATIENCE).await {
        Ok(id) => {
            tracing::debug!(generation, user = %credentials.user, "logged in for tags");
            Ok(Arc::new(Session {
                purpose,
                agent,
                epoch,
                generation,
                cookie: Some(id.clone()),
                key: Some(id),
                user: beside.user.clone(),
                content: beside.content.clone(),
                about: beside.about.clone(),
                used: Mutex::new(Instant::now()),
            }))
        }
        Err(error) => Err(Failed { in_doubt: may_have_opened_one(&error), error }),
    }
}

/// A SOAP session that has just been answered.
async fn soap_session(inner: &Arc<Inner>) -> Result<Arc<Session>, Error> {
    let session = super::session(inner, Purpose::Write).await?;
    let method = "CurrentTime";
    let envelope = soap::envelope(method, &ManagedObjectRef::new("ServiceInstance", "ServiceInstance"), |_| {});
    match inner.exchange(method, session.caller(), envelope, inner.options.call_timeout).await {
        Ok(_) => {
            session.touch();
            Ok(session)
        }
        Err(error) if error.is_session_lost() => {
            inner.invalidate(&session);
            super::session(inner, Purpose::Write).await
        }
        Err(error) => Err(error),
    }
}

/// `RetrieveServiceContent` and `Login`.
async fn log_in_to_soap(inner: &Inner, attempt: Attempt) -> Result<Arc<Session>, Failed> {
    let Attempt { purpose, agent, credentials, epoch, generation } = attempt;
    let instance = ManagedObjectRef::new("ServiceInstance", "ServiceInstance");
    let method = "RetrieveServiceContent";
    let envelope = soap::envelope(method, &instance, |_| {});
    let caller = Caller { agent: &agent, cookie: None };
    let reply = inner.exchange(method, caller, envelope, inner.options.call_timeout).await.map_err(Failed::surely)?;
    let content = reply
        .element
        .child("returnval")
        .ok_or_else(|| Failed::surely(Error::Protocol { method, detail: "it has no content".to_owned() }))?;
    let about = about_of(content);
    let content = service_content(content).map_err(Failed::surely)?;
    let early_cookie = reply.cookie;

    let method = "Login";
    let envelope = soap::envelope(method, &content.session_manager, |w| {
        w.text("userName", &credentials.user);
        w.text("password", credentials.password.expose());
    });
    let session = |cookie, key, user: String| {
        Arc::new(Session {
            purpose,
            agent: agent.clone(),
            epoch,
            generation,
            cookie,
            key,
            user,
            content: content.clone(),
            about: about.clone(),
            used: Mutex::new(Instant::now()),
        })
    };
    let caller = Caller { agent: &agent, cookie: early_cookie.as_deref() };
    match inner.exchange(method, caller, envelope, PATIENCE).await {
        Ok(reply) => {
            tracing::debug!(generation, user = %credentials.user, "logged in");
            let said = |name| reply.element.at(&["returnval", name]).map(|value| value.text.trim().to_owned());
            let user = said("userName").filter(|user| !user.is_empty()).unwrap_or(credentials.user);
            Ok(session(reply.cookie.or(early_cookie), said("key"), user))
        }
        Err(Error::Fault { fault, .. }) if fault.kind == FaultKind::InvalidLogin => {
            Err(Failed::surely(Error::Login { user: credentials.user, fault }))
        }
        Err(error) => {
            // If the login took effect although its answer is lost, the
            // session goes by the cookie that vCenter may have given before.
            // (vCenter 8 gives none before the login.)
            let mut in_doubt = may_have_opened_one(&error);
            if in_doubt && early_cookie.is_some() {
                in_doubt = !log_out(inner, &session(early_cookie, None, String::new())).await;
            }
            Err(Failed { error, in_doubt })
        }
    }
}

/// A fault is vCenter's refusal. So is 503, by which it says that it has too
/// many sessions, or its proxy that there is nobody behind it.
fn may_have_opened_one(error: &Error) -> bool {
    match error {
        Error::Fault { .. } | Error::Http { status: 503, .. } => false,
        error => error.outcome_unknown(),
    }
}

/// Bounded, and tried again, as a lost answer leaves a session in doubt. True if
/// the session surely is gone.
pub(super) async fn log_out(inner: &Inner, session: &Session) -> bool {
    let attempts = async {
        for _ in 0..2 {
            let ended = if session.purpose == Purpose::Tag {
                rest::log_out(inner, session.caller(), LOGOUT).await
            } else {
                let envelope = soap::envelope("Logout", &session.content.session_manager, |_| {});
                inner.exchange("Logout", session.caller(), envelope, LOGOUT).await.map(drop)
            };
            match ended {
                Ok(()) => return true,
                // The answer of the first attempt was lost, or somebody else ended it.
                Err(error) if error.is_session_lost() && session.key.is_some() => return true,
                Err(error) => tracing::debug!(generation = session.generation, %error, "logout failed"),
            }
        }
        false
    };
    tokio::time::timeout(LOGOUT, attempts).await.unwrap_or(false)
}

/// The session cookie out of `Set-Cookie`, as it is to be sent back.
pub(crate) fn cookie_of(headers: &http::HeaderMap) -> Option<String> {
    headers
        .get_all(http::header::SET_COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .filter_map(|value| value.split(';').next())
        .map(str::trim)
        .find(|pair| pair.split_once('=').is_some_and(|(name, value)| name == COOKIE && !value.is_empty()))
        .map(str::to_owned)
}

fn about_of(content: &Element) -> About {
    let text = |name: &str| content.at(&["about", name]).map_or_else(String::new, |element| element.text.clone());
    About {
        full_name: text("fullName"),
        version: text("version"),
        api_version: text("apiVersion"),
        instance_uuid: text("instanceUuid"),
    }
}

fn service_content(content: &Element) -> Result<ServiceContent, Error> {
    let optional = |name: &str| content.child(name).and_then(soap::reference_of);
    let needed = |name: &'static str| {
        optional(name)
            .ok_or_else(|| Error::Protocol { method: "RetrieveServiceContent", detail: format!("it has no {name}") })
    };
    Ok(ServiceContent {
        root_folder: needed("rootFolder")?,
        property_collector: needed("propertyCollector")?,
        view_manager: needed("viewManager")?,
        search_index: needed("searchIndex")?,
        task_manager: needed("taskManager")?,
        session_manager: needed("sessionManager")?,
        custom_fields: optional("customFieldsManager"),
        customizations: optional("customizationSpecManager"),
        authorization: optional("authorizationManager"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_taken_as_it_is_quotes_and_all() {
        let mut headers = http::HeaderMap::new();
        headers.append("set-cookie", "other=1; Path=/".parse().unwrap());
        headers.append("set-cookie", "vmware_soap_session=\"52ab-cd\"; Path=/; HttpOnly; Secure".parse().unwrap());
        assert_eq!(cookie_of(&headers).as_deref(), Some("vmware_soap_session=\"52ab-cd\""));
        assert_eq!(cookie_of(&http::HeaderMap::new()), None);
    }
}

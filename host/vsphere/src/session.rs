//! One session per vCenter and credential: a single login in flight however
//! many ask for one, no hammering with a refused password, a keepalive, and a
//! logout on rotation and at the end.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::client::Inner;
use crate::error::{Error, FaultKind};
use crate::model::About;
use crate::refs::ManagedObjectRef;
use crate::secret::Credentials;
use crate::soap;
use crate::xml::Element;

/// After a refused login, how long the same credentials are not tried again:
/// vCenter locks an account after a handful of wrong passwords.
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// How long a logout may take; nobody waits for it with pleasure.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(5);
const COOKIE: &str = "vmware_soap_session";

/// The managed objects that every call starts from (`ServiceContent`).
#[derive(Debug, Clone)]
pub(crate) struct ServiceContent {
    pub(crate) root_folder: ManagedObjectRef,
    pub(crate) property_collector: ManagedObjectRef,
    pub(crate) view_manager: ManagedObjectRef,
    pub(crate) search_index: ManagedObjectRef,
    pub(crate) task_manager: ManagedObjectRef,
    pub(crate) session_manager: ManagedObjectRef,
    /// A bare `ESXi` has none.
    pub(crate) custom_fields: Option<ManagedObjectRef>,
}

/// A live session, as far as we know.
#[derive(Debug)]
pub(crate) struct Session {
    /// Tells this session from the one before and after it.
    pub(crate) generation: u64,
    pub(crate) cookie: Option<String>,
    pub(crate) content: ServiceContent,
    pub(crate) about: About,
    used: Mutex<Instant>,
}

impl Session {
    /// Notes that a call went out on it, which keeps it alive at vCenter.
    pub(crate) fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn idle(&self) -> Duration {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// `config.createDate` came with vSphere 6.7; asking an older server for it
    /// fails the whole read.
    pub(crate) fn has_create_date(&self) -> bool {
        let mut parts = self.about.api_version.split('.').map(str::parse::<u32>);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 7),
            _ => true,
        }
    }
}

type Login = Shared<BoxFuture<'static, Result<Arc<Session>, Error>>>;

/// Who we are at vCenter. The lock is never held over an await.
pub(crate) struct Sessions {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    credentials: Credentials,
    /// Counts credentials and logouts: a login of an older epoch is void.
    epoch: u64,
    generation: u64,
    current: Option<Arc<Session>>,
    pending: Option<Login>,
    refused: Option<(Instant, Error)>,
}

impl Sessions {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self {
            state: Mutex::new(State {
                credentials,
                epoch: 0,
                generation: 0,
                current: None,
                pending: None,
                refused: None,
            }),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session if there is one, without asking for it.
    pub(crate) fn current(&self) -> Option<Arc<Session>> {
        self.lock().current.clone()
    }

    /// Forgets a session that vCenter no longer knows. A newer one stays.
    pub(crate) fn invalidate(&self, session: &Session) {
        let mut state = self.lock();
        if state.current.as_ref().is_some_and(|current| current.generation == session.generation) {
            tracing::debug!(generation = session.generation, "session lost");
            state.current = None;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Returns once this session is no longer the one in use.
    pub(crate) async fn replaced(&self, session: &Session) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Listening before looking, so that no change falls between.
            changed.as_mut().enable();
            let current = self.current().map(|current| current.generation);
            if current != Some(session.generation) {
                return;
            }
            changed.await;
        }
    }

    fn joinable(&self, inner: &Arc<Inner>) -> Result<Step, Error> {
        let mut state = self.lock();
        if let Some(session) = &state.current {
            return Ok(Step::Have(Arc::clone(session)));
        }
        if let Some((until, error)) = &state.refused {
            if Instant::now() < *until {
                return Err(error.clone());
            }
            state.refused = None;
        }
        let epoch = state.epoch;
        if let Some(pending) = &state.pending {
            return Ok(Step::Join(pending.clone(), epoch));
        }
        state.generation += 1;
        let task = tokio::spawn(login_and_keep(Arc::clone(inner), state.credentials.clone(), epoch, state.generation));
        // A task of its own: the login ends, and is accounted for, even if all
        // who wait for it give up.
        let pending: Login = task
            .map(|joined| {
                joined.unwrap_or_else(|_| {
                    Err(Error::Protocol { method: "Login", detail: "the login was cut short".to_owned() })
                })
            })
            .boxed()
            .shared();
        state.pending = Some(pending.clone());
        Ok(Step::Join(pending, epoch))
    }

    /// True if it was still wanted and is now the session in force.
    fn settle(&self, epoch: u64, result: &Result<Arc<Session>, Error>) -> bool {
        let mut state = self.lock();
        if state.epoch != epoch {
            return false;
        }
        state.pending = None;
        match result {
            Ok(session) => state.current = Some(Arc::clone(session)),
            Err(error @ Error::Login { .. }) => {
                state.refused = Some((Instant::now() + REFUSED_FOR, error.clone()));
            }
            Err(_) => {}
        }
        true
    }

    fn is_void(&self, epoch: u64) -> bool {
        self.lock().epoch != epoch
    }

    /// Takes new credentials; gives back the session of the old ones.
    pub(crate) fn replace(&self, credentials: Credentials) -> Option<Arc<Session>> {
        let mut state = self.lock();
        if state.credentials == credentials {
            return None;
        }
        state.credentials = credentials;
        let old = state.end_epoch();
        drop(state);
        self.changed.notify_waiters();
        old
    }

    /// Ends what there is; a later call logs in anew.
    pub(crate) fn take(&self) -> Option<Arc<Session>> {
        let old = self.lock().end_epoch();
        self.changed.notify_waiters();
        old
    }
}

impl State {
    fn end_epoch(&mut self) -> Option<Arc<Session>> {
        self.epoch += 1;
        self.pending = None;
        self.refused = None;
        self.current.take()
    }
}

enum Step {
    Have(Arc<Session>),
    Join(Login, u64),
}

/// The session, by logging in if there is none. Everybody who asks meanwhile
/// waits for the same login.
pub(crate) async fn session(inner: &Arc<Inner>) -> Result<Arc<Session>, Error> {
    loop {
        match inner.sessions.joinable(inner)? {
            Step::Have(session) => return Ok(session),
            Step::Join(login, epoch) => {
                let result = login.await;
                if !inner.sessions.is_void(epoch) {
                    return result;
                }
            }
        }
    }
}

async fn login_and_keep(
    inner: Arc<Inner>,
    credentials: Credentials,
    epoch: u64,
    generation: u64,
) -> Result<Arc<Session>, Error> {
    let result = login(&inner, credentials, generation).await;
    let wanted = inner.sessions.settle(epoch, &result);
    if let Ok(session) = &result {
        if wanted {
            tokio::spawn(keep_alive(Arc::downgrade(&inner), Arc::clone(session), inner.options.keepalive));
        } else {
            logout(&inner, session).await;
        }
    }
    result
}

async fn login(inner: &Inner, credentials: Credentials, generation: u64) -> Result<Arc<Session>, Error> {
    let instance = ManagedObjectRef::new("ServiceInstance", "ServiceInstance");
    let deadline = inner.options.call_timeout;
    let method = "RetrieveServiceContent";
    let envelope = soap::envelope(method, &instance, |_| {});
    let reply = inner.exchange(method, None, envelope, deadline).await?;
    let content =
        reply.element.child("returnval").ok_or(Error::Protocol { method, detail: "it has no content".to_owned() })?;
    let about = about_of(content);
    let content = service_content(content)?;
    let early_cookie = reply.cookie;

    let method = "Login";
    let envelope = soap::envelope(method, &content.session_manager, |w| {
        w.text("userName", &credentials.user);
        w.text("password", credentials.password.expose());
    });
    let session = |cookie| {
        Arc::new(Session {
            generation,
            cookie,
            content: content.clone(),
            about: about.clone(),
            used: Mutex::new(Instant::now()),
        })
    };
    match inner.exchange(method, early_cookie.as_deref(), envelope, deadline).await {
        Ok(reply) => {
            tracing::debug!(generation, user = %credentials.user, "logged in");
            Ok(session(reply.cookie.or(early_cookie)))
        }
        Err(Error::Fault { fault, .. }) if fault.kind == FaultKind::InvalidLogin => {
            Err(Error::Login { user: credentials.user, fault })
        }
        Err(error) => {
            // If the login took effect although its answer is lost, the
            // session goes by the cookie that vCenter may have given before.
            if error.outcome_unknown() && early_cookie.is_some() {
                logout(inner, &session(early_cookie)).await;
            }
            Err(error)
        }
    }
}

/// Best effort, bounded.
pub(crate) async fn logout(inner: &Inner, session: &Session) {
    let envelope = soap::envelope("Logout", &session.content.session_manager, |_| {});
    let result = inner.exchange("Logout", session.cookie.as_deref(), envelope, LOGOUT_TIMEOUT).await;
    if let Err(error) = result {
        tracing::debug!(generation = session.generation, %error, "logout failed");
    }
}

/// Touches an idle session now and then, until it is no longer the one in use.
/// A long poll under way keeps it alive by itself.
async fn keep_alive(inner: Weak<Inner>, session: Arc<Session>, every: Duration) {
    let instance = ManagedObjectRef::new("ServiceInstance", "ServiceInstance");
    loop {
        tokio::time::sleep(every.saturating_sub(session.idle()).max(every / 8)).await;
        let Some(inner) = inner.upgrade() else { return };
        let in_use = inner.sessions.current().is_some_and(|current| current.generation == session.generation);
        if !in_use {
            return;
        }
        if inner.is_polling() {
            session.touch();
            continue;
        }
        if session.idle() < every {
            continue;
        }
        let envelope = soap::envelope("CurrentTime", &instance, |_| {});
        let result =
            inner.exchange("CurrentTime", session.cookie.as_deref(), envelope, inner.options.call_timeout).await;
        session.touch();
        if let Err(error) = result
            && error.is_session_lost()
        {
            inner.sessions.invalidate(&session);
            return;
        }
    }
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

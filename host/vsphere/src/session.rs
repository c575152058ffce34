//! One session per account: a single login in flight however many ask for one,
//! no hammering with a refused password, a keepalive, a change of credentials
//! without a gap, and a logout that is the end. Never more sessions than there
//! are seats, whatever gets lost.
//!
//! vCenter's other API (REST, for tags) has sessions of its own, and they are an account
//! of their own here: it logs in only when somebody asks for tags. (vCenter counts them
//! apart too, but for 8.0 U3 and later.)

mod agent;
mod leftovers;
mod login;
mod seats;

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::sync::Notify;
use tokio::time::Instant;

pub use agent::Agent;
pub(crate) use login::cookie_of;
pub use seats::{MAX_SESSIONS, SessionCount};

use crate::client::{Caller, Inner, Purpose, Vcenter};
use crate::error::Error;
use crate::model::About;
use crate::refs::ManagedObjectRef;
use crate::session::leftovers::Swept;
use crate::session::login::{Attempt, Failed};
use crate::session::seats::Seats;
use crate::soap;
use vmgroup_wire::Credentials;

/// After a refused login the same credentials are not tried again for this long,
/// and twice as long after each further one. vCenter locks an account by default
/// after five failed logins within three minutes, and there may be two of us.
const REFUSED_FOR: Duration = Duration::from_secs(200);
const REFUSED_AT_MOST: Duration = Duration::from_mins(15);
/// Between attempts to log in with changed credentials while the old session serves.
const CHANGE_AGAIN: Duration = Duration::from_secs(10);
/// How long the end may take: logouts, and a login that is still under way.
const END: Duration = Duration::from_secs(6);
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
    /// A bare `ESXi` has none.
    pub(crate) customizations: Option<ManagedObjectRef>,
    pub(crate) authorization: Option<ManagedObjectRef>,
}

/// A live session, as far as we know.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) purpose: Purpose,
    /// As what it is listed at vCenter.
    agent: String,
    /// The credentials that it was opened with.
    epoch: u64,
    /// Tells this session from the one before and after it.
    pub(crate) generation: u64,
    /// What it is known by to whoever answers its calls.
    cookie: Option<String>,
    /// `UserSession.key`.
    key: Option<String>,
    /// `UserSession.userName`: whose it is, as vCenter calls him.
    pub(crate) user: String,
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

    /// As whom a call on it is made.
    pub(crate) fn caller(&self) -> Caller<'_> {
        Caller { agent: &self.agent, cookie: self.cookie.as_deref() }
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

/// An account of ours at vCenter. The lock is never held over an await.
pub(crate) struct Account {
    purpose: Purpose,
    /// As what its sessions are listed at vCenter.
    agent: String,
    state: Mutex<State>,
    changed: Notify,
    polling: AtomicUsize,
}

struct State {
    credentials: Credentials,
    /// Counts credentials: a login of an older epoch is void.
    epoch: u64,
    generation: u64,
    current: Option<Arc<Session>>,
    pending: Option<Login>,
    refused: Option<Refusal>,
    seats: Seats,
    sweep: Sweep,
    /// Somebody sees to it that a session of older credentials is replaced.
    changing: bool,
    /// Nobody logs in any more.
    closed: bool,
}

struct Refusal {
    until: Instant,
    pause: Duration,
    error: Error,
}

/// Whether to look for sessions of ours that nobody uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sweep {
    Due,
    Done,
    /// vCenter does not let us, at least not this session.
    NotAllowed,
}

impl Account {
    pub(crate) fn new(purpose: Purpose, agent: &Agent, label: &str, credentials: Credentials) -> Self {
        Self {
            purpose,
            agent: agent.header(label),
            state: Mutex::new(State {
                credentials,
                epoch: 0,
                generation: 0,
                current: None,
                pending: None,
                refused: None,
                seats: Seats::default(),
                // A process of our name may have been here before.
                sweep: Sweep::Due,
                changing: false,
                closed: false,
            }),
            changed: Notify::new(),
            polling: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_current(&self, session: &Session) -> bool {
        self.lock().is_current(session)
    }

    /// How many sessions there are at vCenter.
    pub(crate) fn count(&self) -> SessionCount {
        self.lock().seats.count(Instant::now())
    }

    /// Forgets a session that vCenter no longer knows. A newer one stays.
    pub(crate) fn invalidate(&self, session: &Session) {
        let mut state = self.lock();
        if state.is_current(session) {
            tracing::debug!(generation = session.generation, "session lost");
            state.current = None;
        }
        state.seats.free(session.generation);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Returns once this session is no longer the one in use.
    pub(crate) async fn replaced(&self, session: &Session) {
        self.until(|state| !state.is_current(session)).await;
    }

    /// Returns once there are other credentials than now.
    pub(crate) async fn credentials_changed(&self) {
        let epoch = self.lock().epoch;
        self.until(|state| state.epoch != epoch).await;
    }

    /// Returns once vCenter has no session that we could still end.
    async fn ended(&self) {
        self.until(|state| state.seats.count(Instant::now()).open == 0).await;
    }

    async fn until(&self, holds: impl Fn(&State) -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Listening before looking, so that no change falls between.
            changed.as_mut().enable();
            if holds(&self.lock()) {
                return;
            }
            changed.await;
        }
    }

    fn joinable(&self, inner: &Arc<Inner>) -> Result<Step, Error> {
        let mut state = self.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        if let Some(session) = &state.current {
            return Ok(Step::Have(Arc::clone(session)));
        }
        let epoch = state.epoch;
        Ok(Step::Join(self.login(&mut state, inner)?, epoch))
    }

    /// The login that is under way, or a new one.
    fn login(&self, state: &mut State, inner: &Arc<Inner>) -> Result<Login, Error> {
        if let Some(pending) = &state.pending {
            return Ok(pending.clone());
        }
        let now = Instant::now();
        if let Some(refusal) = state.refused.as_ref().filter(|refusal| now < refusal.until) {
            return Err(refusal.error.clone());
        }
        let generation = state.generation + 1;
        state.seats.take(generation, now).map_err(|wait| Error::TooManySessions { most: MAX_SESSIONS, wait })?;
        state.generation = generation;
        let attempt = Attempt {
            purpose: self.purpose,
            agent: self.agent.clone(),
            credentials: state.credentials.clone(),
            epoch: state.epoch,
            generation,
        };
        // A task of its own: the login ends, and is accounted for, even if all
        // who wait for it give up.
        let task = tokio::spawn(log_in_and_keep(Arc::clone(inner), attempt));
        let pending: Login = task
            .map(|joined| {
                joined.unwrap_or_else(|_| {
                    Err(Error::Protocol { method: "Login", detail: "the login was cut short".to_owned() })
                })
            })
            .boxed()
            .shared();
        state.pending = Some(pending.clone());
        Ok(pending)
    }

    /// Takes note of a login's end; gives the session that nobody needs any more.
    fn settle(&self, epoch: u64, generation: u64, result: &Result<Arc<Session>, Failed>) -> Option<Arc<Session>> {
        let mut state = self.lock();
        let wanted = state.epoch == epoch && !state.closed;
        if state.epoch == epoch {
            state.pending = None;
        }
        let now = Instant::now();
        let superfluous = match result {
            Ok(session) if wanted => {
                state.refused = None;
                if state.sweep == Sweep::NotAllowed {
                    state.sweep = Sweep::Due;
                }
                state.current.replace(Arc::clone(session))
            }
            Ok(session) => Some(Arc::clone(session)),
            Err(Failed { error, in_doubt }) => {
                if *in_doubt {
                    state.seats.doubt(generation, now);
                    state.sweep = Sweep::Due;
                } else {
                    state.seats.free(generation);
                }
                if wanted && matches!(error, Error::Login { .. }) {
                    let before = state.refused.as_ref().map(|refusal| refusal.pause);
                    let pause = before.map_or(REFUSED_FOR, |pause| (pause * 2).min(REFUSED_AT_MOST));
                    state.refused = Some(Refusal { until: now + pause, pause, error: error.clone() });
                }
                None
            }
        };
        drop(state);
        self.changed.notify_waiters();
        superfluous
    }

    /// A logout has ended.
    fn logged_out(&self, session: &Session, surely: bool) {
        let mut state = self.lock();
        if surely {
            state.seats.free(session.generation);
        } else {
            state.seats.doubt(session.generation, Instant::now());
            state.sweep = Sweep::Due;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    fn is_void(&self, epoch: u64) -> bool {
        let state = self.lock();
        state.closed || state.epoch != epoch
    }

    /// Takes other credentials, to be tried at once.
    fn change(&self, credentials: Credentials) -> Changed {
        let mut state = self.lock();
        if state.credentials == credentials || state.closed {
            return Changed::Not;
        }
        state.credentials = credentials;
        state.epoch += 1;
        state.pending = None;
        state.refused = None;
        let needed = state.current.is_some() && !state.changing;
        state.changing |= needed;
        drop(state);
        self.changed.notify_waiters();
        if needed { Changed::InUse } else { Changed::Noted }
    }

    /// Ends it for good; gives the session to log out.
    fn close(&self) -> Option<Arc<Session>> {
        let mut state = self.lock();
        state.closed = true;
        let session = state.current.take();
        drop(state);
        self.changed.notify_waiters();
        session
    }

    /// Whether to look for leftovers now, and the sessions in doubt, if so.
    fn begin_sweep(&self, session: &Session) -> Option<Vec<u64>> {
        let mut state = self.lock();
        // The session of a login that is under way would be taken for a leftover.
        let now = state.sweep == Sweep::Due && state.pending.is_none() && state.is_current(session);
        if !now {
            return None;
        }
        state.sweep = Sweep::Done;
        Some(state.seats.in_doubt())
    }

    fn swept(&self, in_doubt: &[u64], result: &Result<Swept, Error>) {
        let mut state = self.lock();
        match result {
            Ok(Swept::Clean) => {
                for generation in in_doubt {
                    state.seats.free(*generation);
                }
            }
            Ok(Swept::NotAllowed) => state.sweep = Sweep::NotAllowed,
            Err(_) => state.sweep = Sweep::Due,
        }
    }

    fn is_polling(&self) -> bool {
        self.polling.load(Ordering::Relaxed) > 0
    }
}

impl State {
    fn is_current(&self, session: &Session) -> bool {
        self.current.as_ref().is_some_and(|current| current.generation == session.generation)
    }
}

/// What other credentials were met with.
enum Changed {
    /// They are the same.
    Not,
    /// Whoever needs a session logs in with them.
    Noted,
    /// A session of the old ones is in use, which stays so until there is a new
    /// one, and somebody has to see to that.
    InUse,
}

enum Step {
    Have(Arc<Session>),
    Join(Login, u64),
}

/// The session for this, by logging in if there is none. Everybody who asks
/// meanwhile waits for the same login, each for as long as a call may take; the
/// login itself goes on, so that a slow vCenter is not asked for another one.
pub(crate) async fn session(inner: &Arc<Inner>, purpose: Purpose) -> Result<Arc<Session>, Error> {
    let account = inner.account(purpose);
    let had = async {
        loop {
            match account.joinable(inner)? {
                Step::Have(session) => return Ok(session),
                Step::Join(login, epoch) => {
                    let result = login.await;
                    if !account.is_void(epoch) {
                        return result;
                    }
                }
            }
        }
    };
    let after = inner.options.call_timeout;
    tokio::time::timeout(after, had).await.unwrap_or(Err(Error::Timeout { method: "Login", after }))
}

async fn log_in_and_keep(inner: Arc<Inner>, attempt: Attempt) -> Result<Arc<Session>, Error> {
    let account = inner.account(attempt.purpose);
    let (epoch, generation) = (attempt.epoch, attempt.generation);
    let result = login::log_in(&inner, attempt).await;
    let superfluous = account.settle(epoch, generation, &result);
    // The other API's session is not kept alive: it is needed now and then, and whoever
    // finds it ended logs in anew.
    if let Ok(session) = &result
        && session.purpose != Purpose::Tag
        && account.is_current(session)
    {
        tokio::spawn(keep_alive(Arc::downgrade(&inner), Arc::clone(session), inner.options.keepalive));
    }
    if let Some(session) = superfluous {
        let inner = Arc::clone(&inner);
        tokio::spawn(async move { log_out(&inner, &session).await });
    }
    result.map_err(|failed| failed.error)
}

async fn log_out(inner: &Inner, session: &Session) {
    let surely = login::log_out(inner, session).await;
    inner.account(session.purpose).logged_out(session, surely);
}

/// Logs out of a session that was not used for so long.
pub(crate) async fn retire_idle(inner: &Inner, purpose: Purpose, after: Duration) {
    let idle = inner.account(purpose).lock().current.take_if(|session| session.idle() >= after);
    if let Some(session) = idle {
        log_out(inner, &session).await;
    }
}

/// Takes other credentials; true if they are. With a session of the old ones in
/// use there is no gap: it serves until vCenter has accepted the new ones, and is
/// logged out then.
pub(crate) fn change_credentials(inner: &Arc<Inner>, purpose: Purpose, credentials: Credentials) -> bool {
    match inner.account(purpose).change(credentials) {
        Changed::Not => false,
        Changed::Noted => true,
        Changed::InUse => {
            tokio::spawn(change_over(Arc::downgrade(inner), purpose));
            true
        }
    }
}

/// Logs in with changed credentials until that has been done, or the session of
/// the old ones is lost: then whoever needs one logs in.
async fn change_over(inner: Weak<Inner>, purpose: Purpose) {
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let account = inner.account(purpose);
        let login = {
            let mut state = account.lock();
            let epoch = state.epoch;
            if state.closed || state.current.as_ref().is_none_or(|session| session.epoch == epoch) {
                state.changing = false;
                return;
            }
            account.login(&mut state, &inner)
        };
        drop(inner);
        if let Ok(login) = login
            && let Err(error) = login.await
        {
            tracing::error!(%error, "no session with the changed login yet; the old session serves on");
        }
        tokio::time::sleep(CHANGE_AGAIN).await;
    }
}

/// Logs out of all accounts for good.
pub(crate) async fn end(inner: &Inner) {
    let ends = inner.accounts().map(|account| async {
        if let Some(session) = account.close() {
            log_out(inner, &session).await;
        }
        account.ended().await;
    });
    if tokio::time::timeout(END, futures::future::join_all(ends)).await.is_err() {
        tracing::warn!("vCenter did not confirm that all sessions have ended");
    }
}

/// Touches an idle session now and then, until it is no longer the one in use.
/// A long poll under way keeps it alive by itself.
async fn keep_alive(inner: Weak<Inner>, session: Arc<Session>, every: Duration) {
    let instance = ManagedObjectRef::new("ServiceInstance", "ServiceInstance");
    loop {
        {
            let Some(inner) = inner.upgrade() else { return };
            sweep(&inner, &session).await;
        }
        tokio::time::sleep(every.saturating_sub(session.idle()).max(every / 8)).await;
        let Some(inner) = inner.upgrade() else { return };
        let account = inner.account(session.purpose);
        if !account.is_current(&session) {
            return;
        }
        if account.is_polling() {
            session.touch();
            continue;
        }
        if session.idle() < every {
            continue;
        }
        let envelope = soap::envelope("CurrentTime", &instance, |_| {});
        let result = inner.exchange("CurrentTime", session.caller(), envelope, inner.options.call_timeout).await;
        session.touch();
        if let Err(error) = result
            && error.is_session_lost()
        {
            account.invalidate(&session);
            return;
        }
    }
}

/// Ends what was left behind, if there is reason to look for it.
async fn sweep(inner: &Arc<Inner>, session: &Session) {
    let account = inner.account(session.purpose);
    let Some(in_doubt) = account.begin_sweep(session) else { return };
    let result = leftovers::sweep(&Vcenter { inner: Arc::clone(inner) }, session).await;
    account.swept(&in_doubt, &result);
    match result {
        Ok(Swept::Clean) => {}
        Ok(Swept::NotAllowed) => {
            tracing::debug!("sessions of ours cannot be looked for: privilege Sessions.TerminateSession");
        }
        Err(error) => tracing::debug!(%error, "sessions of ours could not be looked for"),
    }
}

/// Marks a long poll under way on a session for as long as it lives.
pub(crate) struct Polling(Arc<Inner>, Purpose);

impl Polling {
    pub(crate) fn on(inner: &Arc<Inner>, session: &Session) -> Self {
        inner.account(session.purpose).polling.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(inner), session.purpose)
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.0.account(self.1).polling.fetch_sub(1, Ordering::Relaxed);
    }
}

//! A call to vCenter: its session, its deadline, its one retry after a lost
//! session, its count. It knows no method's meaning.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::error::Error;
use crate::model::About;
use crate::pace::Pace;
use crate::read::Further;
use crate::refs::ManagedObjectRef;
use crate::session::{self, Account, Agent, Session, SessionCount};
use crate::soap;
use crate::xml::{Element, Writer};
use vmgroup_wire::Credentials;
use vmgroup_wire::{Transport, TransportKind};

/// How to reach a vCenter, and what to keep of what it tells.
#[derive(Debug, Clone)]
pub struct Options {
    /// The SDK address, see [`endpoint`](crate::endpoint).
    pub endpoint: http::Uri,
    /// Who logs in.
    pub credentials: Credentials,
    /// Who logs in for what only reads, the watch included; none: the same.
    pub reader: Option<Credentials>,
    /// As whom our sessions are listed at vCenter.
    pub agent: Agent,
    /// The deadline of every call but the long poll.
    pub call_timeout: Duration,
    /// An idle session is touched this often (`CurrentTime`). vCenter ends one
    /// after 30 minutes by default.
    pub keepalive: Duration,
    /// How long vCenter holds a `WaitForUpdatesEx` that has nothing to tell.
    /// The call's deadline is this plus `call_timeout`.
    pub long_poll: Duration,
    /// How long the watch lets changes gather before it acts on the first of a
    /// burst, and twice as long before it asks again after the rest.
    pub settle: Duration,
    /// The most objects per page of a bulk read or an update.
    pub page_size: u32,
    /// Those `extraConfig` entries are kept in [`Vm::extra`](crate::Vm::extra)
    /// whose key starts with this; empty keeps all.
    pub extra_prefix: String,
    /// The `extraConfig` key by whose value the inventory is indexed. It has to
    /// start with `extra_prefix`.
    pub index_key: String,
}

impl Options {
    /// The defaults for everything but where and who.
    pub fn new(endpoint: http::Uri, credentials: Credentials) -> Self {
        Self {
            endpoint,
            credentials,
            reader: None,
            agent: Agent::default(),
            call_timeout: Duration::from_mins(1),
            keepalive: Duration::from_mins(5),
            long_poll: Duration::from_mins(5),
            settle: Duration::from_millis(30),
            // A page is read into a tree before it is understood, and that takes a
            // hundred times the room of what is kept.
            page_size: 100,
            extra_prefix: String::new(),
            index_key: String::new(),
        }
    }
}

/// How a call ended, as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// An answer came.
    Ok,
    /// A vim25 fault came.
    Fault,
    /// No connection or no trust: not sent.
    Unreachable,
    /// The connection broke, or the answer makes no sense.
    Broken,
    /// No answer in time.
    Timeout,
    /// An HTTP status without a SOAP fault.
    Http,
}

impl Outcome {
    /// A stable name, for metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Fault => "fault",
            Self::Unreachable => "unreachable",
            Self::Broken => "broken",
            Self::Timeout => "timeout",
            Self::Http => "http",
        }
    }

    fn of<T>(result: &Result<T, Error>) -> Self {
        match result {
            Ok(_) => Self::Ok,
            Err(Error::Transport { source, .. }) => match source.kind {
                TransportKind::Connect | TransportKind::Tls => Self::Unreachable,
                TransportKind::Timeout => Self::Timeout,
                TransportKind::Broken => Self::Broken,
            },
            Err(Error::Timeout { .. }) => Self::Timeout,
            Err(Error::Http { .. }) => Self::Http,
            Err(Error::Fault { .. } | Error::Login { .. }) => Self::Fault,
            Err(_) => Self::Broken,
        }
    }
}

/// Told of every exchange with vCenter: method, outcome, duration.
pub type CallHook = Arc<dyn Fn(&'static str, Outcome, Duration) + Send + Sync>;

/// Asked immediately before a call that changes something is sent, the second
/// time too if it is sent again; false: it is not sent, and fails with
/// [`Error::Withheld`].
pub type WriteGate = Arc<dyn Fn() -> bool + Send + Sync>;

/// What a call is good for, which decides whose session carries it, and whether it
/// passes the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Read,
    Write,
    /// Tags, which are behind another API with sessions of its own.
    Tag,
}

/// As whom a call is made.
pub(crate) struct Caller<'a> {
    pub(crate) agent: &'a str,
    pub(crate) cookie: Option<&'a str>,
}

/// A client of one vCenter. Clones share one session, or two if reads have an
/// account of their own, and one more of the other API if anybody asks for tags.
#[derive(Clone)]
pub struct Vcenter {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Vcenter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vcenter").field("endpoint", &self.inner.options.endpoint).finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) options: Options,
    transport: Arc<dyn Transport>,
    writer: Account,
    reader: Option<Account>,
    tagger: Account,
    counts: Mutex<BTreeMap<(&'static str, Outcome), u64>>,
    hook: RwLock<Option<CallHook>>,
    gate: RwLock<Option<WriteGate>>,
    pace: Pace,
    /// What of machines is read and watched beside what always is.
    pub(crate) further: watch::Sender<Further>,
}

/// What came back on the wire.
pub(crate) struct Reply {
    pub(crate) element: Element,
    pub(crate) cookie: Option<String>,
}

/// The object that a call goes to.
pub(crate) enum This {
    PropertyCollector,
    ViewManager,
    SearchIndex,
    Object(ManagedObjectRef),
}

impl Vcenter {
    /// A client that has not called yet.
    pub fn new(options: Options, transport: Arc<dyn Transport>) -> Self {
        let label = if options.reader.is_some() { "write" } else { "all" };
        let writer = Account::new(Purpose::Write, &options.agent, label, options.credentials.clone());
        let reader = options.reader.clone().map(|reader| Account::new(Purpose::Read, &options.agent, "read", reader));
        let tagger = Account::new(Purpose::Tag, &options.agent, "tags", options.credentials.clone());
        Self {
            inner: Arc::new(Inner {
                options,
                transport,
                writer,
                reader,
                tagger,
                counts: Mutex::default(),
                hook: RwLock::default(),
                gate: RwLock::default(),
                pace: Pace::default(),
                further: watch::Sender::new(Further::default()),
            }),
        }
    }

    /// Logs in if need be, and says whom to (`RetrieveServiceContent`, `Login`).
    /// Every other call does this by itself; here its errors come unwrapped.
    pub async fn connect(&self) -> Result<About, Error> {
        let session = session::session(&self.inner, Purpose::Write).await?;
        session::session(&self.inner, Purpose::Read).await?;
        Ok(session.about.clone())
    }

    /// Ends the sessions, bounded to a few seconds, and for good: whoever calls
    /// later is told [`Error::Closed`].
    pub async fn logout(&self) {
        session::end(&self.inner).await;
    }

    /// Takes other credentials, from within a tokio runtime: a session that is
    /// in use stays so until vCenter has accepted them, and is then logged out in
    /// the background; without one the next call logs in. The same credentials
    /// again change nothing. True if they are others.
    pub fn set_credentials(&self, credentials: Credentials) -> bool {
        session::change_credentials(&self.inner, Purpose::Tag, credentials.clone());
        session::change_credentials(&self.inner, Purpose::Write, credentials)
    }

    /// The same for the account that only reads, if there is one.
    pub fn set_reader(&self, credentials: Credentials) -> bool {
        self.inner.reader.is_some() && session::change_credentials(&self.inner, Purpose::Read, credentials)
    }

    /// How many sessions there are at vCenter, over all accounts.
    pub fn sessions(&self) -> SessionCount {
        let counts = self.inner.accounts().map(Account::count);
        counts.fold(SessionCount::default(), |sum, one| SessionCount {
            open: sum.open + one.open,
            in_doubt: sum.in_doubt + one.in_doubt,
        })
    }

    /// How many exchanges there were, by method and outcome, logins included.
    pub fn call_counts(&self) -> BTreeMap<(String, Outcome), u64> {
        self.inner
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|((method, outcome), count)| (((*method).to_owned(), *outcome), *count))
            .collect()
    }

    /// From now on the inventory has what guests say ([`Vm::guest`](crate::Vm::guest)).
    /// A watch that is under way is built anew for that, once. It is for good: what
    /// guests say changes by itself, so each of them is told of a few times while it
    /// starts, and now and then afterwards.
    pub fn watch_guests(&self) {
        self.inner.further.send_if_modified(|further| !std::mem::replace(&mut further.guests, true));
    }

    /// From now on the inventory has machines' custom attributes
    /// ([`Vm::attributes`](crate::Vm::attributes)). A watch that is under way is built
    /// anew for that, once.
    pub fn watch_attributes(&self) {
        self.inner.further.send_if_modified(|further| !std::mem::replace(&mut further.attributes, true));
    }

    pub(crate) fn further(&self) -> Further {
        *self.inner.further.borrow()
    }

    /// Sets who is told of every exchange; one hook, the last one set.
    pub fn set_call_hook(&self, hook: CallHook) {
        *self.inner.hook.write().unwrap_or_else(PoisonError::into_inner) = Some(hook);
    }

    /// Sets who is asked before each write; one gate, the last one set.
    pub fn set_write_gate(&self, gate: WriteGate) {
        *self.inner.gate.write().unwrap_or_else(PoisonError::into_inner) = Some(gate);
    }

    /// Sets how many calls a second may go out, logins and the long poll apart; none:
    /// as many as come.
    pub fn set_pace(&self, per_second: Option<u32>) {
        self.inner.pace.set(per_second);
    }

    /// A call in whatever session there is. If vCenter does not know that
    /// session, the call surely did nothing: it is sent once more in a new one,
    /// writes too. A write passes the gate whenever it is sent.
    pub(crate) async fn call(
        &self,
        purpose: Purpose,
        method: &'static str,
        this: This,
        arguments: impl Fn(&mut Writer),
    ) -> Result<Element, Error> {
        let session = self.session(purpose, method).await?;
        self.inner.paced(method).await?;
        self.inner.may(purpose, method)?;
        let deadline = self.inner.options.call_timeout;
        let first = self.call_within(&session, method, &this, deadline, &arguments).await;
        match first {
            Err(error) if error.is_session_lost() => {
                let session = self.session(purpose, method).await?;
                // The login in between may have taken long.
                self.inner.may(purpose, method)?;
                self.call_within(&session, method, &this, deadline, &arguments).await
            }
            other => other,
        }
    }

    /// The session for a call of this name.
    pub(crate) async fn session(&self, purpose: Purpose, method: &'static str) -> Result<Arc<Session>, Error> {
        session::session(&self.inner, purpose).await.map_err(|error| Error::Session { method, source: Arc::new(error) })
    }

    /// A call in just this session: for what lives and dies with one.
    pub(crate) async fn call_in(
        &self,
        session: &Session,
        method: &'static str,
        this: &This,
        arguments: impl FnOnce(&mut Writer),
    ) -> Result<Element, Error> {
        self.inner.paced(method).await?;
        self.call_within(session, method, this, self.inner.options.call_timeout, arguments).await
    }

    /// The same at once, with a deadline of its own: the long poll, and who has waited.
    pub(crate) async fn call_within(
        &self,
        session: &Session,
        method: &'static str,
        this: &This,
        deadline: Duration,
        arguments: impl FnOnce(&mut Writer),
    ) -> Result<Element, Error> {
        let content = &session.content;
        let this = match this {
            This::PropertyCollector => &content.property_collector,
            This::ViewManager => &content.view_manager,
            This::SearchIndex => &content.search_index,
            This::Object(object) => object,
        };
        let envelope = soap::envelope(method, this, arguments);
        session.touch();
        let result = self.inner.exchange(method, session.caller(), envelope, deadline).await;
        match result {
            Ok(reply) => Ok(reply.element),
            Err(error) => {
                if error.is_session_lost() {
                    self.inner.invalidate(session);
                }
                Err(error)
            }
        }
    }
}

impl Inner {
    /// Whose session carries calls of this purpose.
    pub(crate) fn account(&self, purpose: Purpose) -> &Account {
        match (purpose, &self.reader) {
            (Purpose::Read, Some(reader)) => reader,
            (Purpose::Tag, _) => &self.tagger,
            _ => &self.writer,
        }
    }

    pub(crate) fn accounts(&self) -> impl Iterator<Item = &Account> {
        [&self.writer, &self.tagger].into_iter().chain(&self.reader)
    }

    /// Waits until this call's turn has come.
    pub(crate) async fn paced(&self, method: &'static str) -> Result<(), Error> {
        self.pace.turn(self.options.call_timeout).await.map_err(|wait| Error::Paced { method, wait })
    }

    pub(crate) fn may(&self, purpose: Purpose, method: &'static str) -> Result<(), Error> {
        let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        match (purpose, &*gate) {
            (Purpose::Write, Some(open)) if !open() => Err(Error::Withheld { method }),
            _ => Ok(()),
        }
    }

    /// Forgets a session that vCenter does not know.
    pub(crate) fn invalidate(&self, session: &Session) {
        self.account(session.purpose).invalidate(session);
    }

    /// One SOAP exchange. The envelope is not logged, ever: one of them holds the
    /// password.
    pub(crate) async fn exchange(
        &self,
        method: &'static str,
        caller: Caller<'_>,
        envelope: String,
        deadline: Duration,
    ) -> Result<Reply, Error> {
        self.counted(method, deadline, self.send(method, caller, envelope)).await
    }

    /// One exchange: sent once, bounded, counted.
    pub(crate) async fn counted<T>(
        &self,
        method: &'static str,
        deadline: Duration,
        sent: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let span = tracing::debug_span!(
            "vcenter",
            otel.name = method,
            otel.kind = "client",
            method,
            outcome = tracing::field::Empty,
        );
        let began = Instant::now();
        let result = async {
            match tokio::time::timeout(deadline, sent).await {
                Ok(result) => result,
                Err(_) => Err(Error::Timeout { method, after: deadline }),
            }
        }
        .instrument(span.clone())
        .await;
        let outcome = Outcome::of(&result);
        let elapsed = began.elapsed();
        span.record("outcome", outcome.as_str());
        span.in_scope(|| {
            tracing::debug!(outcome = outcome.as_str(), ?elapsed, "call ended");
        });
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry((method, outcome)).or_default() += 1;
        let hook = self.hook.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(hook) = hook {
            hook(method, outcome, elapsed);
        }
        result
    }

    /// Carries a request to vCenter, and its answer back.
    pub(crate) async fn carry(
        &self,
        method: &'static str,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, Error> {
        self.transport.call(request).await.map_err(|source| Error::Transport { method, source })
    }

    async fn send(&self, method: &'static str, caller: Caller<'_>, envelope: String) -> Result<Reply, Error> {
        let mut request = http::Request::post(self.options.endpoint.clone())
            .header(http::header::CONTENT_TYPE, "text/xml; charset=utf-8")
            // vim25's version is negotiated by this header; 6.7 is old enough
            // for every server that has what we ask for.
            .header("SOAPAction", "\"urn:vim25/6.7\"")
            .header(http::header::USER_AGENT, caller.agent);
        if let Some(cookie) = caller.cookie {
            request = request.header(http::header::COOKIE, cookie);
        }
        let request = request
            .body(Bytes::from(envelope))
            .map_err(|error| Error::Config(format!("{method} cannot be sent: {error}")))?;
        let response = self.carry(method, request).await?;
        let cookie = session::cookie_of(response.headers());
        let element = soap::answer(method, response.status().as_u16(), response.body())?;
        Ok(Reply { element, cookie })
    }
}

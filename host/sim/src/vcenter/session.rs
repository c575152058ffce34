//! Sessions: who is logged in, since when, and until when if idle.

use std::time::Duration;

use super::soap::VimFault;
use super::value::{Val, int, long, text};
use super::world::State;

/// Numbers sessions in the order of their logins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionId(u64);

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    /// What `TerminateSession` knows it by.
    pub(super) key: String,
    /// What the client shows with each call.
    cookie: String,
    user: String,
    agent: String,
    login: Duration,
    last_active: Duration,
    calls: u64,
    /// Calls that are being answered: a session is not idle meanwhile.
    in_flight: u32,
}

impl State {
    /// Opens a session; the caller hands the cookie to the client.
    pub(super) fn login(&mut self, user: &str, password: &str, agent: &str) -> Result<(SessionId, String), VimFault> {
        if !self.knows(user, password) {
            return Err(invalid_login());
        }
        self.logins += 1;
        let id = SessionId(self.logins);
        let session = Session {
            key: self.new_uuid(),
            cookie: self.new_uuid(),
            user: user.to_owned(),
            agent: agent.to_owned(),
            login: self.now,
            last_active: self.now,
            calls: 0,
            in_flight: 0,
        };
        let cookie = session.cookie.clone();
        self.sessions.insert(id, session);
        let open = self.sessions.values().filter(|session| session.agent == agent).count();
        let most = self.most_sessions.entry(agent.to_owned()).or_default();
        *most = open.max(*most);
        Ok((id, cookie))
    }

    /// Whether there is such an account.
    pub(super) fn knows(&self, user: &str, password: &str) -> bool {
        let everything = user == self.config.user && password == self.config.password;
        everything || self.config.readers.get(user).is_some_and(|known| known == password)
    }

    /// The session that a cookie stands for.
    pub(super) fn session_of(&self, cookie: &str) -> Option<SessionId> {
        self.sessions.iter().find(|(_, session)| session.cookie == cookie).map(|(id, _)| *id)
    }

    /// A call comes in on a session.
    pub(super) fn begin_call(&mut self, id: SessionId) {
        let now = self.now;
        if let Some(session) = self.sessions.get_mut(&id) {
            session.last_active = now;
            session.calls += 1;
            session.in_flight += 1;
        }
    }

    /// Its answer goes out, or its client has gone.
    pub(super) fn end_call(&mut self, id: SessionId) {
        let now = self.now;
        if let Some(session) = self.sessions.get_mut(&id) {
            session.last_active = now;
            session.in_flight = session.in_flight.saturating_sub(1);
        }
    }

    pub(super) fn end_session(&mut self, id: SessionId) {
        self.sessions.remove(&id);
        self.views.retain(|_, view| view.session != id);
        self.collectors.retain(|(owner, _), _| *owner != id);
        self.wake();
    }

    pub(super) fn end_all_sessions(&mut self) {
        self.api_sessions.clear();
        for id in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.end_session(id);
        }
    }

    fn idle_at(&self, session: &Session) -> Option<Duration> {
        (session.in_flight == 0).then(|| session.last_active + self.config.session_timeout)
    }

    pub(super) fn next_session_expiry(&self) -> Option<Duration> {
        self.sessions.values().filter_map(|session| self.idle_at(session)).min()
    }

    pub(super) fn expire_sessions(&mut self) {
        let expired: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| self.idle_at(session).is_some_and(|at| at <= self.now))
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            self.end_session(id);
        }
    }

    /// Whether a session's user may do more than look.
    pub(super) fn may_write(&self, id: SessionId) -> bool {
        self.sessions.get(&id).is_some_and(|session| session.user == self.config.user)
    }

    /// As what the client of each session introduced itself.
    pub(super) fn agents(&self) -> Vec<String> {
        self.sessions.values().map(|session| session.agent.clone()).collect()
    }

    /// The user behind a session, as task reasons name him.
    pub(super) fn user_of(&self, id: SessionId) -> String {
        self.sessions.get(&id).map(|session| session.user.clone()).unwrap_or_default()
    }

    /// A session as a `UserSession`.
    pub(super) fn user_session(&self, id: SessionId) -> Val {
        let Some(session) = self.sessions.get(&id) else { return Val::Unset };
        Val::Struct(
            "UserSession",
            vec![
                ("key", text(session.key.clone())),
                ("userName", text(session.user.clone())),
                ("fullName", text(session.user.clone())),
                ("loginTime", Val::Time(session.login)),
                ("lastActiveTime", Val::Time(session.last_active)),
                ("locale", text("en")),
                ("messageLocale", text("en")),
                ("extensionSession", Val::Bool(false)),
                ("ipAddress", text("127.0.0.1")),
                ("userAgent", text(session.agent.clone())),
                ("callCount", long(session.calls)),
            ],
        )
    }

    /// A property of the `SessionManager`.
    pub(super) fn session_manager(&self, name: &str, session: Option<SessionId>) -> Option<Val> {
        Some(match name {
            "sessionList" if !self.config.session_privilege => return None,
            "sessionList" => Val::List("UserSession", self.sessions.keys().map(|id| self.user_session(*id)).collect()),
            "currentSession" => session.map_or(Val::Unset, |id| self.user_session(id)),
            "message" => Val::Unset,
            "messageLocaleList" | "supportedLocaleList" => Val::List("string", vec![text("en")]),
            "defaultLocale" => text("en"),
            _ => return None,
        })
    }
}

pub(super) fn invalid_login() -> VimFault {
    VimFault::new("InvalidLogin", "Cannot complete login due to an incorrect user name or password.")
}

/// A number of seconds as an option has it: `2s`, `1800`, `30m`.
pub(super) fn parse_timeout(value: &str) -> Option<Duration> {
    let value = value.trim();
    let (number, unit) = match value.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (value.strip_suffix('s').unwrap_or(value), 1),
    };
    Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(unit)?))
}

/// `config.vmacore.soap.sessionTimeout` in minutes, as an option's value.
pub(super) fn timeout_option(timeout: Duration) -> Val {
    Val::Struct(
        "OptionValue",
        vec![
            ("key", text("config.vmacore.soap.sessionTimeout")),
            ("value", super::value::poly(int(timeout.as_secs()))),
        ],
    )
}

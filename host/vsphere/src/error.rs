//! What can go wrong with vCenter, told by type. A fault's text is for people:
//! vCenter localises it, so nothing here or above may look into it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::refs::ManagedObjectRef;
use vmgroup_wire::{TransportError, TransportKind};

/// Why a call to vCenter did not give what was asked. `Clone`, because one
/// failed login is told to every caller that waited for it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request or its answer got lost on the way.
    #[error("{}", transport_message(.method, .source))]
    Transport {
        /// The vim25 method.
        method: &'static str,
        /// What happened.
        source: TransportError,
    },
    /// The write gate was closed.
    #[error("{method} was not sent: this process may not write to vCenter at present")]
    Withheld {
        /// The vim25 method.
        method: &'static str,
    },
    /// More calls wait for their turn than may go out in time.
    #[error(
        "{method} was not sent: its turn would have come in {} s, as the limit on calls per second lets no more through",
        .wait.as_secs()
    )]
    Paced {
        /// The vim25 method.
        method: &'static str,
        /// When it could have gone out.
        wait: Duration,
    },
    /// No answer within the deadline.
    #[error("vCenter did not answer {method} within {} s", .after.as_secs())]
    Timeout {
        /// The vim25 method.
        method: &'static str,
        /// The deadline that passed.
        after: Duration,
    },
    /// An answer that is none of vCenter's own, usually from a proxy or an overloaded server.
    #[error("{method} was answered by HTTP status {status} and no fault of vCenter's")]
    Http {
        /// The vim25 method.
        method: &'static str,
        /// The HTTP status.
        status: u16,
    },
    /// vCenter refused the call.
    #[error("{method} failed: {fault}")]
    Fault {
        /// The vim25 method.
        method: &'static str,
        /// The fault.
        fault: Box<Fault>,
    },
    /// vCenter refused user or password.
    #[error("vCenter refused the login of user {user:?}: check user and password")]
    Login {
        /// The user name that was tried.
        user: String,
        /// The fault, `InvalidLogin` as a rule.
        fault: Box<Fault>,
    },
    /// There was no session and none could be had, so the call was never sent.
    #[error("no session with vCenter, {method} was not sent")]
    Session {
        /// The vim25 method.
        method: &'static str,
        /// Why there was no session.
        source: Arc<Error>,
    },
    /// So many sessions may be open at vCenter that no further one is begun.
    #[error(
        "{most} sessions of ours may be open at vCenter, as answers to logins and logouts were lost; \
         the next login is in {} s at the latest",
        .wait.as_secs()
    )]
    TooManySessions {
        /// How many those are.
        most: usize,
        /// When one of them is surely gone.
        wait: Duration,
    },
    /// The client was closed: it makes no calls any more.
    #[error("the client has logged out for good")]
    Closed,
    /// The one thing asked for is several.
    #[error("there are several {what}s{}: {}", named(.name.as_ref()), list(.candidates))]
    Ambiguous {
        /// The kind of thing, in words.
        what: &'static str,
        /// The name that was asked for, if one was.
        name: Option<String>,
        /// Those there are, as inventory paths where they have one.
        candidates: Vec<String>,
    },
    /// The thing asked for is not there.
    #[error("there is no {what}{}{}{}", named(.name.as_ref()), there_are(.candidates), remedy_text(.remedy.as_ref()))]
    NotFound {
        /// The kind of thing, in words.
        what: &'static str,
        /// The name that was asked for, if one was.
        name: Option<String>,
        /// Those there are instead (bounded).
        candidates: Vec<String>,
        /// What to do about it, if there is something definite.
        remedy: Option<String>,
    },
    /// An answer that cannot be understood.
    #[error("the answer to {method} is not understood: {detail}")]
    Protocol {
        /// The vim25 method.
        method: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// Something in our own configuration cannot be used.
    #[error("{0}")]
    Config(String),
}

/// What to do about an error, in the large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Category {
    /// Try again later, nobody needs to do anything.
    Transient,
    /// There is no room.
    Capacity,
    /// Somebody must change a setting, a name or a template.
    Configuration,
    /// The user lacks a privilege.
    Permission,
    /// The object is not there any more.
    Gone,
    /// User or password are wrong.
    Credentials,
    /// Somebody else is at it, or has the name.
    Conflict,
}

impl Category {
    /// A stable name, for metric labels and event reasons.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Capacity => "capacity",
            Self::Configuration => "configuration",
            Self::Permission => "permission",
            Self::Gone => "gone",
            Self::Credentials => "credentials",
            Self::Conflict => "conflict",
        }
    }
}

/// A vim25 `MethodFault` or `RuntimeFault`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The type, which decides.
    pub kind: FaultKind,
    /// The server's text, for people only. May be empty.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if !self.message.is_empty() {
            write!(f, " ({})", self.message)?;
        }
        Ok(())
    }
}

/// The fault's vim25 type with the data that decisions need.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// The session is gone.
    NotAuthenticated,
    /// Wrong user or password; on vcsim also a second `Login` on a session.
    InvalidLogin,
    /// A privilege is missing on an object.
    NoPermission {
        /// The privilege, such as `VirtualMachine.Inventory.CreateFromExisting`.
        privilege: String,
        /// The object it is missing on.
        object: Option<ManagedObjectRef>,
    },
    /// The name is taken in that folder.
    DuplicateName {
        /// The name, as vCenter gives it.
        name: String,
        /// Who has it.
        object: Option<ManagedObjectRef>,
    },
    /// A power operation in the wrong state.
    InvalidPowerState {
        /// The state that the operation needs.
        requested: String,
        /// The state that the machine is in.
        existing: String,
    },
    /// The object is gone, or never was.
    ManagedObjectNotFound {
        /// The object.
        object: Option<ManagedObjectRef>,
    },
    /// A name that vCenter does not take.
    InvalidName {
        /// The name.
        name: String,
    },
    /// An argument that vCenter does not take.
    InvalidArgument {
        /// The path of the wrong property; may be empty.
        property: String,
    },
    /// CPU, memory, licences or hosts do not suffice; holds the type name.
    InsufficientResources(String),
    /// The datastore is full.
    NoDiskSpace {
        /// The datastore's name; may be empty.
        datastore: String,
    },
    /// A file operation failed; holds the type name.
    FileFault(String),
    /// An operation of vCenter's own took too long.
    Timedout,
    /// vCenter cannot reach the host; holds the type name.
    HostNotConnected(String),
    /// Another task is at work on the object.
    TaskInProgress,
    /// The task was cancelled by somebody.
    RequestCanceled,
    /// The object was changed by somebody at the same time.
    ConcurrentAccess,
    /// The collector's version is unknown: start over.
    InvalidCollectorVersion,
    /// The object is in no state for it; holds the type name.
    InvalidState(String),
    /// No VMware Tools run in the guest: it cannot be asked for anything.
    ToolsUnavailable,
    /// CPUs or memory cannot be changed while the machine runs; holds the type name.
    HotPlugNotSupported(String),
    /// Any other; holds the type name.
    Other(String),
}

impl FaultKind {
    /// The vim25 type name.
    pub fn type_name(&self) -> &str {
        match self {
            Self::NotAuthenticated => "NotAuthenticated",
            Self::InvalidLogin => "InvalidLogin",
            Self::NoPermission { .. } => "NoPermission",
            Self::DuplicateName { .. } => "DuplicateName",
            Self::InvalidPowerState { .. } => "InvalidPowerState",
            Self::ManagedObjectNotFound { .. } => "ManagedObjectNotFound",
            Self::InvalidName { .. } => "InvalidName",
            Self::InvalidArgument { .. } => "InvalidArgument",
            Self::NoDiskSpace { .. } => "NoDiskSpace",
            Self::Timedout => "Timedout",
            Self::TaskInProgress => "TaskInProgress",
            Self::RequestCanceled => "RequestCanceled",
            Self::ConcurrentAccess => "ConcurrentAccess",
            Self::InvalidCollectorVersion => "InvalidCollectorVersion",
            Self::ToolsUnavailable => "ToolsUnavailable",
            Self::InsufficientResources(name)
            | Self::FileFault(name)
            | Self::HostNotConnected(name)
            | Self::InvalidState(name)
            | Self::HotPlugNotSupported(name)
            | Self::Other(name) => name,
        }
    }

    /// What to do about it, in the large.
    pub fn category(&self) -> Category {
        match self {
            Self::InvalidLogin => Category::Credentials,
            Self::NoPermission { .. } => Category::Permission,
            Self::DuplicateName { .. }
            | Self::TaskInProgress
            | Self::ConcurrentAccess
            | Self::InvalidPowerState { .. }
            | Self::ToolsUnavailable
            | Self::InvalidState(_) => Category::Conflict,
            Self::ManagedObjectNotFound { .. } => Category::Gone,
            Self::InvalidName { .. } | Self::InvalidArgument { .. } | Self::HotPlugNotSupported(_) => {
                Category::Configuration
            }
            Self::InsufficientResources(_) | Self::NoDiskSpace { .. } => Category::Capacity,
            Self::NotAuthenticated
            | Self::FileFault(_)
            | Self::Timedout
            | Self::HostNotConnected(_)
            | Self::RequestCanceled
            | Self::InvalidCollectorVersion => Category::Transient,
            Self::Other(name) => match name.as_str() {
                "InvalidType"
                | "InvalidRequest"
                | "InvalidProperty"
                | "InvalidDatastore"
                | "InvalidDatastorePath"
                | "InvalidFolder"
                | "NotSupported"
                | "VmConfigFault"
                | "InvalidVmConfig"
                | "CannotAccessNetwork"
                | "CannotAccessVmComponent"
                | "MethodNotFound"
                | "CustomizationFault"
                | "RestrictedVersion"
                | "NumVirtualCpusNotSupported"
                | "NumVirtualCpusIncompatible"
                | "TooManyDevices"
                | "DisallowedOperationOnFailoverHost" => Category::Configuration,
                _ => Category::Transient,
            },
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.type_name())?;
        match self {
            Self::NoPermission { privilege, object } => {
                write!(f, ": privilege {privilege} is missing")?;
                on(f, object.as_ref())
            }
            Self::DuplicateName { name, object } => {
                write!(f, ": {name:?} is taken")?;
                by(f, object.as_ref())
            }
            Self::InvalidPowerState { requested, existing } => write!(f, ": needs {requested}, is {existing}"),
            Self::ManagedObjectNotFound { object: Some(object) } => write!(f, ": {object}"),
            Self::InvalidName { name } => write!(f, ": {name:?}"),
            Self::InvalidArgument { property } if !property.is_empty() => write!(f, ": {property}"),
            Self::NoDiskSpace { datastore } if !datastore.is_empty() => {
                write!(f, ": datastore {datastore}")
            }
            _ => Ok(()),
        }
    }
}

fn on(f: &mut fmt::Formatter<'_>, object: Option<&ManagedObjectRef>) -> fmt::Result {
    object.map_or(Ok(()), |object| write!(f, " on {object}"))
}

fn by(f: &mut fmt::Formatter<'_>, object: Option<&ManagedObjectRef>) -> fmt::Result {
    object.map_or(Ok(()), |object| write!(f, " by {object}"))
}

impl Error {
    /// What to do about it, in the large: the event reason and metric label.
    pub fn category(&self) -> Category {
        match self {
            Self::Transport { source, .. } => match source.kind {
                TransportKind::Tls => Category::Configuration,
                TransportKind::Connect | TransportKind::Timeout | TransportKind::Broken => Category::Transient,
            },
            Self::Http { status, .. } => match status {
                401 | 403 | 407 => Category::Permission,
                300..=399 | 404 | 405 => Category::Configuration,
                _ => Category::Transient,
            },
            Self::Timeout { .. }
            | Self::Protocol { .. }
            | Self::TooManySessions { .. }
            | Self::Closed
            | Self::Paced { .. }
            | Self::Withheld { .. } => Category::Transient,
            Self::Fault { fault, .. } => fault.kind.category(),
            Self::Login { .. } => Category::Credentials,
            Self::Session { source, .. } => source.category(),
            Self::Ambiguous { .. } | Self::NotFound { .. } | Self::Config(_) => Category::Configuration,
        }
    }

    /// True if the call may have taken effect although it failed: it was sent,
    /// and no answer of vCenter's own came back. A status such as 503 counts,
    /// as a proxy may have given up on a call that vCenter carried out.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Transport { source, .. } => match source.kind {
                TransportKind::Broken | TransportKind::Timeout => true,
                TransportKind::Connect | TransportKind::Tls => false,
            },
            Self::Timeout { .. } | Self::Protocol { .. } => true,
            Self::Http { status, .. } => *status < 400 || *status >= 500,
            // A general failure inside vCenter may come after the effect.
            Self::Fault { fault, .. } => {
                matches!(
                    &fault.kind,
                    FaultKind::Other(name) if name == "SystemError" || name == "RuntimeFault"
                ) || matches!(&fault.kind, FaultKind::HostNotConnected(name) if name == "HostCommunication")
            }
            Self::Login { .. }
            | Self::Session { .. }
            | Self::TooManySessions { .. }
            | Self::Withheld { .. }
            | Self::Paced { .. }
            | Self::Closed
            | Self::Ambiguous { .. }
            | Self::NotFound { .. }
            | Self::Config(_) => false,
        }
    }

    /// The fault, if vCenter answered with one.
    pub fn fault(&self) -> Option<&FaultKind> {
        match self {
            Self::Fault { fault, .. } | Self::Login { fault, .. } => Some(&fault.kind),
            Self::Session { source, .. } => source.fault(),
            _ => None,
        }
    }

    pub(crate) fn from_fault(method: &'static str, kind: FaultKind) -> Self {
        Self::Fault { method, fault: Box::new(Fault { kind, message: String::new() }) }
    }

    /// What this call itself was answered, not the login before it.
    fn own_fault(&self) -> Option<&FaultKind> {
        match self {
            Self::Fault { fault, .. } => Some(&fault.kind),
            _ => None,
        }
    }

    /// True if the call got lost on the way or was turned away before vCenter saw
    /// it, so that the same call may well come through a moment later. Not one
    /// that was waited for in vain: that has taken its time already.
    pub(crate) fn is_of_the_line(&self) -> bool {
        match self {
            Self::Transport { source, .. } => matches!(source.kind, TransportKind::Connect | TransportKind::Broken),
            Self::Http { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }

    pub(crate) fn is_session_lost(&self) -> bool {
        matches!(self.own_fault(), Some(FaultKind::NotAuthenticated))
    }

    /// True if vCenter says that some object is not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self.own_fault(), Some(FaultKind::ManagedObjectNotFound { .. }))
    }

    /// The object that is not there, if vCenter names it.
    pub(crate) fn missing_object(&self) -> Option<&ManagedObjectRef> {
        match self.own_fault() {
            Some(FaultKind::ManagedObjectNotFound { object }) => object.as_ref(),
            _ => None,
        }
    }
}

fn transport_message(method: &str, source: &TransportError) -> String {
    match source.kind {
        TransportKind::Connect => format!("vCenter cannot be reached, {method} was not sent"),
        TransportKind::Tls => "vCenter's certificate is not trusted: give the CA that signed it as a file, or, \
             for a test only, turn the check off"
            .to_owned(),
        TransportKind::Timeout => format!("vCenter was too slow to answer {method}"),
        TransportKind::Broken => format!("the connection broke during {method}"),
    }
}

fn named(name: Option<&String>) -> String {
    name.map_or_else(String::new, |name| format!(" named {name:?}"))
}

fn list(candidates: &[String]) -> String {
    candidates.join(", ")
}

fn there_are(candidates: &[String]) -> String {
    if candidates.is_empty() { String::new() } else { format!("; there are: {}", list(candidates)) }
}

fn remedy_text(remedy: Option<&String>) -> String {
    remedy.map_or_else(String::new, |remedy| format!("; {remedy}"))
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

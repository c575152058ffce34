//! What goes wrong between us and a registry: in words, with a remedy, and whether
//! it is worth another try. Decides by type and status, never by text.

use vmgroup_wire::{TransportError, TransportKind};

use crate::{Digest, LoginsError, Reference};

/// Why something could not be pulled or pushed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing came back, or the certificate is not trusted.
    #[error("registry {host}: {}", source.kind.as_str())]
    Transport {
        /// Which.
        host: String,
        /// What happened.
        source: TransportError,
    },
    /// Nothing came back in time.
    #[error("registry {host} has not answered within {seconds} s")]
    Slow {
        /// Which.
        host: String,
        /// How long it had.
        seconds: u64,
    },
    /// It does not know us, or does not like who we are.
    #[error("registry {host} lets {} not in (status {status})", .user.as_deref().map_or("nobody without a login".to_owned(), |user| format!("`{user}`")))]
    Denied {
        /// Which, or its token service.
        host: String,
        /// Who asked; none: nobody.
        user: Option<String>,
        /// 401 or 403.
        status: u16,
    },
    /// There is no such thing.
    #[error("registry {host} has no {what}")]
    NotFound {
        /// Which.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// Any other answer.
    #[error("registry {host} answers {status} for {what}{}", if .words.is_empty() { String::new() } else { format!(": {words}") })]
    Status {
        /// Which.
        host: String,
        /// What was asked for.
        what: String,
        /// The status.
        status: u16,
        /// What it says, if it says something.
        words: String,
    },
    /// An answer that is none of this protocol.
    #[error("registry {host} gives no proper answer for {what}: {problem}")]
    Protocol {
        /// Which.
        host: String,
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Not what was asked for: damaged, or exchanged.
    #[error("what registry {host} gives for {wanted} is {found}")]
    Digest {
        /// Which.
        host: String,
        /// What was asked for.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
    /// More than a policy may have.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        what: String,
        /// The most.
        limit: usize,
    },
    /// It is there, but no policy.
    #[error("{reference}: {problem}")]
    Layout {
        /// What was pulled.
        reference: Reference,
        /// What it is instead.
        problem: String,
    },
    /// A pull by something that may be something else tomorrow.
    #[error("{0} has no digest")]
    Unpinned(Reference),
    /// Who we are cannot be read.
    #[error(transparent)]
    Logins(#[from] LoginsError),
    /// A request that cannot be made of this.
    #[error("no request can be made for {what}")]
    Request {
        /// Of what.
        what: String,
        /// Why.
        source: http::Error,
    },
}

/// Whether another try may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It may be gone in a moment.
    Soon,
    /// Somebody has to do something, elsewhere.
    Later,
    /// It will always be the same.
    Never,
}

impl Error {
    /// Whether another try may help.
    pub fn again(&self) -> Again {
        match self {
            Self::Transport { source, .. } => match source.kind {
                TransportKind::Tls => Again::Later,
                TransportKind::Connect | TransportKind::Timeout | TransportKind::Broken => Again::Soon,
            },
            Self::Slow { .. } => Again::Soon,
            Self::Status { status, .. } => match status {
                408 | 429 | 500.. => Again::Soon,
                _ => Again::Later,
            },
            Self::Denied { .. }
            | Self::NotFound { .. }
            | Self::Protocol { .. }
            | Self::Digest { .. }
            | Self::Logins(_) => Again::Later,
            // The digest says what it is, and that is not going to change.
            Self::TooLarge { .. } | Self::Layout { .. } | Self::Unpinned(_) | Self::Request { .. } => Again::Never,
        }
    }

    /// What to do about it, in one sentence.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Transport { source, .. } if source.kind == TransportKind::Tls => {
                "Give the certificate authority that signed the registry's certificate as a PEM file."
            }
            Self::Transport { .. } | Self::Slow { .. } | Self::Status { .. } | Self::Protocol { .. } => {
                "Look whether the registry is well and can be reached from here."
            }
            Self::Denied { user: None, .. } => "Give a login to this registry, as a docker config.json.",
            Self::Denied { user: Some(_), .. } => {
                "Correct user and password of this registry in the docker config.json, or let that user pull there."
            }
            Self::NotFound { .. } => "Push it there (`vmgroup policy push`), or correct the reference.",
            Self::Digest { .. } => {
                "Somebody or something has changed it on its way or in the registry: find out who, and push it again."
            }
            Self::TooLarge { .. } => "Build it smaller: release mode, opt-level \"s\", stripped.",
            Self::Layout { .. } => "Push the component with `vmgroup policy push`, and name the digest that it prints.",
            Self::Unpinned(_) => {
                "Add the digest: `vmgroup policy pull` with this reference prints it, and so does `vmgroup policy push`."
            }
            Self::Logins(_) => "Write it as `docker login` does.",
            Self::Request { .. } => "Correct the reference.",
        }
    }
}

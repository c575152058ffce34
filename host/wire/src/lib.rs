//! One HTTP exchange, whom to trust in it, and what must not be printed.
//!
//! What vCenter and registries are both reached by. Must not know either of them,
//! nor what is sent; a simulator stands in for it in-process.

pub mod secret;
pub mod transport;

pub use secret::{Credentials, Password};
pub use transport::{AtMost, HttpTransport, SetupError, Tls, Transport, TransportError, TransportKind};

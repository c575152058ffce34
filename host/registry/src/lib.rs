//! Policies in OCI registries: pulled by digest, kept in a folder, pushed.
//!
//! The pull and push halves of the distribution protocol, for artifacts of the CNCF
//! wasm layout: a config `application/vnd.wasm.config.v0+json` and one layer
//! `application/wasm`. Whatever comes over the wire is bounded in size and time,
//! and its digest is compared before anybody sees it.
//!
//! Must not know Kubernetes, WebAssembly, or what the bytes are for.

mod cache;
mod challenge;
mod client;
mod digest;
mod error;
mod logins;
mod manifest;
mod reference;

pub use cache::Cache;
pub use client::{Pulled, Pushed, Registry, Settings};
pub use digest::Digest;
pub use error::{Again, Error};
pub use logins::{Logins, LoginsError};
pub use manifest::{Config, Contents};
pub use reference::{Reference, ReferenceError, SCHEME};

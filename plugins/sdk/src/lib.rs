//! What the author of a `VmGroup` policy depends on, and all that they need.
//!
//! A policy answers one question: what new members are called ([`Naming`]),
//! where they go ([`Placement`]) or who leaves ([`Scaling`]). It is a struct
//! whose fields are its configuration, with one method that answers:
//!
//! ```
//! use serde::Deserialize;
//! use vmgroup_policy_sdk::prelude::*;
//! use vmgroup_policy_sdk::scaling::{Request, Victim};
//!
//! /// Lets the members go that were made first.
//! #[derive(Default, Deserialize, ConfigSchema)]
//! #[serde(deny_unknown_fields, default, rename_all = "camelCase")]
//! pub struct OldestFirst {
//!     /// Who never leaves.
//!     protect: Protect,
//! }
//!
//! impl Scaling for OldestFirst {
//!     const NAME: &'static str = "oldest-first";
//!     const SUMMARY: &'static str = "The members that were made first leave first.";
//!
//!     fn choose(&self, request: &Request) -> Result<Vec<Victim>, Refusal> {
//!         let mut candidates = request.candidates(&self.protect)?;
//!         candidates.sort_by_key(|c| c.created_at);
//!         Ok(request.take(candidates, |c| format!("oldest: made {}", c.made())))
//!     }
//! }
//!
//! vmgroup_policy_sdk::export!(OldestFirst: scaling);
//!
//! // And a test, on any machine, without WebAssembly:
//! use vmgroup_policy_sdk::testing;
//! let request = testing::group("web").members(3).remove(1);
//! let victims = OldestFirst::default().choose(&request).unwrap();
//! assert_eq!(request.members[victims[0].member as usize].name, "web-1");
//! ```
//!
//! It is a pure function: all that an answer may depend on is in the request,
//! the time (`context.now`) and randomness ([`Rng`]) included. There is no clock
//! to ask and no file to read, so that a decision can be replayed anywhere.
//!
//! This crate knows the contract in `wit/` and nothing of the operator.

// The generated bindings name this crate as an author's crate would.
extern crate self as vmgroup_policy_sdk;

mod config;
mod export;
pub mod log;
mod placing;
mod policy;
mod protect;
mod rng;
pub mod schema;
pub mod testing;
pub mod time;
mod vocabulary;
#[doc(hidden)]
pub mod wire;

pub use config::{Problems, parse as parse_config, pointer};
pub use placing::{By, Room, Spot, Storage};
pub use policy::{Naming, Placement, Scaling};
pub use protect::{Protect, Rule};
pub use rng::Rng;
pub use schema::ConfigSchema;
pub use time::rfc3339;
pub use vocabulary::{Candidate, Unique, name_length, naming, placement, scaling, types};

/// A mistake in a policy's configuration: where, and what would be right.
pub use wire::lifecycle::exports::vmgroup::policy::lifecycle::Problem;

/// Derives the trait of the same name.
pub use vmgroup_policy_sdk_derive::ConfigSchema;

/// What nearly every policy names.
pub mod prelude {
    pub use crate::types::Refusal;
    pub use crate::{By, ConfigSchema, Naming, Placement, Problem, Problems, Protect, Rng, Scaling};
}

/// What `export!` expands to needs these; nobody else does.
#[doc(hidden)]
pub mod __private {
    pub use crate::config::{parse_or_refuse, validate};
    pub use crate::export::{About, describe, install_panic_hook, not_answered};
    pub use wit_bindgen;
}

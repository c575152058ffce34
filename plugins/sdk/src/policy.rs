//! The three questions, each a trait. Knows nothing of WebAssembly: a policy is
//! tested through these, natively.

use serde::de::DeserializeOwned;

use crate::types::Refusal;
use crate::{ConfigSchema, Problem, naming, placement, scaling};

macro_rules! policy_trait {
    ($(#[$doc:meta])* $name:ident, $(#[$method_doc:meta])* fn $method:ident($request:ty) -> $answer:ty) => {
        $(#[$doc])*
        ///
        /// The type that implements it is the policy's configuration: one is read
        /// from the policy file's `config` for every question. Derive
        /// `Deserialize` with `deny_unknown_fields`, so that a misspelt field is
        /// refused when the policy is checked and not ignored for a year, and
        /// [`ConfigSchema`], so that the operator can say which line is wrong.
        pub trait $name: DeserializeOwned + ConfigSchema {
            /// The policy's name in events and metrics: lower case, digits and
            /// hyphens; 1 to 40 characters.
            const NAME: &'static str;
            /// One sentence: what it decides and by what.
            const SUMMARY: &'static str;
            /// Whether the same is decided when the request's tables are in another
            /// order: ties are broken by name, never by position. `vmgroup policy
            /// conformance` holds a policy to it.
            const ORDER_FREE: bool = false;

            /// Mistakes that the types cannot express ("`min` is above `max`").
            /// Asked when the policy is checked, never on a decision.
            fn validate(&self) -> Vec<Problem> {
                Vec::new()
            }

            $(#[$method_doc])*
            fn $method(&self, request: &$request) -> Result<$answer, Refusal>;
        }
    };
}

policy_trait! {
    /// Says what new members are called.
    Naming,
    /// One name for each of `request.count`, different from each other and from
    /// what is taken. The operator checks the answer; a bad one changes nothing.
    fn name(naming::Request) -> naming::Answer
}

policy_trait! {
    /// Says where new members go.
    Placement,
    /// One place for each of `request.newcomers`, in their order. What is `None`
    /// in a place is left to vCenter. The operator checks the answer; a bad one
    /// changes nothing.
    fn place(placement::Request) -> Vec<placement::Place>
}

policy_trait! {
    /// Says who leaves when somebody has to.
    Scaling,
    /// Exactly `request.count` different members, the first to leave first, none
    /// of them protected. The operator checks the answer; a bad one changes
    /// nothing.
    fn choose(scaling::Request) -> Vec<scaling::Victim>
}

//! One scenario suite, two worlds: the simulators in one process with time
//! paused, and the real kube-apiserver, etcd and vCenter simulator of govmomi.
//!
//! A scenario is a function over [`world::World`] and does not know which one it
//! is in. Where the worlds differ, the simulators are wrong until shown
//! otherwise.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test suite: a broken world or scenario ends in a panic that says what it was"
)]

pub mod blind;
pub mod component;
#[allow(missing_docs, clippy::return_self_not_must_use, reason = "made for the policy host's own tests")]
#[path = "../../policy/tests/hostile/made.rs"]
pub mod made;
pub mod mutants;
pub mod playground;
pub mod real;
pub mod sabotage;
pub mod scenarios;
pub mod sim;
pub mod soak;
pub mod world;

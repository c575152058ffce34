//! One scenario suite, two worlds: the simulators in one process with time
//! paused, and the real kube-apiserver, etcd and vCenter simulator of govmomi.
//!
//! A scenario is a function over [`world::World`] and does not know which one it
//! is in. Where the worlds differ, the simulators are wrong until shown
//! otherwise.

pub mod real;
pub mod sabotage;
pub mod scenarios;
pub mod sim;
pub mod world;

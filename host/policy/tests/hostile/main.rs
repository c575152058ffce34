//! Every bad plugin of the list that can be told from outside: it is
//! refused with a message that names the thing and the remedy, or its answer is,
//! and nothing else happens (property S8).

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod conforming;
mod made;
mod offered;
mod questions;
mod running;

//! The operator: observe → decide → plan → apply → report, for each `VmGroup`.
//!
//! The only crate that knows all the others. ARCHITECTURE.md has the map.

pub mod apply;
pub mod backlog;
pub mod budget;
pub mod by_hand;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod connection;
pub mod connections;
pub mod controller;
pub mod decide;
pub mod decisions;
pub mod doctor;
pub mod engine;
pub mod events;
pub mod folder;
pub mod hash;
pub mod http;
pub mod late;
pub mod lease;
pub mod link;
pub mod logging;
pub mod logins;
pub mod memory;
pub mod metrics;
mod mounted;
pub mod observe;
pub mod offload;
pub mod ownership;
pub mod plan;
pub mod policy_source;
pub mod preview;
pub mod report;
pub mod rest;
pub mod revision;
pub mod run;
pub mod shadow;
pub mod status;
pub mod stop;
pub mod strategy;
pub mod tasks;
pub mod traces;
pub mod validate;
pub mod wake;

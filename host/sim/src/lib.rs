//! A simulated Kubernetes API, vCenter and OCI registry, each a tower service:
//! served over HTTP for people, kubectl and govc, and called in-process by
//! tests with tokio's time paused, so that the same seed gives the same run.
//!
//! This crate must not know the operator, its API types, its clients or its
//! policies: it stands for the other side of the wire.

pub mod clock;
pub mod faults;
pub mod kube;
pub mod registry;
pub mod serve;
pub mod vcenter;

//! A thin vim25 SOAP client: session, inventory, tasks, capacity. And tags, which vCenter
//! has behind a REST API only.
//!
//! Everything that leaves this crate is typed; no XML or JSON does. It knows nothing of
//! Kubernetes, of policies, or of whose virtual machines these are: an owner is
//! only a value under a configured `extraConfig` key, by which the inventory is
//! indexed.
//!
//! The layers, lowest first: `vmgroup-wire`'s transport carries one HTTP request; `xml` and
//! `soap` read and write envelopes, `rest` the other API's answers; `session` keeps one session alive;
//! `client` is the call with its deadline, its one retry after a lost session,
//! and its count; `property` reads objects in bulk. On these stand the methods
//! of [`Vcenter`], one module per subject, and the [`Watch`].

mod attributes;
mod capacity;
mod client;
mod endpoint;
pub mod error;
mod hardware;
mod inventory;
mod model;
mod pace;
mod privileges;
mod property;
mod read;
mod refs;
mod rest;
mod session;
mod site;
mod soap;
mod tagging;
mod task;
mod texts;
mod watch;
mod write;
mod xml;

pub use capacity::{Capacity, ClusterCapacity, DatastoreCapacity, HostCapacity, HostState, Occupied, Usage};
pub use client::{CallHook, Options, Outcome, Vcenter, WriteGate};
pub use endpoint::endpoint;
pub use error::{Category, Error, Fault, FaultKind};
pub use hardware::{Customization, Fittings, Hardware, Network};
pub use inventory::{Drs, Folder, Host, Inventory, Maintenance};
pub use model::{About, Child, ConnectionState, Extra, Guest, PowerState, Source, Template, Vm, unescape_name};
pub use refs::{
    ClusterRef, DatacenterRef, DatastoreRef, FolderRef, HostRef, ManagedObjectRef, NetworkRef, PoolRef, SnapshotRef,
    TagRef, TaskRef, VmRef,
};
pub use session::{Agent, MAX_SESSIONS, SessionCount};
pub use site::{Named, Site, SiteCluster, SitePart, SitePod, SiteSelection};
pub use tagging::TagName;
pub use task::{TaskInfo, TaskState};
pub use vmgroup_wire::{Credentials, HttpTransport, Password, Tls, Transport, TransportError, TransportKind};
pub use watch::{Event, Goal, Observer, Watch};
pub use write::{CloneSpec, Reconfiguration};

//! The contract as it was in version 0.1 (`wit/0.1`), for the policies and the records
//! that were made for it. Questions are turned into its terms before such a policy is
//! asked, and out of them when a record is read; answers have had the same shape ever
//! since, and need not be turned.
//!
//! What 0.1 had no word for is lost on the way there and unknown on the way back; what
//! it had comes back as it was, so that a recorded question is put again bit for bit.

use wasmtime::component::{HasSelf, Linker};

use crate::sandbox::Sandbox;
use crate::wit::types as now;

#[allow(missing_docs, unreachable_pub, unused_variables, clippy::pedantic)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit/0.1",
        inline: "
            package vmgroup:host;
            world host-side {
                import vmgroup:policy/log@0.1.0;
                import vmgroup:policy/naming@0.1.0;
                import vmgroup:policy/placement@0.1.0;
                import vmgroup:policy/scaling@0.1.0;
            }
        ",
        additional_derives: [PartialEq, Eq, serde::Serialize, serde::Deserialize],
    });
}

/// `interface types` of 0.1.
pub mod types {
    pub use super::bindings::vmgroup::policy::types::{
        Attribute, Cluster, Context, Datastore, EsxiHost as Host, Group, Inventory, Member, PowerState, Purpose,
    };
}

/// `interface naming` of 0.1.
pub mod naming {
    pub use super::bindings::vmgroup::policy::naming::Request;
}

/// `interface placement` of 0.1.
pub mod placement {
    pub use super::bindings::vmgroup::policy::placement::{Newcomer, Request};
}

/// `interface scaling` of 0.1.
pub mod scaling {
    pub use super::bindings::vmgroup::policy::scaling::Request;
}

/// A question of any kind in the terms of 0.1; as JSON of the same shape as
/// [`crate::Question`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", content = "request", rename_all = "lowercase")]
pub enum Question {
    /// What new members are called.
    Naming(naming::Request),
    /// Where they go.
    Placement(placement::Request),
    /// Who leaves.
    Scaling(scaling::Request),
}

impl From<Question> for crate::Question {
    fn from(question: Question) -> Self {
        match question {
            Question::Naming(request) => Self::Naming(request.turned()),
            Question::Placement(request) => Self::Placement(request.turned()),
            Question::Scaling(request) => Self::Scaling(request.turned()),
        }
    }
}

impl From<crate::Question> for Question {
    fn from(question: crate::Question) -> Self {
        match question {
            crate::Question::Naming(request) => Self::Naming(request.turned()),
            crate::Question::Placement(request) => Self::Placement(request.turned()),
            crate::Question::Scaling(request) => Self::Scaling(request.turned()),
        }
    }
}

/// A request that can be put in the terms of 0.1.
pub(crate) trait Older {
    /// In these terms.
    type V0_1;

    fn in_0_1(&self) -> Self::V0_1;
}

macro_rules! older {
    ($($interface:ident),+) => { $(
        impl Older for crate::wit::$interface::Request {
            type V0_1 = $interface::Request;

            fn in_0_1(&self) -> Self::V0_1 {
                self.clone().turned()
            }
        }
    )+ };
}
older!(naming, placement, scaling);

/// What a policy of 0.1 may import.
pub(crate) fn add_to_linker(linker: &mut Linker<Sandbox>) -> wasmtime::Result<()> {
    bindings::vmgroup::policy::log::add_to_linker::<_, HasSelf<_>>(linker, |sandbox| sandbox)?;
    bindings::vmgroup::policy::types::add_to_linker::<_, HasSelf<_>>(linker, |sandbox| sandbox)
}

impl bindings::vmgroup::policy::types::Host for Sandbox {}

impl bindings::vmgroup::policy::log::Host for Sandbox {
    fn log(&mut self, level: bindings::vmgroup::policy::log::Level, message: String) {
        crate::wit::bindings::vmgroup::policy::log::Host::log(self, level.turned(), message);
    }
}

/// From the terms of one version into those of another.
trait Turn<T> {
    fn turned(self) -> T;
}

macro_rules! unchanged {
    ($($of:ty),+) => { $(
        impl Turn<$of> for $of {
            fn turned(self) -> Self {
                self
            }
        }
    )+ };
}
unchanged!(bool, u32, u64, String);

impl<T: Turn<U>, U> Turn<Vec<U>> for Vec<T> {
    fn turned(self) -> Vec<U> {
        self.into_iter().map(Turn::turned).collect()
    }
}

impl<T: Turn<U>, U> Turn<Option<U>> for Option<T> {
    fn turned(self) -> Option<U> {
        self.map(Turn::turned)
    }
}

/// Records with the same fields in both versions, both ways. A field that is
/// forgotten here does not compile.
macro_rules! records {
    ($($then:path | $now:path { $($field:ident),+ $(,)? })+) => { $(
        impl Turn<$then> for $now {
            fn turned(self) -> $then {
                let Self { $($field),+ } = self;
                $then { $($field: $field.turned()),+ }
            }
        }

        impl Turn<$now> for $then {
            fn turned(self) -> $now {
                let Self { $($field),+ } = self;
                $now { $($field: $field.turned()),+ }
            }
        }
    )+ };
}

records! {
    types::Attribute | now::Attribute { key, value }
    types::Group | now::Group { namespace, name, uid, labels, template, cpus, memory_mib, replicas, attributes }
    types::Cluster | now::Cluster { name, drs, attributes }
    types::Inventory | now::Inventory { clusters, hosts, datastores }
    types::Member | now::Member {
        name, uuid, created_at, power, host, datastore, cpu_used_mhz, memory_used_mib, ready, protected, attributes,
    }
    naming::Request | crate::wit::naming::Request {
        context, count, members, taken_in_group, taken_elsewhere, max_length,
    }
    placement::Newcomer | crate::wit::placement::Newcomer { name, cpus, memory_mib, disk_mib, attributes }
    placement::Request | crate::wit::placement::Request { context, inventory, members, newcomers }
    scaling::Request | crate::wit::scaling::Request { context, count, members, inventory }
}

/// The same for enumerations.
macro_rules! enums {
    ($($then:path | $now:path { $($case:ident),+ $(,)? })+) => { $(
        impl Turn<$then> for $now {
            fn turned(self) -> $then {
                match self { $(Self::$case => <$then>::$case),+ }
            }
        }

        impl Turn<$now> for $then {
            fn turned(self) -> $now {
                match self { $(Self::$case => <$now>::$case),+ }
            }
        }
    )+ };
}

enums! {
    types::Purpose | now::Purpose { ScaleOut, ScaleIn, Replacement, Evacuation }
    types::PowerState | now::PowerState { PoweredOn, PoweredOff, Suspended, Unknown }
    bindings::vmgroup::policy::log::Level | crate::wit::log::Level { Trace, Debug, Info, Warn, Error }
}

impl Turn<types::Context> for now::Context {
    fn turned(self) -> types::Context {
        let Self { now, utc_offset_minutes: _, seed, attempt, purpose, config, group } = self;
        types::Context { now, seed, attempt, purpose: purpose.turned(), config, group: group.turned() }
    }
}

impl Turn<now::Context> for types::Context {
    fn turned(self) -> now::Context {
        let Self { now, seed, attempt, purpose, config, group } = self;
        let (purpose, group) = (purpose.turned(), group.turned());
        now::Context { now, utc_offset_minutes: None, seed, attempt, purpose, config, group }
    }
}

impl Turn<types::Host> for now::Host {
    fn turned(self) -> types::Host {
        let Self {
            name,
            cluster,
            usable,
            state,
            cpu_capacity_mhz,
            cpu_used_mhz,
            memory_capacity_mib,
            memory_used_mib,
            vms,
            attributes,
        } = self;
        types::Host {
            name,
            cluster,
            usable,
            maintenance: matches!(state, now::HostState::EnteringMaintenance | now::HostState::InMaintenance),
            cpu_capacity_mhz,
            cpu_used_mhz,
            memory_capacity_mib,
            memory_used_mib,
            vms,
            attributes: attributes.turned(),
        }
    }
}

impl Turn<now::Host> for types::Host {
    fn turned(self) -> now::Host {
        let Self {
            name,
            cluster,
            usable,
            maintenance,
            cpu_capacity_mhz,
            cpu_used_mhz,
            memory_capacity_mib,
            memory_used_mib,
            vms,
            attributes,
        } = self;
        let state = match (maintenance, usable) {
            (true, _) => now::HostState::InMaintenance,
            (false, true) => now::HostState::InService,
            (false, false) => now::HostState::Unreachable,
        };
        let attributes = attributes.turned();
        now::Host {
            name,
            cluster,
            usable,
            state,
            cpu_capacity_mhz,
            cpu_used_mhz,
            memory_capacity_mib,
            memory_used_mib,
            vms,
            attributes,
        }
    }
}

impl Turn<types::Datastore> for now::Datastore {
    fn turned(self) -> types::Datastore {
        let Self { name, usable, capacity_mib, free_mib, uncommitted_mib: _, kind: _, hosts, attributes } = self;
        types::Datastore { name, usable, capacity_mib, free_mib, hosts, attributes: attributes.turned() }
    }
}

impl Turn<now::Datastore> for types::Datastore {
    fn turned(self) -> now::Datastore {
        let Self { name, usable, capacity_mib, free_mib, hosts, attributes } = self;
        let attributes = attributes.turned();
        now::Datastore { name, usable, capacity_mib, free_mib, uncommitted_mib: None, kind: None, hosts, attributes }
    }
}

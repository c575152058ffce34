//! Managed object references: vCenter's own identifiers, one Rust type per kind
//! so that a folder cannot be passed where a virtual machine is meant.
//!
//! They are unique within one vCenter only and survive renames and moves.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::texts::Text;

/// A reference of any type: the vSphere type name and the identifier.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ManagedObjectRef {
    /// The vSphere type, such as `VirtualMachine`.
    pub kind: String,
    /// The identifier, such as `vm-42`.
    pub id: String,
}

impl ManagedObjectRef {
    pub(crate) fn new(kind: &str, id: &str) -> Self {
        Self { kind: kind.to_owned(), id: id.to_owned() }
    }
}

impl fmt::Display for ManagedObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.id)
    }
}

macro_rules! reference {
    ($($(#[$doc:meta])+ $name:ident = $kind:literal),* $(,)?) => {$(
        $(#[$doc])+
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes vCenter's identifier, without the type (`vm-42`).
            pub fn new(id: impl AsRef<str>) -> Self {
                Self(Arc::from(id.as_ref()))
            }

            /// vCenter's identifier, without the type (`vm-42`).
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The same reference with its vSphere type.
            pub fn managed_object(&self) -> ManagedObjectRef {
                ManagedObjectRef::new($kind, &self.0)
            }
        }

        impl Text for $name {
            fn text(&mut self) -> &mut Arc<str> {
                &mut self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self::new(id)
            }
        }

        impl From<String> for $name {
            fn from(id: String) -> Self {
                Self::new(id)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer).map(Self::from)
            }
        }
    )*};
}

reference! {
    /// A tag (`urn:vmomi:InventoryServiceTag:…:GLOBAL`). No managed object: it is known to
    /// the tagging service alone.
    TagRef = "InventoryServiceTag",
    /// A `VirtualMachine`, templates included.
    VmRef = "VirtualMachine",
    /// A `Folder`.
    FolderRef = "Folder",
    /// A `HostSystem`.
    HostRef = "HostSystem",
    /// A `Datastore`.
    DatastoreRef = "Datastore",
    /// A `ResourcePool`.
    PoolRef = "ResourcePool",
    /// A standard `Network`.
    NetworkRef = "Network",
    /// A `VirtualMachineSnapshot`.
    SnapshotRef = "VirtualMachineSnapshot",
    /// A `Datacenter`.
    DatacenterRef = "Datacenter",
    /// A `Task`. Dead after a vCenter restart, and forgotten by vCenter some
    /// ten minutes after its end.
    TaskRef = "Task",
}

/// A compute resource: a cluster, or a host that stands alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClusterRef(pub(crate) ManagedObjectRef);

impl ClusterRef {
    /// Takes the vSphere type and vCenter's identifier (`domain-c7`).
    pub fn new(kind: &str, id: &str) -> Self {
        Self(ManagedObjectRef::new(kind, id))
    }

    /// vCenter's identifier, without the type (`domain-c7`).
    pub fn as_str(&self) -> &str {
        &self.0.id
    }

    /// The reference with its vSphere type: `ClusterComputeResource`, or
    /// `ComputeResource` for a host that stands alone.
    pub fn managed_object(&self) -> ManagedObjectRef {
        self.0.clone()
    }
}

impl fmt::Display for ClusterRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.id)
    }
}

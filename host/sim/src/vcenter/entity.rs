//! Managed object types and references: which types exist, how they inherit,
//! and how a reference's value is written.

use std::fmt;

macro_rules! kinds {
    ($($name:ident, $prefix:literal, $singleton:literal, [$($base:literal),*];)*) => {
        /// The managed object types that exist here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(super) enum Kind { $($name),* }

        impl Kind {
            /// The vim25 type name.
            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }

            /// The kind of that vim25 type name.
            pub(super) fn parse(name: &str) -> Option<Self> {
                match name { $(stringify!($name) => Some(Self::$name),)* _ => None }
            }

            fn prefix(self) -> (&'static str, bool) {
                match self { $(Self::$name => ($prefix, $singleton)),* }
            }

            /// Whether it is `type_name` or inherits from it.
            pub(super) fn is_a(self, type_name: &str) -> bool {
                type_name == self.name()
                    || type_name == "ManagedObject"
                    || match self { $(Self::$name => [$($base),*].contains(&type_name)),* }
            }
        }
    };
}

kinds! {
    Folder, "group-v", false, ["ManagedEntity", "ExtensibleManagedObject"];
    StoragePod, "group-p", false, ["Folder", "ManagedEntity", "ExtensibleManagedObject"];
    Datacenter, "datacenter-", false, ["ManagedEntity", "ExtensibleManagedObject"];
    ClusterComputeResource, "domain-c", false, ["ComputeResource", "ManagedEntity", "ExtensibleManagedObject"];
    HostSystem, "host-", false, ["ManagedEntity", "ExtensibleManagedObject"];
    ResourcePool, "resgroup-", false, ["ManagedEntity", "ExtensibleManagedObject"];
    Datastore, "datastore-", false, ["ManagedEntity", "ExtensibleManagedObject"];
    Network, "network-", false, ["ManagedEntity", "ExtensibleManagedObject"];
    VirtualMachine, "vm-", false, ["ManagedEntity", "ExtensibleManagedObject"];
    VirtualMachineSnapshot, "snapshot-", false, ["ExtensibleManagedObject"];
    Task, "task-", false, ["ExtensibleManagedObject"];
    ContainerView, "session-view-c", false, ["ManagedObjectView", "View"];
    ListView, "session-view-l", false, ["ManagedObjectView", "View"];
    PropertyCollector, "propertyCollector", true, [];
    PropertyFilter, "session-filter-", false, [];
    ServiceInstance, "ServiceInstance", true, [];
    SessionManager, "SessionManager", true, [];
    ViewManager, "ViewManager", true, [];
    TaskManager, "TaskManager", true, [];
    SearchIndex, "SearchIndex", true, [];
    CustomFieldsManager, "CustomFieldsManager", true, [];
    CustomizationSpecManager, "CustomizationSpecManager", true, [];
    OptionManager, "VpxSettings", true, [];
    AuthorizationManager, "AuthorizationManager", true, [];
}

/// A reference to a managed object: its type and a number that is unique over
/// all types. Singletons have the number 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Moref {
    pub(super) kind: Kind,
    pub(super) number: u32,
}

impl Moref {
    pub(super) fn new(kind: Kind, number: u32) -> Self {
        Self { kind, number }
    }

    pub(super) fn singleton(kind: Kind) -> Self {
        Self { kind, number: 0 }
    }

    /// The reference's value, such as `vm-42`.
    pub(super) fn value(self) -> String {
        self.to_string()
    }

    /// Reads a reference from its type and value.
    pub(super) fn parse(type_name: &str, value: &str) -> Option<Self> {
        let kind = Kind::parse(type_name)?;
        let digits = value.len() - value.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (head, tail) = value.split_at(digits);
        let number = if tail.is_empty() { 0 } else { tail.parse().ok()? };
        let (prefix, _) = kind.prefix();
        (head == prefix).then_some(Self { kind, number })
    }
}

impl fmt::Display for Moref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prefix, singleton) = self.kind.prefix();
        if singleton && self.number == 0 { f.write_str(prefix) } else { write!(f, "{prefix}{}", self.number) }
    }
}

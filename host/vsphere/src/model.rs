//! The vSphere objects that the rest of the host sees, as plain data, and how
//! each is read out of a property set.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::refs::{DatastoreRef, FolderRef, HostRef, ManagedObjectRef, PoolRef, SnapshotRef, VmRef};
use crate::texts::Texts;

/// What vCenter says of itself (`ServiceContent.about`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// Product and build, for people.
    pub full_name: String,
    /// Product version, such as `8.0.2`.
    pub version: String,
    /// The vim25 API's version, such as `8.0.2.0`.
    pub api_version: String,
    /// Identifies this vCenter; empty on a bare `ESXi`.
    pub instance_uuid: String,
}

/// `VirtualMachine.runtime.powerState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub enum PowerState {
    /// Running.
    On,
    /// Not running.
    Off,
    /// Suspended to disk.
    Suspended,
    /// vCenter does not tell, or tells something new.
    Unknown,
}

impl PowerState {
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "poweredOn" => Self::On,
            "poweredOff" => Self::Off,
            "suspended" => Self::Suspended,
            _ => Self::Unknown,
        }
    }
}

/// `VirtualMachine.runtime.connectionState`: whether vCenter can manage it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectionState {
    /// Manageable.
    Connected,
    /// Its host is not connected; what is known of it may be old.
    Disconnected,
    /// No longer registered on its host.
    Orphaned,
    /// Its files cannot be read.
    Inaccessible,
    /// Inaccessible, and its configuration cannot be parsed.
    Invalid,
    /// vCenter does not tell, or tells something new.
    Unknown,
}

impl ConnectionState {
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "connected" => Self::Connected,
            "disconnected" => Self::Disconnected,
            "orphaned" => Self::Orphaned,
            "inaccessible" => Self::Inaccessible,
            "invalid" => Self::Invalid,
            _ => Self::Unknown,
        }
    }
}

/// A virtual machine or template, as far as this crate reads one.
///
/// While a clone is under way vCenter may show a machine whose `config` is not
/// there yet: then uuid, cpus, memory and `extra` are empty, and a later change
/// fills them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// The reference.
    pub id: VmRef,
    /// Name, unescaped: as people write it.
    pub name: String,
    /// The folder it lies in; none while it is inside a vApp.
    pub parent: Option<FolderRef>,
    /// `config.instanceUuid` in lower case; empty while there is no config.
    pub instance_uuid: String,
    /// Power state.
    pub power: PowerState,
    /// The host it is registered on.
    pub host: Option<HostRef>,
    /// The datastores its files lie on.
    pub datastores: Vec<DatastoreRef>,
    /// Its resource pool; none for a template.
    pub pool: Option<PoolRef>,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// CPUs can be added while it runs (`config.cpuHotAddEnabled`).
    pub cpu_hot_add: bool,
    /// Memory can be added while it runs (`config.memoryHotAddEnabled`).
    pub memory_hot_add: bool,
    /// True if it is marked as a template.
    pub template: bool,
    /// Whether vCenter can manage it.
    pub connection: ConnectionState,
    /// Those `config.extraConfig` entries whose key starts with
    /// [`Options::extra_prefix`](crate::Options::extra_prefix).
    pub extra: Extra,
    /// What its guest says; nothing as long as nobody has asked for that
    /// ([`Vcenter::watch_guests`](crate::Vcenter::watch_guests)).
    pub guest: Option<Box<Guest>>,
    /// Its custom attributes, by the keys of their definitions
    /// ([`Vcenter::custom_fields`](crate::Vcenter::custom_fields)); nothing as long as
    /// nobody has asked for them
    /// ([`Vcenter::watch_attributes`](crate::Vcenter::watch_attributes)).
    pub attributes: Option<Box<BTreeMap<i32, String>>>,
    /// When it was made (`config.createDate`; vSphere 6.7 and later).
    pub created: Option<jiff::Timestamp>,
}

impl Vm {
    /// Keeps once what other machines have, too.
    pub(crate) fn share(&mut self, texts: &mut Texts) {
        if let Some(parent) = &mut self.parent {
            texts.share(parent);
        }
        if let Some(host) = &mut self.host {
            texts.share(host);
        }
        if let Some(pool) = &mut self.pool {
            texts.share(pool);
        }
        for datastore in &mut self.datastores {
            texts.share(datastore);
        }
        for (key, value) in &mut self.extra.0 {
            texts.share(key);
            // The one that is nobody else's.
            if **value != *self.instance_uuid {
                texts.share(value);
            }
        }
    }
}

/// What the guest of a machine says through VMware Tools.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Guest {
    /// `guest.toolsRunningStatus` is `guestToolsRunning`.
    pub tools_running: bool,
    /// `guest.ipAddress`: its primary address.
    pub address: Option<String>,
    /// `guestHeartbeatStatus` is `green`.
    pub heartbeat_green: bool,
}

/// Entries of an `extraConfig`, each key once. There is one of these for each
/// machine in the inventory, so it takes no more room than it needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extra(Box<[(Arc<str>, Arc<str>)]>);

impl Extra {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| &**value)
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Extra {
    /// Of several values of a key the last one counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let by_key: BTreeMap<String, String> =
            entries.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self(by_key.into_iter().map(|(key, value)| (Arc::from(key), Arc::from(value))).collect())
    }
}

/// What a folder holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Child {
    /// A virtual machine or template.
    Vm(Vm),
    /// A folder and its unescaped name.
    Folder(FolderRef, String),
    /// Anything else, such as a vApp, and its unescaped name if it has one.
    Other(ManagedObjectRef, String),
}

/// What can be cloned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The reference, for [`CloneSpec::template`](crate::CloneSpec::template).
    pub id: VmRef,
    /// Name, unescaped.
    pub name: String,
    /// Inventory path, `/DC0/vm/…`.
    pub path: String,
    /// False for an ordinary virtual machine that happens to have the name.
    pub is_template: bool,
    /// Disk space that it takes and a full clone will take, in MiB
    /// (`summary.storage.committed`), where vCenter knows.
    pub disk_mib: Option<u64>,
}

/// What a member is cloned from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The template.
    pub template: Template,
    /// Its snapshot that clones begin with; none: they are full copies.
    pub snapshot: Option<SnapshotRef>,
}

impl Source {
    /// Disk space that a clone takes at once, in MiB, where it is known.
    pub fn disk_mib(&self) -> Option<u64> {
        if self.snapshot.is_some() { Some(0) } else { self.template.disk_mib }
    }
}

/// Unescapes an entity name as vCenter stores it: `%25`, `%2f` and `%5c` stand
/// for `%`, `/` and `\`.
pub fn unescape_name(name: &str) -> String {
    if !name.contains('%') {
        return name.to_owned();
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let tail = &rest[at..];
        let plain = match tail.get(1..3).map(str::to_ascii_lowercase).as_deref() {
            Some("25") => Some('%'),
            Some("2f") => Some('/'),
            Some("5c") => Some('\\'),
            _ => None,
        };
        if let Some(plain) = plain {
            out.push(plain);
            rest = &tail[3..];
        } else {
            out.push('%');
            rest = &tail[1..];
        }
    }
    out.push_str(rest);
    out
}

/// The reverse of [`unescape_name`], for names that are sent.
pub(crate) fn escape_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '%' => out.push_str("%25"),
            '/' => out.push_str("%2f"),
            '\\' => out.push_str("%5c"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_back() {
        for name in ["plain", "50%", "a/b\\c", "%2f", "100%25", "é%", ""] {
            assert_eq!(unescape_name(&escape_name(name)), name);
        }
        assert_eq!(escape_name("a/b"), "a%2fb");
        assert_eq!(unescape_name("a%2Fb%5C"), "a/b\\");
        assert_eq!(unescape_name("50%zz%"), "50%zz%");
    }
}

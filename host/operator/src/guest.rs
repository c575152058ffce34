//! What a guest is told about itself by cloud-init: through `guestinfo` keys in the
//! machine's `extraConfig`, as cloud-init's `DataSourceVMware` reads them.
//!
//! Reading user data from a Secret or ConfigMap is here too, and what goes wrong
//! with that; `follow` notices that it has changed. Must not keep what it has read: user
//! data has a type that cannot be printed or serialised, and lives as long as the pass
//! that clones.

mod follow;
mod mark;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::{Compression, GzBuilder};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::Api;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use vmgroup_vsphere::Password;

use crate::status::{StatusError, bounded};

pub use follow::{DataBook, Known};
pub use mark::DataMark;

/// The most user data, in bytes. It travels in the machine's configuration, which
/// vCenter hands to everybody who reads one.
pub const USER_DATA_LIMIT: usize = 64 * 1024;

/// Where user data comes from: a key of a Secret or a ConfigMap in the group's
/// namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DataRef {
    /// A Secret, else a ConfigMap.
    pub secret: bool,
    /// Its name.
    pub name: String,
    /// The key in it.
    pub key: String,
}

impl fmt::Display for DataRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.secret { "Secret" } else { "ConfigMap" };
        write!(f, "{kind} {}, key {}", self.name, self.key)
    }
}

/// User data. `Debug` shows no more than its size.
#[derive(Clone, PartialEq, Eq)]
pub struct UserData(Vec<u8>);

impl UserData {
    /// From what a key holds.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// What members of the group with this uid that are made with it are marked with.
    pub fn mark(&self, uid: &str) -> DataMark {
        mark::Fingerprint::of(&self.0).mark(uid)
    }
}

impl fmt::Debug for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserData({} bytes)", self.0.len())
    }
}

/// Why there is no user data. Names where it was looked for, never what is there.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The operator has no right to read it.
    #[error(
        "the operator may not read the {from} in namespace {namespace}: the administrator allows it with the component deploy/components/guest-data and a RoleBinding there"
    )]
    Forbidden {
        /// What.
        from: DataRef,
        /// Where.
        namespace: String,
    },
    /// There is no such object, or no such key in it.
    #[error("there is no {from} in namespace {namespace}: make it, or correct spec.guest.cloudInit.userData")]
    NotFound {
        /// What.
        from: DataRef,
        /// Where.
        namespace: String,
    },
    /// It is too large.
    #[error("the user data in the {from} has {size} bytes, and may have {USER_DATA_LIMIT}")]
    TooLarge {
        /// What.
        from: DataRef,
        /// Its size in bytes.
        size: usize,
    },
    /// The API server did not say.
    #[error("the {from} cannot be read")]
    Unread {
        /// What.
        from: DataRef,
        /// Why.
        source: StatusError,
    },
    /// There are too many of them.
    #[error(
        "the {from} is not watched, as {} others are: a change of it counts for members that are made later, and for nobody who stands",
        follow::LIMIT
    )]
    Unwatched {
        /// What.
        from: DataRef,
    },
}

impl GuestError {
    /// The reason of the condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Forbidden { .. } => "GuestDataForbidden",
            Self::NotFound { .. } => "GuestDataNotFound",
            Self::TooLarge { .. } => "GuestDataTooLarge",
            Self::Unread { .. } => "GuestDataUnread",
            Self::Unwatched { .. } => "GuestDataUnwatched",
        }
    }

    /// Somebody has to do something.
    pub fn stalled(&self) -> bool {
        !matches!(self, Self::Unread { .. })
    }
}

/// An object that holds data by key.
trait Holder: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned {
    /// What it holds.
    fn held(self) -> BTreeMap<String, Vec<u8>>;
}

impl Holder for Secret {
    fn held(self) -> BTreeMap<String, Vec<u8>> {
        self.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()
    }
}

impl Holder for ConfigMap {
    fn held(self) -> BTreeMap<String, Vec<u8>> {
        let binary = self.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
        let text = self.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
        binary.chain(text).collect()
    }
}

/// Reads user data, now.
pub async fn read(kube: &Client, namespace: &str, from: &DataRef) -> Result<UserData, GuestError> {
    let found = if from.secret {
        held::<Secret>(kube, namespace, from).await
    } else {
        held::<ConfigMap>(kube, namespace, from).await
    };
    let (from, namespace) = (from.clone(), namespace.to_owned());
    match found {
        Ok(Some(bytes)) if bytes.len() > USER_DATA_LIMIT => Err(GuestError::TooLarge { from, size: bytes.len() }),
        Ok(Some(bytes)) => Ok(UserData(bytes)),
        Ok(None) => Err(GuestError::NotFound { from, namespace }),
        Err(StatusError::Api(error)) if matches!(&*error, kube::Error::Api(status) if status.code == 403) => {
            Err(GuestError::Forbidden { from, namespace })
        }
        Err(source) => Err(GuestError::Unread { from, source }),
    }
}

async fn held<K: Holder>(kube: &Client, namespace: &str, from: &DataRef) -> Result<Option<Vec<u8>>, StatusError> {
    let api: Api<K> = Api::namespaced(kube.clone(), namespace);
    let found = bounded(api.get_opt(&from.name)).await?;
    Ok(found.and_then(|object| object.held().remove(&from.key)))
}

/// A member, as far as its guest is told.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its instance UUID.
    pub uuid: &'a str,
    /// The group's name.
    pub group: &'a str,
    /// The group's namespace.
    pub namespace: &'a str,
}

impl Identity<'_> {
    /// The name as a host may have it: RFC 1123, at most 63 characters.
    pub fn host_name(&self) -> String {
        let legal = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = self.name.chars().map(legal).take(63).collect();
        name.trim_matches('-').to_owned()
    }

    /// Puts the member's own into user data. What is no text stays as it is.
    fn fill_in(&self, data: &UserData) -> Vec<u8> {
        let Ok(text) = std::str::from_utf8(&data.0) else { return data.0.clone() };
        let host_name = self.host_name();
        let values = [
            ("${VMGROUP_NAME}", self.name),
            ("${VMGROUP_HOSTNAME}", &host_name),
            ("${VMGROUP_UUID}", self.uuid),
            ("${VMGROUP_GROUP}", self.group),
            ("${VMGROUP_NAMESPACE}", self.namespace),
        ];
        values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value)).into_bytes()
    }
}

/// The `guestinfo` entries of a member: metadata with its identity, and user data if
/// there is any, compressed because vCenter tells each watcher all of `extraConfig`.
pub fn guestinfo(member: Identity<'_>, data: Option<&UserData>) -> Vec<(String, Password)> {
    let metadata = json!({"instance-id": member.uuid, "local-hostname": member.host_name()}).to_string();
    let mut entries = vec![
        ("guestinfo.metadata".to_owned(), Password::from(STANDARD.encode(metadata))),
        ("guestinfo.metadata.encoding".to_owned(), Password::from("base64")),
    ];
    if let Some(data) = data {
        let packed = Password::from(STANDARD.encode(gzip(&member.fill_in(data))));
        entries.push(("guestinfo.userdata".to_owned(), packed));
        entries.push(("guestinfo.userdata.encoding".to_owned(), Password::from("gzip+base64")));
    }
    entries
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    // Without a time in it, so that the same data gives the same bytes.
    let mut packer = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
    // A Vec takes whatever is written into it.
    let _ = packer.write_all(bytes);
    packer.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    const MEMBER: Identity<'static> = Identity { name: "Web_01.example", uuid: "u-1", group: "web", namespace: "shop" };

    fn value(entries: &[(String, Password)], key: &str) -> String {
        entries.iter().find(|(name, _)| name == key).map(|(_, value)| value.expose().to_owned()).unwrap_or_default()
    }

    #[test]
    fn a_guest_learns_who_it_is() {
        let entries = guestinfo(MEMBER, None);
        assert_eq!(value(&entries, "guestinfo.metadata.encoding"), "base64");
        let metadata = STANDARD.decode(value(&entries, "guestinfo.metadata")).unwrap();
        let metadata: serde_json::Value = serde_json::from_slice(&metadata).unwrap();
        assert_eq!(metadata, json!({"instance-id": "u-1", "local-hostname": "web-01-example"}));
        assert_eq!(entries.len(), 2, "no user data, no entry");
    }

    #[test]
    fn user_data_is_filled_in_and_packed() {
        let data =
            UserData::new(b"#cloud-config\nfqdn: ${VMGROUP_HOSTNAME}.${VMGROUP_NAMESPACE}\nrun: ${HOME}\n".to_vec());
        let entries = guestinfo(MEMBER, Some(&data));
        assert_eq!(value(&entries, "guestinfo.userdata.encoding"), "gzip+base64");
        let packed = STANDARD.decode(value(&entries, "guestinfo.userdata")).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "#cloud-config\nfqdn: web-01-example.shop\nrun: ${HOME}\n");
        assert_eq!(guestinfo(MEMBER, Some(&data)), entries, "the same data gives the same bytes");
    }

    #[test]
    fn s9_user_data_cannot_be_printed() {
        let data = UserData::new(b"hunter2".to_vec());
        assert_eq!(format!("{data:?}"), "UserData(7 bytes)");
        let entries = format!("{:?}", guestinfo(MEMBER, Some(&data)));
        assert!(entries.contains("Password(***)") && !entries.contains("H4sI"), "{entries}");
    }
}

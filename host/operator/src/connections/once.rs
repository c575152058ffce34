//! The connections file and its logins, read once: for a person at a desk who wants to
//! see vCenters as the operator sees them. Must not keep anything, nor connect.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Client;
use kube::api::{Api, ListParams};
use serde::de::DeserializeOwned;
use vmgroup_api::connections_file::{ConnectionEntry, ConnectionsFile};
use vmgroup_vsphere::SiteSelection;

use super::keeper::{check, config, file_of, login_of, selection};
use crate::config::VcenterConfig;
use crate::link::chain;
use crate::status::{StatusError, bounded};

/// Where a connections file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A `ConfigMap` in the operator's namespace.
    Map(String),
    /// A file at the desk.
    File(PathBuf),
}

impl Source {
    /// What has a `/`, or the ending of YAML, is a file.
    pub fn of(text: &str) -> Self {
        let text = text.trim();
        let file = text.contains('/') || [".yaml", ".yml"].iter().any(|ending| text.ends_with(ending));
        if file { Self::File(text.into()) } else { Self::Map(text.to_owned()) }
    }
}

/// Why a connection cannot be seen as the operator sees it.
#[derive(Debug, thiserror::Error)]
pub enum OnceError {
    /// The Kubernetes API.
    #[error("{what} cannot be read: your user needs `list` on it")]
    Kube {
        /// What it is.
        what: String,
        /// Why not.
        source: StatusError,
    },
    /// The file at the desk.
    #[error("the connections file {} cannot be read", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is read, and cannot be used.
    #[error("{0}")]
    Refused(String),
}

/// The connections file, as the operator takes it.
pub async fn file(kube: &Client, namespace: &str, source: &Source) -> Result<ConnectionsFile, OnceError> {
    match source {
        Source::Map(name) => {
            let map: Option<ConfigMap> = find(kube, namespace, ("ConfigMap", name)).await?;
            file_of(map.as_ref(), namespace, name).map_err(OnceError::Refused)
        }
        Source::File(path) => {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|source| OnceError::File { path: path.clone(), source })?;
            check(&text).map_err(|error| OnceError::Refused(chain(&error)))
        }
    }
}

/// How the operator connects, and what of it groups may use, with the login that the
/// connection's Secret holds.
pub async fn vcenter(
    kube: &Client,
    namespace: &str,
    entry: &ConnectionEntry,
) -> Result<(VcenterConfig, SiteSelection), OnceError> {
    let secret: Option<Secret> = find(kube, namespace, ("Secret", &entry.credentials.secret)).await?;
    let login = login_of(secret.as_ref(), namespace, entry).map_err(OnceError::Refused)?;
    let config = config(entry, &login).map_err(|error| OnceError::Refused(chain(&error)))?;
    Ok((config, selection(entry)))
}

/// By a list, as the operator's own role allows one that is bound to a name: so it works
/// in its pod, too.
async fn find<K>(kube: &Client, namespace: &str, (kind, name): (&str, &str)) -> Result<Option<K>, OnceError>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(kube.clone(), namespace);
    let params = ListParams::default().fields(&format!("metadata.name={name}"));
    match bounded(api.list(&params)).await {
        Ok(found) => Ok(found.items.into_iter().next()),
        Err(source) => Err(OnceError::Kube { what: format!("the {kind} {name} in the namespace {namespace}"), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_from_a_config_map() {
        for file in ["./connections", "connections.yaml", "/etc/c.yml"] {
            assert_eq!(Source::of(file), Source::File(file.into()));
        }
        assert_eq!(Source::of(" vmgroup-connections "), Source::Map("vmgroup-connections".to_owned()));
    }
}

//! Finds out which Kubernetes cluster this is.
//!
//! Must not know what it is needed for.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::Api;
use tokio_util::sync::CancellationToken;

use crate::http::Health;
use crate::link::chain;
use crate::ownership::Cluster;
use crate::status::{StatusError, bounded};

/// The namespace that every cluster has, for as long as it lives.
const NAMESPACE: &str = "kube-system";

/// Its name under `/readyz`.
pub const PART: &str = "cluster";

/// The time from one attempt to the next.
const RETRY: Duration = Duration::from_secs(3);

/// Reads the cluster's identity.
pub async fn read(client: &Client) -> Result<Option<String>, StatusError> {
    let api: Api<Namespace> = Api::all(client.clone());
    Ok(bounded(api.get(NAMESPACE)).await?.metadata.uid)
}

/// Waits until the identity is known; false if told to stop before.
///
/// Where we may not read it, or where there is no such namespace, the operator
/// goes on without: members are then known by their group's uid alone, and
/// `vmgroup orphans` takes nobody for an orphan.
pub async fn identify(client: &Client, cluster: &Cluster, health: &Health, stop: &CancellationToken) -> bool {
    loop {
        let lack = match read(client).await {
            Ok(uid) => {
                if let Some(uid) = uid {
                    tracing::info!(cluster = uid, "this cluster's identity");
                    cluster.set(uid);
                }
                health.set_ready(PART, Ok(()));
                return true;
            }
            Err(error) if refused(&error) => {
                tracing::error!(
                    error = %chain(&error),
                    "the Namespace kube-system cannot be read, so members carry no mark of their cluster: update the ClusterRole vmgroup-operator from deploy/base/rbac.yaml"
                );
                health.set_ready(PART, Ok(()));
                return true;
            }
            Err(error) => chain(&error),
        };
        health.set_ready(PART, Err(format!("the Namespace {NAMESPACE} cannot be read: {lack}")));
        health.beat();
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return false,
        }
    }
}

/// It will not get better by asking again.
fn refused(error: &StatusError) -> bool {
    matches!(error, StatusError::Api(source) if matches!(&**source, kube::Error::Api(status) if matches!(status.code, 403 | 404)))
}

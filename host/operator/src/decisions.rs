//! The recorded decisions, served on a local socket to `vmgroup decisions` and
//! `vmgroup explain`: who may open the socket may read them, and no port is opened.
//! Must not decide or change anything.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use axum::extract::{Path as Segment, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use vmgroup_records::{Filter, Recorder, explain};

use crate::offload::Offload;

/// Where the operator of a cluster listens, and where the commands look.
pub const SOCKET: &str = "/run/vmgroup/vmgroup.sock";

/// Which machine of which group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// `namespace/name`.
    pub group: String,
    /// Its name.
    pub vm: String,
}

/// The pages as a router, for [`serve`] and for tests without a socket.
pub fn router(recorder: Recorder, offload: Offload) -> Router {
    Router::new()
        .route(
            "/decisions",
            get(|State((recorder, _)): Shared, Query(filter)| async move { Json(recorder.list(&filter)) }),
        )
        .route("/decisions/{number}", get(one))
        .route(
            "/export",
            get(|State((recorder, _)): Shared, Query(filter): Query<Filter>| async move { recorder.export(&filter) }),
        )
        .route("/explain", get(why))
        .with_state((recorder, offload))
}

type Shared = State<(Recorder, Offload)>;

async fn one(State((recorder, _)): Shared, Segment(number): Segment<u64>) -> Response {
    match recorder.get(number) {
        Some(record) => Json(record).into_response(),
        None => (StatusCode::NOT_FOUND, format!("there is no decision {number}, or none any more")).into_response(),
    }
}

async fn why(State((recorder, offload)): Shared, Query(machine): Query<Machine>) -> Response {
    let Machine { group, vm } = machine;
    let filter = Filter { group: Some(group.clone()), ..Filter::default() };
    // Unpacking megabytes of records takes longer than the runtime likes.
    let explanation = offload.run(move || explain(recorder.records(&filter), &vm)).await;
    if explanation.is_empty() {
        let vm = &explanation.vm;
        let text = format!(
            "no decision about `{vm}` of {group} is kept in memory: it was taken before the operator started, or too long ago. \
             Where there is a --decision-folder, --records looks into its files"
        );
        return (StatusCode::NOT_FOUND, text).into_response();
    }
    Json(explanation).into_response()
}

/// Takes the socket's place, that of a process that is no more included. Only
/// the user of this process may connect.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another operator listens there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the pages until `shutdown`, and removes the socket.
pub async fn serve(listener: UnixListener, path: PathBuf, router: Router, shutdown: CancellationToken) {
    let server = axum::serve(listener, router);
    tokio::select! {
        result = async { server.await } => if let Err(error) = result {
            tracing::error!(%error, "the decisions' socket ended");
        },
        () = shutdown.cancelled() => {}
    }
    let _ = std::fs::remove_file(path);
}

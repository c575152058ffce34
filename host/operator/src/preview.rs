//! What an edit of a group would bring, told without doing it: the questions that
//! would arise, put to the policies in force or to one that is only tried here.
//! Served on the local socket to `vmgroup preview`.
//!
//! The engine rehearses (`engine/preview`); here is what it tells, and the page.
//! Nothing is written, to anybody; nothing is recorded or counted as a decision.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use vmgroup_policy::{CheckError, Kind, Limits, Policy, Source};
use vmgroup_records::Asked;
use vmgroup_vsphere::Capacity;

use crate::engine::Engine;
use crate::link::{Problem, chain};
use crate::status::StatusError;
use crate::wake::GroupRef;

/// The longest that a preview may take. Its questions have the deadlines of any
/// decision, and a large group raises many.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What is to be previewed. A policy to be tried is the body of the request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Wanted {
    /// `namespace/name`.
    pub group: String,
    /// How many members; nothing: as many as its spec says.
    pub replicas: Option<usize>,
    /// One fewer than there are, instead: who is next?
    #[serde(default)]
    pub one_fewer: bool,
    /// What they are made from; nothing: what its spec says.
    pub template: Option<String>,
    /// Virtual CPUs of each; nothing: as many as its spec says.
    pub cpu: Option<i32>,
    /// Memory of each, in GB; nothing: as much as its spec says.
    pub memory: Option<i32>,
    /// What the policy in the body is called.
    pub plugin: Option<String>,
    /// Which question it is to answer; nothing: all that it can.
    pub kind: Option<Kind>,
    /// Its configuration, a JSON object.
    pub config: Option<String>,
}

/// Of how many members a preview is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// As many as the spec says.
    Spec,
    /// So many.
    Members(usize),
    /// One fewer than there are when what is under way has ended, so that somebody goes.
    OneFewer,
}

/// What of a spec would be other than it is.
#[derive(Clone, Debug)]
pub struct Edit {
    /// `spec.replicas`.
    pub wish: Wish,
    /// `spec.template`.
    pub template: Option<String>,
    /// `spec.cpu`.
    pub cpu: Option<i32>,
    /// `spec.memory`.
    pub memory: Option<i32>,
}

/// What would happen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    /// `namespace/name`.
    pub group: String,
    /// How many members the spec wishes now.
    pub wished_now: usize,
    /// How many are wished in this preview.
    pub replicas: usize,
    /// How many there are, once what is under way has ended.
    pub members: usize,
    /// What they are called.
    #[serde(default)]
    pub there: Vec<String>,
    /// What is under way already, and taken as done.
    pub under_way: Vec<Said>,
    /// Who would come, in this order.
    pub coming: Vec<Coming>,
    /// Who would go, the first to leave first.
    pub going: Vec<Said>,
    /// What the placement policy was given to choose from; nothing: it was not asked.
    #[serde(default)]
    pub candidates: Option<Candidates>,
    /// Who would be changed or replaced, in this order. Successors are among those who
    /// would come.
    #[serde(default)]
    pub changed: Vec<Changed>,
    /// How many more would be, whose turn was not rehearsed.
    #[serde(default)]
    pub further: usize,
    /// Who would not be as the spec says and be left so, and why.
    #[serde(default)]
    pub left: Vec<Said>,
    /// Who was asked.
    pub asked: Vec<Counsel>,
    /// Why it would not come so far; nothing if it would.
    pub stopped: Option<Trouble>,
    /// What holds the group up at present.
    pub troubles: Vec<Trouble>,
}

/// Where new members could go, by name: what the group's connection has, or as much of
/// it as its target names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidates {
    /// Clusters.
    pub clusters: Vec<String>,
    /// Their hosts.
    pub hosts: Vec<String>,
    /// Datastores.
    pub datastores: Vec<String>,
}

impl Candidates {
    /// All that there is here.
    pub fn of(capacity: &Capacity) -> Self {
        Self {
            clusters: capacity.clusters.iter().map(|cluster| cluster.name.clone()).collect(),
            hosts: capacity.hosts.iter().map(|host| host.name.clone()).collect(),
            datastores: capacity.datastores.iter().map(|store| store.name.clone()).collect(),
        }
    }
}

/// Something about one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The member's name.
    pub name: String,
    /// In words.
    pub reason: String,
}

/// A member that would come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coming {
    /// What it would be called.
    pub name: String,
    /// Where it would go, as `cluster/host/datastore` with `-` for what is left to
    /// vCenter.
    pub place: String,
    /// Why it is called so.
    pub named: String,
    /// Why it would go there.
    pub placed: String,
}

/// A member that would be changed or replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Its name.
    pub name: String,
    /// How.
    pub how: How,
    /// What for.
    pub why: String,
    /// Whose turn it is together has the same number, from 1; none: it waits for no turn.
    pub turn: Option<usize>,
    /// Why it would be its turn: the policy's words.
    pub reason: Option<String>,
}

/// How a member would be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum How {
    /// While it runs.
    InPlace,
    /// It is off, and is changed before it is powered on.
    BeforeItStarts,
    /// It is powered off for it, and on again.
    PowerCycle,
    /// It leaves, and has a successor.
    Replacement,
}

impl How {
    /// After its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InPlace => "is changed while it runs",
            Self::BeforeItStarts => "is off, and is changed before it is powered on",
            Self::PowerCycle => "is powered off, changed, and powered on again",
            Self::Replacement => "is replaced",
        }
    }
}

/// A policy that was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counsel {
    /// What.
    pub kind: Kind,
    /// Which.
    pub policy: Asked,
    /// It is not in force, and was tried here.
    pub tried: bool,
}

/// Something that is in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// CamelCase, as in the group's conditions.
    pub reason: String,
    /// What it is and what to do about it.
    pub message: String,
}

/// Why there is no preview.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// Not `namespace/name`.
    #[error("`{0}` is no group: write NAMESPACE/NAME")]
    Name(String),
    /// There is no such group.
    #[error("there is no VmGroup {0}")]
    NoGroup(GroupRef),
    /// It is being deleted.
    #[error("{0} is being deleted: all its members leave, and nobody is asked")]
    Deleting(GroupRef),
    /// The spec, or the number.
    #[error(transparent)]
    Invalid(#[from] crate::validate::Invalid),
    /// More than a group may have.
    #[error("{wanted} members are more than the {limit} that a group may have")]
    TooMany {
        /// So many.
        wanted: usize,
        /// At most so many.
        limit: usize,
    },
    /// The Kubernetes API.
    #[error("the group could not be read")]
    Kubernetes(#[from] StatusError),
    /// No link to vCenter.
    #[error("{}", .0.message)]
    NoLink(Arc<Problem>),
    /// vCenter.
    #[error("vCenter could not be asked")]
    Vcenter(#[from] vmgroup_vsphere::Error),
    /// The configuration of the policy to be tried.
    #[error("the configuration of the policy is no JSON object")]
    Config(#[source] serde_json::Error),
    /// The policy to be tried does not pass its checks.
    #[error("{0}. {remedy}", remedy = .0.remedy)]
    Refused(Box<CheckError>),
    /// One at a time.
    #[error("another preview is under way: try again in a moment")]
    Busy,
    /// It takes too long.
    #[error("the preview took longer than {} s", DEADLINE.as_secs())]
    Slow,
}

impl PreviewError {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoGroup(_) => StatusCode::NOT_FOUND,
            Self::Name(_) | Self::TooMany { .. } | Self::Config(_) => StatusCode::BAD_REQUEST,
            Self::Invalid(_) | Self::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Deleting(_) => StatusCode::CONFLICT,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::Kubernetes(_) | Self::Vcenter(_) => StatusCode::BAD_GATEWAY,
            Self::NoLink(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Slow => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

#[derive(Clone)]
struct Page {
    engine: Engine,
    /// A large group and a slow policy keep a core busy for a while: one at a time.
    turn: Arc<Semaphore>,
}

/// The page as a router.
pub fn router(engine: Engine) -> Router {
    let page = Page { engine, turn: Arc::new(Semaphore::new(1)) };
    Router::new()
        .route("/preview", post(show))
        .layer(DefaultBodyLimit::max(Limits::default().wasm_bytes))
        .with_state(page)
}

async fn show(State(Page { engine, turn }): State<Page>, Query(wanted): Query<Wanted>, body: Bytes) -> Response {
    let made = async {
        let _turn = turn.try_acquire().map_err(|_| PreviewError::Busy)?;
        tokio::time::timeout(DEADLINE, make(&engine, wanted, body)).await.map_err(|_| PreviewError::Slow)?
    };
    match made.await {
        Ok(preview) => Json(preview).into_response(),
        Err(error) => (error.status(), chain(&error)).into_response(),
    }
}

/// Makes a preview, with a policy to be tried if there is one.
pub async fn make(engine: &Engine, wanted: Wanted, body: Bytes) -> Result<Preview, PreviewError> {
    let Wanted { group, replicas, one_fewer, template, cpu, memory, plugin, kind, config } = wanted;
    let group = GroupRef::parse(&group).ok_or(PreviewError::Name(group))?;
    let mut candidates: Vec<Arc<Policy>> = Vec::new();
    if !body.is_empty() {
        let config = config.as_deref().map_or(Ok(serde_json::Value::Null), serde_json::from_str);
        let config = config.map_err(PreviewError::Config)?;
        let source = Source { name: plugin.unwrap_or_else(|| "candidate.wasm".to_owned()), bytes: body, config };
        let checked = engine.policies.check(kind, source).await;
        candidates = checked.map_err(|error| PreviewError::Refused(Box::new(error)))?;
    }
    let wish = match replicas {
        Some(replicas) => Wish::Members(replicas),
        None if one_fewer => Wish::OneFewer,
        None => Wish::Spec,
    };
    engine.preview(&group, Edit { wish, template, cpu, memory }, &candidates).await
}

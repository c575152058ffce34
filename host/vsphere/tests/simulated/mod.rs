//! The simulated vCenter in this process, and clients of it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;
use vmgroup_sim::clock::Clock;
use vmgroup_sim::faults::Cut;
use vmgroup_sim::vcenter::{VcenterConfig, VcenterService, VcenterSim};
use vmgroup_vsphere::{Credentials, Options, Transport, TransportError, TransportKind, Vcenter, endpoint};

use crate::common::{KEY, PREFIX};

/// The simulator as a transport.
pub struct InProcess(VcenterService);

impl Transport for InProcess {
    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Bytes>, TransportError>> {
        let service = self.0.clone();
        async move {
            let response = service
                .oneshot(request.map(axum::body::Body::from))
                .await
                .map_err(|cut| TransportError::new(TransportKind::Broken, cut))?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| TransportError::new(TransportKind::Broken, error))?;
            Ok(http::Response::from_parts(head, body.to_bytes()))
        }
        .boxed()
    }
}

/// A line to the simulator that loses some of the calls: every other one of them
/// before it takes effect, the rest on the way back.
#[derive(Clone, Default)]
pub struct BadLine(Arc<Line>);

#[derive(Default)]
struct Line {
    sim: std::sync::OnceLock<VcenterService>,
    calls: AtomicU64,
    lost_per_mille: AtomicU64,
}

impl BadLine {
    /// Loses so many of a thousand calls from now on.
    pub fn loses(&self, per_mille: u64) {
        self.0.lost_per_mille.store(per_mille, Ordering::SeqCst);
    }
}

impl Transport for BadLine {
    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Bytes>, TransportError>> {
        let line = Arc::clone(&self.0);
        async move {
            let mut hasher = DefaultHasher::new();
            line.calls.fetch_add(1, Ordering::SeqCst).hash(&mut hasher);
            let draw = hasher.finish();
            let lost = draw % 1000 < line.lost_per_mille.load(Ordering::SeqCst);
            let cut = || Err(TransportError::new(TransportKind::Broken, Cut));
            if lost && draw & 1024 == 0 {
                return cut();
            }
            let Some(sim) = line.sim.get() else { return cut() };
            let answer = InProcess(sim.clone()).call(request).await;
            if lost { cut() } else { answer }
        }
        .boxed()
    }
}

pub fn on_a_bad_line(config: VcenterConfig) -> (VcenterSim, Vcenter, BadLine) {
    let (sim, _) = simulated(config);
    let line = BadLine::default();
    let _ = line.0.sim.set(sim.service());
    let vcenter = Vcenter::new(options(), Arc::new(line.clone()));
    (sim, vcenter, line)
}

pub fn credentials(password: &str) -> Credentials {
    Credentials { user: "user".to_owned(), password: password.into() }
}

pub fn simulated(config: VcenterConfig) -> (VcenterSim, Vcenter) {
    let sim = VcenterSim::new(config, Clock::starting_at(Duration::from_secs(1_700_000_000)));
    let vcenter = client(&sim, |_| {});
    (sim, vcenter)
}

pub fn client(sim: &VcenterSim, change: impl FnOnce(&mut Options)) -> Vcenter {
    let mut options = options();
    change(&mut options);
    Vcenter::new(options, Arc::new(InProcess(sim.service())))
}

fn options() -> Options {
    let mut options = Options::new(endpoint("vc.example").unwrap(), credentials("pass"));
    PREFIX.clone_into(&mut options.extra_prefix);
    KEY.clone_into(&mut options.index_key);
    options
}

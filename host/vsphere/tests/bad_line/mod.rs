//! A client of the simulated vCenter on a line that loses calls.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use vmgroup_sim::faults::Cut;
use vmgroup_sim::vcenter::{VcenterConfig, VcenterSim};
use vmgroup_vsphere::{Transport, TransportError, TransportKind, Vcenter};

use crate::simulated::{InProcess, options, simulated};

/// A line to the simulator that loses some of the calls: every other one of them
/// before it takes effect, the rest on the way back.
#[derive(Clone)]
pub struct BadLine(Arc<Line>);

struct Line {
    to: InProcess,
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
            let answer = line.to.call(request).await;
            if lost { cut() } else { answer }
        }
        .boxed()
    }
}

pub fn on_a_bad_line(config: VcenterConfig) -> (VcenterSim, Vcenter, BadLine) {
    let (sim, _) = simulated(config);
    let to = InProcess::new(&sim);
    let line = BadLine(Arc::new(Line { to, calls: AtomicU64::default(), lost_per_mille: AtomicU64::default() }));
    let vcenter = Vcenter::new(options(), Arc::new(line.clone()));
    (sim, vcenter, line)
}

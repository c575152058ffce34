//! The simulated vCenter in this process, and clients of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;
use vmgroup_sim::clock::Clock;
use vmgroup_sim::vcenter::{VcenterConfig, VcenterService, VcenterSim};
use vmgroup_vsphere::{Credentials, Options, Transport, TransportError, TransportKind, Vcenter, endpoint};

use crate::common::{KEY, PREFIX};

/// The simulator as a transport.
pub struct InProcess(VcenterService);

impl InProcess {
    pub fn new(sim: &VcenterSim) -> Self {
        Self(sim.service())
    }
}

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
    Vcenter::new(options, Arc::new(InProcess::new(sim)))
}

pub fn options() -> Options {
    let mut options = Options::new(endpoint("vc.example").unwrap(), credentials("pass"));
    PREFIX.clone_into(&mut options.extra_prefix);
    KEY.clone_into(&mut options.index_key);
    options
}

//! Breaks exactly one call of a run, the k-th that leaves the operator, to
//! whichever side it goes: before it takes effect, after it, or by losing its
//! answer. So that every single one can be tried (L4).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use http::{Request, Response};
use tokio::sync::Notify;
use tower::{Service, ServiceExt};
use vmgroup_sim::faults::Cut;

/// What happens at the chosen call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// The operator dies before the call takes effect.
    CrashBefore,
    /// The call takes effect, and the operator dies before it hears of it.
    CrashAfter,
    /// The call takes effect, its answer is lost, and the operator lives on.
    ReplyLost,
}

/// The blow of a run. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Sabotage(Arc<Shared>);

#[derive(Default)]
struct Shared {
    calls: AtomicU64,
    blow: Mutex<Option<(u64, Blow)>>,
    struck: Mutex<Option<String>>,
    crash: Notify,
}

impl Sabotage {
    /// Strikes at the call with this number, counted from 0.
    pub fn at(call: u64, blow: Blow) -> Self {
        let sabotage = Self::default();
        *sabotage.0.blow.lock().unwrap_or_else(PoisonError::into_inner) = Some((call, blow));
        sabotage
    }

    /// How many calls have left the operator.
    pub fn calls(&self) -> u64 {
        self.0.calls.load(Ordering::SeqCst)
    }

    /// Which call was struck, once it was.
    pub fn struck(&self) -> Option<String> {
        self.0.struck.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Resolves when the operator is to die. Its call hangs until then.
    pub async fn crash(&self) {
        self.0.crash.notified().await;
    }

    fn count(&self, request: &Request<Body>) -> Option<Blow> {
        let number = self.0.calls.fetch_add(1, Ordering::SeqCst);
        let blow = (*self.0.blow.lock().unwrap_or_else(PoisonError::into_inner)).filter(|(at, _)| *at == number);
        let (_, blow) = blow?;
        let name = request
            .headers()
            .get("soapaction")
            .map_or_else(|| format!("{} {}", request.method(), request.uri()), |_| "SOAP call".to_owned());
        *self.0.struck.lock().unwrap_or_else(PoisonError::into_inner) = Some(name);
        Some(blow)
    }

    /// Makes one call through the saboteur.
    pub async fn call<S>(&self, service: S, request: Request<Body>) -> Result<Response<Body>, Cut>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Cut>,
    {
        match self.count(&request) {
            None => service.oneshot(request).await,
            Some(Blow::CrashBefore) => {
                self.0.crash.notify_one();
                std::future::pending().await
            }
            Some(Blow::CrashAfter) => {
                let _ = service.oneshot(request).await;
                self.0.crash.notify_one();
                std::future::pending().await
            }
            Some(Blow::ReplyLost) => {
                let _ = service.oneshot(request).await;
                Err(Cut)
            }
        }
    }
}

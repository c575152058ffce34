//! Stands between the operators and the two servers and breaks their calls:
//! before they take effect, after it, or by losing the answer; either exactly
//! one, the k-th of a run, so that every single one can be tried (L4), or as many
//! as an oracle says.
//!
//! Must not know what a call is good for.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use http::{Request, Response};
use tokio::sync::Notify;
use tokio::time::Instant;
use tower::{Service, ServiceExt};
use vmgroup_sim::faults::{Cut, Fault, Faults, Rule};

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

/// Who asks whom: both by their numbers, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// The operator.
    pub operator: u64,
    /// The vCenter.
    pub vcenter: usize,
}

/// Sees what operators ask of vCenter, at the moments that matter to a judge.
pub trait Witness: Send + Sync {
    /// A call leaves an operator.
    fn leaves(&self, line: Line, envelope: &str);
    /// vCenter is done with it, well or with an error, while its operator was
    /// still there to hear of it.
    fn served(&self, line: Line, envelope: &str, well: bool);
    /// Its operator waits for it no more: it has been answered, given up, or has died
    /// with him.
    fn ended(&self, line: Line, envelope: &str);
    /// Whoever made it was paused on the way, or has given it up before it was
    /// carried out; it may take effect all the same.
    fn late(&self, line: Line, envelope: &str);
}

/// What an oracle has in store for a call.
#[derive(Clone, Debug)]
pub enum Strike {
    /// A blow.
    Blow(Blow),
    /// A fault of the server's own.
    Fault(Fault),
}

/// Who is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The Kubernetes API.
    Kubernetes,
    /// The vCenter of this number, counted from 0.
    Vcenter(usize),
}

/// A call that leaves an operator.
#[derive(Clone, Debug)]
pub struct Call {
    /// The operator's number, counted from 0.
    pub operator: u64,
    /// Who is called.
    pub side: Side,
    /// The method: `PATCH` and path, or the SOAP method.
    pub name: String,
}

/// Says what is to happen to each call.
pub type Oracle = Box<dyn FnMut(&Call) -> Option<Strike> + Send>;

/// Hears of each call's end, with its outcome in words.
pub type Listener = Box<dyn Fn(&Call, &str) + Send + Sync>;

/// The saboteur of a run. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Sabotage(Arc<Shared>);

#[derive(Default)]
struct Shared {
    calls: AtomicU64,
    limit: Option<u64>,
    blow: Option<(u64, Blow)>,
    oracle: Mutex<Option<Oracle>>,
    listener: Option<Listener>,
    struck: Mutex<Option<String>>,
    crashed: Mutex<VecDeque<u64>>,
    crash: Notify,
    /// Operators that are paused, and until when.
    frozen: Mutex<HashMap<u64, Instant>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sabotage {
    /// Strikes at the call with this number, counted from 0.
    pub fn at(call: u64, blow: Blow) -> Self {
        Self(Arc::new(Shared { blow: Some((call, blow)), ..Shared::default() }))
    }

    /// Strikes as the oracle says. Calls beyond `limit` are never answered, so
    /// that a storm of them is seen and does not go on for ever.
    pub fn by(oracle: Oracle, listener: Option<Listener>, limit: u64) -> Self {
        let oracle = Mutex::new(Some(oracle));
        Self(Arc::new(Shared { oracle, listener, limit: Some(limit), ..Shared::default() }))
    }

    /// No more strikes; whoever is paused goes on.
    pub fn end(&self) {
        *lock(&self.0.oracle) = None;
        lock(&self.0.frozen).clear();
    }

    /// How many calls have left the operators.
    pub fn calls(&self) -> u64 {
        self.0.calls.load(Ordering::SeqCst)
    }

    /// Which call was struck, once it was.
    pub fn struck(&self) -> Option<String> {
        lock(&self.0.struck).clone()
    }

    /// Resolves when an operator is to die, with its number. Its call hangs until then.
    pub async fn crash(&self) -> u64 {
        loop {
            let notified = self.0.crash.notified();
            if let Some(operator) = lock(&self.0.crashed).pop_front() {
                return operator;
            }
            notified.await;
        }
    }

    /// Holds all calls of an operator back until then, as if it was paused right
    /// before each of them; what it thought of before it does afterwards.
    pub fn freeze(&self, operator: u64, until: Instant) {
        lock(&self.0.frozen).insert(operator, until);
    }

    async fn thaw(&self, operator: u64) {
        loop {
            let until = lock(&self.0.frozen).get(&operator).copied();
            match until {
                Some(until) if until > Instant::now() => tokio::time::sleep_until(until).await,
                _ => return,
            }
        }
    }

    fn strike(&self, call: &Call) -> Option<Strike> {
        let number = self.0.calls.fetch_add(1, Ordering::SeqCst);
        let strike = match (&self.0.blow, lock(&self.0.oracle).as_mut()) {
            (Some((at, blow)), _) => (*at == number).then_some(Strike::Blow(*blow)),
            (None, Some(oracle)) => oracle(call),
            (None, None) => None,
        };
        if strike.is_some() {
            *lock(&self.0.struck) = Some(call.name.clone());
        }
        strike
    }

    fn kill(&self, operator: u64) {
        lock(&self.0.crashed).push_back(operator);
        self.0.crash.notify_one();
    }

    /// Makes one call through the saboteur. `faults` are those of the service.
    pub async fn call<S>(
        &self,
        call: Call,
        faults: &Faults,
        service: S,
        request: Request<Body>,
    ) -> Result<Response<Body>, Cut>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Cut>,
    {
        if self.0.limit.is_some_and(|limit| self.calls() >= limit) {
            return std::future::pending().await;
        }
        let strike = self.strike(&call);
        self.thaw(call.operator).await;
        let listener = self.0.listener.as_ref();
        if let (Some(tell), Some(strike)) = (listener, &strike) {
            tell(&call, &format!("is struck: {strike:?}"));
        }
        let result = match strike {
            None => service.oneshot(request).await,
            Some(Strike::Fault(fault)) => {
                // Nothing comes between: the next call that the server sees is this one.
                faults.add(Rule::next("*", fault));
                service.oneshot(request).await
            }
            Some(Strike::Blow(Blow::CrashBefore)) => {
                self.kill(call.operator);
                std::future::pending().await
            }
            Some(Strike::Blow(Blow::CrashAfter)) => {
                let _ = service.oneshot(request).await;
                self.kill(call.operator);
                std::future::pending().await
            }
            Some(Strike::Blow(Blow::ReplyLost)) => {
                let _ = service.oneshot(request).await;
                Err(Cut)
            }
        };
        if let Some(tell) = listener {
            match &result {
                Ok(response) => tell(&call, response.status().as_str()),
                Err(Cut) => tell(&call, "cut"),
            }
        }
        result
    }
}

//! The engine that all policies share, its clock, and the compiled components
//! that are kept. Knows nothing of what the policies decide.

use std::collections::VecDeque;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine};

use crate::sandbox::{self, Sandbox};
use crate::shape::{self, ParseProblem, Shape};
use crate::{Digest, Limits};

/// Between two ticks of the clock that ends calls past their deadline.
const TICK: Duration = Duration::from_millis(10);

/// How many ticks from now a call that starts now may take. One more than the
/// deadline has, because the first tick comes at any moment.
pub(crate) fn ticks(deadline: Duration) -> u64 {
    let ticks = deadline.as_millis().div_ceil(TICK.as_millis());
    u64::try_from(ticks).unwrap_or(u64::MAX / 2).saturating_add(1)
}

/// Why there can be no host at all.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The engine refuses its configuration: limits that contradict each other,
    /// or a platform that the compiler does not know.
    #[error("the WebAssembly engine cannot be set up with these limits")]
    Engine(#[source] wasmtime::Error),
    /// The thread of the clock could not be started.
    #[error("the thread for the policies' deadlines cannot be started")]
    Ticker(#[source] std::io::Error),
}

/// Checks and runs policies. Cheap to clone; all clones share one engine and
/// what it has compiled, so make one for the process.
///
/// Its methods block for as long as compiling takes (about 1.1 ms for each KiB):
/// call them where blocking is allowed.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    linker: Linker<Sandbox>,
    limits: Limits,
    kept: Mutex<VecDeque<(Digest, Slot)>>,
    /// Dropped with the last clone, which ends the ticker.
    _running: SyncSender<()>,
}

/// A component being compiled or compiled, with what was read of it before. The
/// lock is held while it is being compiled, so that whoever wants the same waits
/// instead of doing it again.
type Slot = Arc<Mutex<Option<(Shape, Component)>>>;

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("limits", &self.inner.limits).finish_non_exhaustive()
    }
}

impl Host {
    /// Sets up the engine and starts its clock, a thread that ends with the
    /// last clone of the host and the last of its policies.
    pub fn new(limits: Limits) -> Result<Self, HostError> {
        let engine = Engine::new(&config(&limits)).map_err(HostError::Engine)?;
        let linker = sandbox::linker(&engine).map_err(HostError::Engine)?;
        let running = start_ticker(&engine).map_err(HostError::Ticker)?;
        Ok(Self { inner: Arc::new(Inner { engine, linker, limits, kept: Mutex::default(), _running: running }) })
    }

    /// What each call may use up.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    pub(crate) fn linker(&self) -> &Linker<Sandbox> {
        &self.inner.linker
    }

    /// What these bytes are, read now or, if they were compiled since, before.
    pub(crate) fn shape(&self, digest: &Digest, bytes: &[u8]) -> Result<Shape, ParseProblem> {
        let kept = self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = kept.iter().find(|(known, _)| known == digest).map(|(_, slot)| Arc::clone(slot));
        drop(kept);
        let known = slot.and_then(|slot| {
            let slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            slot.as_ref().map(|(shape, _)| shape.clone())
        });
        known.map_or_else(|| shape::parse(bytes, &self.inner.limits), Ok)
    }

    /// The compiled component of these bytes, compiled now or before. The flag
    /// says whether it had been compiled before.
    pub(crate) fn compile(&self, digest: &Digest, shape: &Shape, bytes: &[u8]) -> wasmtime::Result<(Component, bool)> {
        let slot = self.slot(digest);
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, component)) = &*slot {
            return Ok((component.clone(), true));
        }
        // The bytes are a component by its header; wasmtime's `new` would also
        // take text, `from_binary` does not, and neither takes native code.
        let component = Component::from_binary(&self.inner.engine, bytes)?;
        *slot = Some((shape.clone(), component.clone()));
        Ok((component, false))
    }

    fn slot(&self, digest: &Digest) -> Slot {
        let mut kept = self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().position(|(known, _)| known == digest);
        let entry = found.and_then(|at| kept.remove(at)).unwrap_or_else(|| (digest.clone(), Slot::default()));
        let slot = Arc::clone(&entry.1);
        kept.push_front(entry);
        kept.truncate(self.inner.limits.kept_components.max(1));
        slot
    }
}

/// The engine's settings. What a policy computes must be the same on every
/// machine, and what it uses up must be bounded.
fn config(limits: &Limits) -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .max_wasm_stack(limits.stack_bytes);
    config
}

fn start_ticker(engine: &Engine) -> std::io::Result<SyncSender<()>> {
    let (running, ended) = sync_channel::<()>(0);
    let engine = engine.weak();
    thread::Builder::new().name("policy-ticker".to_owned()).spawn(move || {
        // Waits from tick to tick, so a thread that was held up skips what it
        // has missed instead of ending calls early.
        while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            let Some(engine) = engine.upgrade() else { return };
            engine.increment_epoch();
        }
    })?;
    Ok(running)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_latest_components_are_kept() {
        let host = Host::new(Limits { kept_components: 2, ..Limits::default() }).unwrap();
        let digests = ["a", "b", "c"].map(|text| Digest::of(text.as_bytes()));
        let [a, b, c] = digests.each_ref().map(|digest| host.slot(digest));
        assert!(Arc::ptr_eq(&host.slot(&digests[1]), &b));
        assert!(Arc::ptr_eq(&host.slot(&digests[2]), &c));
        assert!(!Arc::ptr_eq(&host.slot(&digests[0]), &a), "it was displaced by the two after it");
    }

    #[test]
    fn a_deadline_is_never_shorter_than_it_says() {
        assert_eq!(ticks(Duration::from_millis(10)), 2);
        assert_eq!(ticks(Duration::from_millis(11)), 3);
        assert_eq!(ticks(Duration::ZERO), 1);
        assert!(ticks(Duration::MAX) > 1 << 40);
    }

    #[test]
    fn the_clock_ends_with_the_last_host() {
        let host = Host::new(Limits::default()).unwrap();
        let engine = host.inner.engine.weak();
        drop(host.clone());
        assert!(engine.upgrade().is_some());
        drop(host);
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while engine.upgrade().is_some() {
            assert!(std::time::Instant::now() < deadline, "something still holds the engine");
            thread::yield_now();
        }
    }
}

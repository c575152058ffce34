//! One call in one fresh sandbox: limits set, instance made, function called,
//! everything dropped. The only place that touches a `Store`.

use std::sync::Arc;

use wasmtime::component::{
    ComponentExportIndex, ComponentNamedList, HasSelf, Instance, InstancePre, Lift, Linker, Lower, TypedFunc,
};
use wasmtime::{Engine, ResourceLimiter, Store, Trap};

use crate::check_answer::BadAnswer;
use crate::decision::{DecisionError, LogLine};
use crate::host::ticks;
use crate::text::{MESSAGE_CHARS, tidy};
use crate::wit::bindings::vmgroup::policy::{log, types};
use crate::wit::v0_1;
use crate::{Limits, wit};

/// What belongs to one sandbox, and ends with it.
pub(crate) struct Sandbox {
    plugin: Arc<str>,
    limits: Limits,
    memory: usize,
    tables: usize,
    denied: Option<DecisionError>,
    log: Vec<LogLine>,
    log_bytes: usize,
    said: Option<String>,
}

/// What a call gave and what it cost, whether it succeeded or not.
pub(crate) struct Ran<A> {
    pub(crate) outcome: Result<A, DecisionError>,
    pub(crate) fuel: u64,
    pub(crate) memory: usize,
    pub(crate) log: Vec<LogLine>,
}

/// Everything that a policy may import.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Sandbox>> {
    let mut linker = Linker::new(engine);
    log::add_to_linker::<_, HasSelf<_>>(&mut linker, |sandbox| sandbox)?;
    types::add_to_linker::<_, HasSelf<_>>(&mut linker, |sandbox| sandbox)?;
    v0_1::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// Makes an instance and lets `call` use it, under `limits`.
pub(crate) fn run<A>(
    pre: &InstancePre<Sandbox>,
    plugin: &Arc<str>,
    limits: &Limits,
    call: impl FnOnce(&mut Store<Sandbox>, &Instance) -> wasmtime::Result<A>,
) -> Ran<A> {
    let mut store = Store::new(
        pre.engine(),
        Sandbox {
            plugin: Arc::clone(plugin),
            limits: limits.clone(),
            memory: 0,
            tables: 0,
            denied: None,
            log: Vec::new(),
            log_bytes: 0,
            said: None,
        },
    );
    store.limiter(|sandbox| sandbox);
    store.set_hostcall_fuel(limits.output_bytes);
    store.set_epoch_deadline(ticks(limits.deadline));
    let result = store
        .set_fuel(limits.fuel)
        .and_then(|()| pre.instantiate(&mut store))
        .and_then(|instance| call(&mut store, &instance));
    let fuel = limits.fuel.saturating_sub(store.get_fuel().unwrap_or_default());
    let sandbox = store.into_data();
    Ran { outcome: result.map_err(|error| classify(&error, &sandbox)), fuel, memory: sandbox.memory, log: sandbox.log }
}

/// Looks a function up and calls it. Its signature is compared with the
/// contract's, type by type, before the call.
pub(crate) fn call<P, R>(
    store: &mut Store<Sandbox>,
    instance: &Instance,
    function: &ComponentExportIndex,
    arguments: P,
) -> wasmtime::Result<R>
where
    P: ComponentNamedList + Lower,
    R: ComponentNamedList + Lift,
{
    let function: TypedFunc<P, R> = instance.get_typed_func(&mut *store, function)?;
    function.call(store, arguments)
}

fn classify(error: &wasmtime::Error, sandbox: &Sandbox) -> DecisionError {
    // A denied growth is what the guest died of, whatever it made of it.
    if let Some(denied) = &sandbox.denied {
        return denied.clone();
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => DecisionError::OutOfFuel { budget: sandbox.limits.fuel },
        Some(Trap::Interrupt) => DecisionError::Deadline { limit: sandbox.limits.deadline },
        Some(
            trap @ (Trap::InvalidChar
            | Trap::StringOutOfBounds
            | Trap::ListOutOfBounds
            | Trap::InvalidDiscriminant
            | Trap::UnalignedPointer),
        ) => DecisionError::BadAnswer(BadAnswer::Unreadable { problem: trap.to_string() }),
        Some(trap) => DecisionError::Trap { trap: trap.to_string(), said: sandbox.said.clone() },
        None if is_too_large(error) => DecisionError::OutputTooLarge { limit: sandbox.limits.output_bytes },
        None => DecisionError::BadAnswer(BadAnswer::Unreadable {
            problem: tidy(&error.root_cause().to_string(), MESSAGE_CHARS),
        }),
    }
}

/// wasmtime 48 keeps the type of this error to itself, so its text has to do.
/// It only chooses the word in a condition; the answer is refused either way.
/// The test `an_answer_of_100_megabytes` notices if the text changes.
fn is_too_large(error: &wasmtime::Error) -> bool {
    error.root_cause().to_string().contains("fuel allocated for hostcalls has been exhausted")
}

impl ResourceLimiter for Sandbox {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let asked = self.memory.saturating_add(desired.saturating_sub(current));
        let limit = self.limits.memory_bytes;
        if asked > limit {
            return Err(self.deny("bytes of memory", asked, limit));
        }
        self.memory = asked;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let asked = self.tables.saturating_add(desired.saturating_sub(current));
        let limit = self.limits.table_elements;
        if asked > limit {
            return Err(self.deny("table elements", asked, limit));
        }
        self.tables = asked;
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.limits.instances
    }

    fn tables(&self) -> usize {
        self.limits.instances
    }

    fn memories(&self) -> usize {
        self.limits.instances
    }
}

impl Sandbox {
    fn deny(&mut self, what: &'static str, asked: usize, limit: usize) -> wasmtime::Error {
        let denied = DecisionError::Memory { what, asked, limit };
        self.denied = Some(denied.clone());
        wasmtime::Error::new(denied)
    }
}

impl types::Host for Sandbox {}

impl log::Host for Sandbox {
    fn log(&mut self, level: wit::log::Level, message: String) {
        use wit::log::Level;
        let message = tidy(&message, MESSAGE_CHARS);
        if level == Level::Error {
            self.said = Some(message.clone());
        }
        let bytes = self.log_bytes.saturating_add(message.len());
        if self.log.len() >= self.limits.log_lines || bytes > self.limits.log_bytes {
            return;
        }
        self.log_bytes = bytes;
        let plugin = &*self.plugin;
        match level {
            Level::Trace => tracing::trace!(target: "vmgroup_policy::log", plugin, "{message}"),
            Level::Debug => tracing::debug!(target: "vmgroup_policy::log", plugin, "{message}"),
            Level::Info => tracing::info!(target: "vmgroup_policy::log", plugin, "{message}"),
            Level::Warn => tracing::warn!(target: "vmgroup_policy::log", plugin, "{message}"),
            Level::Error => tracing::error!(target: "vmgroup_policy::log", plugin, "{message}"),
        }
        self.log.push(LogLine { level, message });
    }
}

//! A policy that has passed its checks: it can be asked.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::{ComponentExportIndex, Instance, InstancePre, Lift, Lower};

use crate::check_answer::{self, BadAnswer};
use crate::sandbox::{self, Ran, Sandbox};
use crate::text::{MESSAGE_CHARS, tidy};
use crate::wit::types::{Context, Refusal};
use crate::wit::v0_1::Older;
use crate::wit::{lifecycle, naming, placement, scaling};
use crate::{Answer, Contract, Decided, DecisionError, Digest, Host, Kind, Question, Tried};

/// A plugin with its configuration, checked and ready. Each question is
/// answered in a fresh sandbox; nothing is kept from one to the next.
pub struct Policy {
    pub(crate) plugin: Arc<str>,
    pub(crate) description: lifecycle::Description,
    pub(crate) digest: Digest,
    pub(crate) config: serde_json::Value,
    pub(crate) config_text: String,
    pub(crate) loaded: Loaded,
}

/// A component with its functions found, not yet described or configured.
pub(crate) struct Loaded {
    pub(crate) kind: Kind,
    pub(crate) contract: Contract,
    pub(crate) host: Host,
    pub(crate) pre: InstancePre<Sandbox>,
    pub(crate) answer: ComponentExportIndex,
    pub(crate) describe: ComponentExportIndex,
    pub(crate) validate_config: ComponentExportIndex,
}

impl Loaded {
    pub(crate) fn run<A>(
        &self,
        plugin: &Arc<str>,
        call: impl FnOnce(&mut Store<Sandbox>, &Instance) -> wasmtime::Result<A>,
    ) -> Ran<A> {
        sandbox::run(&self.pre, plugin, self.host.limits(), call)
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("kind", &self.loaded.kind)
            .field("plugin", &self.plugin)
            .field("digest", &self.digest)
            .field("config", &self.config_text)
            .finish_non_exhaustive()
    }
}

impl Policy {
    /// The question that it answers.
    pub const fn kind(&self) -> Kind {
        self.loaded.kind
    }

    /// The version of the contract that it was made for. Questions are put to it in
    /// that one's terms.
    pub const fn contract(&self) -> Contract {
        self.loaded.contract
    }

    /// The plugin's name as the policy file gives it.
    pub fn plugin(&self) -> &str {
        &self.plugin
    }

    /// What it says about itself (`lifecycle.describe`).
    pub const fn description(&self) -> &lifecycle::Description {
        &self.description
    }

    /// What identifies its code.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its configuration, an object.
    pub const fn config(&self) -> &serde_json::Value {
        &self.config
    }

    /// Its configuration as the JSON text that stands in `context.config` of
    /// each question it is asked.
    pub fn config_text(&self) -> &str {
        &self.config_text
    }

    /// Asks for names. `context.config` of the request is replaced by the
    /// policy's own configuration. Blocks for the length of the call.
    pub fn name(&self, request: &naming::Request) -> Result<Decided<naming::Answer>, DecisionError> {
        self.try_name(request).decided()
    }

    /// Asks for places. See [`name`](Self::name).
    pub fn place(&self, request: &placement::Request) -> Result<Decided<Vec<placement::Place>>, DecisionError> {
        self.try_place(request).decided()
    }

    /// Asks who leaves. See [`name`](Self::name).
    pub fn choose(&self, request: &scaling::Request) -> Result<Decided<Vec<scaling::Victim>>, DecisionError> {
        self.try_choose(request).decided()
    }

    /// Asks a question of any kind, and tells what it cost even if there is no
    /// answer. See [`name`](Self::name).
    pub fn answer(&self, question: &Question) -> Tried<Answer> {
        match question {
            Question::Naming(request) => self.try_name(request).map(Answer::Naming),
            Question::Placement(request) => self.try_place(request).map(Answer::Placement),
            Question::Scaling(request) => self.try_choose(request).map(Answer::Scaling),
        }
    }

    fn try_name(&self, request: &naming::Request) -> Tried<naming::Answer> {
        let mut request = Cow::Borrowed(request);
        if self.needs_config(&request.context) {
            request.to_mut().context.config.clone_from(&self.config_text);
        }
        self.ask(Kind::Naming, &*request, check_answer::naming)
    }

    fn try_place(&self, request: &placement::Request) -> Tried<Vec<placement::Place>> {
        let mut request = Cow::Borrowed(request);
        if self.needs_config(&request.context) {
            request.to_mut().context.config.clone_from(&self.config_text);
        }
        self.ask(Kind::Placement, &*request, check_answer::placement)
    }

    fn try_choose(&self, request: &scaling::Request) -> Tried<Vec<scaling::Victim>> {
        let mut request = Cow::Borrowed(request);
        if self.needs_config(&request.context) {
            request.to_mut().context.config.clone_from(&self.config_text);
        }
        self.ask(Kind::Scaling, &*request, check_answer::scaling)
    }

    fn is(&self, asked: Kind) -> Result<(), DecisionError> {
        if self.loaded.kind == asked {
            return Ok(());
        }
        Err(DecisionError::Host(format!("{} is in force for {}, not for {asked}", self.plugin, self.loaded.kind)))
    }

    fn needs_config(&self, context: &Context) -> bool {
        context.config != self.config_text
    }

    fn ask<Q, A>(&self, asked: Kind, request: &Q, check: impl FnOnce(&Q, A) -> Result<A, BadAnswer>) -> Tried<A>
    where
        Q: Older,
        for<'a> &'a Q: Lower,
        for<'a> &'a Q::V0_1: Lower,
        A: Lift + 'static,
    {
        if let Err(error) = self.is(asked) {
            return Tried { outcome: Err(error), fuel: 0, memory: 0, log: Vec::new() };
        }
        let Ran { outcome, fuel, memory, log } = self.loaded.run(&self.plugin, |store, instance| {
            let function = &self.loaded.answer;
            let (answer,): (Result<A, Refusal>,) = match self.loaded.contract {
                Contract::V0_2 => sandbox::call(store, instance, function, (request,))?,
                Contract::V0_1 => sandbox::call(store, instance, function, (&request.in_0_1(),))?,
            };
            Ok(answer)
        });
        let outcome = outcome
            .and_then(|answer| answer.map_err(|refusal| DecisionError::Refused(tidy_refusal(refusal))))
            .and_then(|answer| check(request, answer).map_err(DecisionError::BadAnswer));
        Tried { outcome, fuel, memory, log }
    }
}

fn tidy_refusal(refusal: Refusal) -> Refusal {
    let tidied = |text: String| tidy(&text, MESSAGE_CHARS);
    match refusal {
        Refusal::Unsatisfiable(text) => Refusal::Unsatisfiable(tidied(text)),
        Refusal::NotNow(text) => Refusal::NotNow(tidied(text)),
        Refusal::Config(text) => Refusal::Config(tidied(text)),
        Refusal::Other(text) => Refusal::Other(tidied(text)),
    }
}

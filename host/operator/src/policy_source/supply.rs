//! What the book needs beyond the content that it is offered: plugins that a policy
//! file names by reference, from their registries, and the keys by which plugins
//! have to be signed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use vmgroup_api::PolicyFile;
use vmgroup_policy::signature::Keys;
use vmgroup_policy::{CheckError, Checked, Host, Kind, Source};
use vmgroup_registry::{Again, Reference, Registry, SCHEME};

use super::PolicyFiles;
use crate::clock::Clock;
use crate::link::chain;

/// What follows a plugin's name in that of its signature.
pub const SIGNATURE_SUFFIX: &str = ".sig";

/// The annotation of an artifact's manifest that has its signature, in base64.
pub const SIGNATURE_ANNOTATION: &str = "com.codeconnect.vmworld.vm.signature";

/// All plugins of one policy file have to be there within this.
const WITHIN: Duration = Duration::from_secs(120);

/// The same as long as nothing is in force yet that somebody chose: who waits for
/// it serves nobody.
const WITHIN_AT_START: Duration = Duration::from_secs(15);

/// Registries that are asked at the same time.
const AT_ONCE: usize = 4;

/// What the book needs beyond what it is offered. The default has no registries and
/// takes plugins without a signature.
#[derive(Clone, Default)]
pub struct Supply {
    /// Where references are pulled from. For the administrator's policy file alone:
    /// whoever it names is asked from inside the cluster, under the operator's logins.
    pub registries: Option<Registries>,
    /// One of these has to have signed a plugin that is not shipped.
    pub keys: Option<Arc<Keys>>,
}

/// Registries, and the clock for what is kept of them.
#[derive(Clone)]
pub struct Registries {
    /// The client.
    pub registry: Registry,
    /// What was used last stays longest in its cache.
    pub clock: Clock,
}

/// Why a plugin that the policy file names by reference is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// What is wrong.
    pub message: String,
    /// What to do, in one sentence.
    pub remedy: String,
    /// Whether it may be there later.
    pub again: Again,
}

impl Supply {
    /// Adds the plugins that the policy file names by reference and that are not
    /// there yet. Those that cannot be had are noted as absent.
    pub(super) async fn complete(&self, files: &mut PolicyFiles, at_start: bool) {
        files.absent.clear();
        let Some(registries) = &self.registries else { return };
        let pulls = files.wanted().into_iter().map(|name| async move {
            let pulled = registries.pull(&name).await;
            (name, pulled)
        });
        let within = if at_start { WITHIN_AT_START } else { WITHIN };
        let mut pulls = std::pin::pin!(stream::iter(pulls).buffer_unordered(AT_ONCE));
        let deadline = tokio::time::sleep(within);
        let mut deadline = std::pin::pin!(deadline);
        loop {
            let (name, pulled) = tokio::select! {
                next = pulls.next() => match next {
                    Some(pulled) => pulled,
                    None => return,
                },
                () = &mut deadline => break,
            };
            match pulled {
                Ok((wasm, signature)) => {
                    if let Some(signature) = signature {
                        files.binaries.insert(format!("{name}{SIGNATURE_SUFFIX}"), signature);
                    }
                    files.binaries.insert(name, wasm);
                }
                Err(absent) => {
                    files.absent.insert(name, absent);
                }
            }
        }
        for name in files.wanted() {
            files.absent.entry(name).or_insert_with(|| Absent {
                message: format!("it is not here after {} s; it is still asked for", within.as_secs()),
                remedy: "Look whether the registry is well and can be reached from here.".to_owned(),
                again: Again::Soon,
            });
        }
    }
}

impl Registries {
    /// A plugin, and its signature if it has one.
    async fn pull(&self, name: &str) -> Result<(Bytes, Option<Bytes>), Absent> {
        let reference: Reference = name.parse().map_err(|error: vmgroup_registry::ReferenceError| Absent {
            message: error.to_string(),
            remedy: "Correct the reference; `vmgroup policy push` prints one that can be pasted.".to_owned(),
            again: Again::Never,
        })?;
        let now = SystemTime::UNIX_EPOCH + self.clock.since_epoch();
        let pulled = self.registry.pull(&reference, now).await.map_err(|error| {
            let (again, remedy) = (error.again(), error.remedy());
            let remedy = match again {
                Again::Soon | Again::Later => format!("{remedy} It is tried again by itself."),
                Again::Never => remedy.to_owned(),
            };
            Absent { message: chain(&error), remedy, again }
        })?;
        // One that is no base64 is nobody's signature, as the check will say.
        let decode = |text: &String| Bytes::from(BASE64_STANDARD.decode(text.trim()).unwrap_or_default());
        Ok((pulled.wasm, pulled.annotations.get(SIGNATURE_ANNOTATION).map(decode)))
    }
}

impl PolicyFiles {
    /// The references in the policy file whose plugins are not there.
    pub(super) fn wanted(&self) -> BTreeSet<String> {
        let file = self.policy_yaml.as_deref().and_then(|text| PolicyFile::parse(text).ok()).unwrap_or_default();
        let named = file.plugins().filter(|plugin| plugin.starts_with(SCHEME) && !self.binaries.contains_key(*plugin));
        named.map(str::to_owned).collect()
    }

    /// When to try again to get what is absent, if that may help.
    pub(super) fn again(&self) -> Option<Again> {
        let tries = self.absent.values().map(|absent| absent.again);
        let worth = tries.filter(|again| *again != Again::Never);
        worth.reduce(|one, other| if one == Again::Soon { one } else { other })
    }

    /// Takes over what was pulled for others: the reference says what it is.
    pub(super) fn take_from(&mut self, others: &Self) {
        for name in self.wanted() {
            let signature = format!("{name}{SIGNATURE_SUFFIX}");
            for name in [name, signature] {
                if let Some(bytes) = others.binaries.get(&name) {
                    self.binaries.insert(name, bytes.clone());
                }
            }
        }
    }
}

/// The host with the keys: a plugin's way through all stages.
#[derive(Clone)]
pub(super) struct Checker {
    pub(super) host: Host,
    pub(super) keys: Option<Arc<Keys>>,
}

impl Checker {
    /// Checks a plugin of these files, or a shipped one. Takes a core for as long as
    /// compiling takes.
    pub(super) fn check(&self, kind: Kind, source: &Source, files: &PolicyFiles) -> Result<Checked, CheckError> {
        let Self { host, keys } = self;
        // Those inside the binary came with whoever verifies.
        if let Some(keys) = keys.as_ref().filter(|_| files.binaries.contains_key(&source.name)) {
            let signature = files.binaries.get(&format!("{}{SIGNATURE_SUFFIX}", source.name));
            host.verify(kind, source, signature.map(AsRef::as_ref), keys)?;
        }
        host.check(kind, source)
    }
}

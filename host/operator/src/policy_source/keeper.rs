//! Keeps the policies in force in a ConfigMap beside the policy ConfigMap, and
//! recalls them at the start: a broken edit must not meet an operator that has
//! nothing to go back to. Only who leads writes. A namespace that brings policies of
//! its own has one of its own, in that namespace, which goes with its policy ConfigMap.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::PolicyBook;
use super::kept::{Kept, KeptError, Stored};
use crate::last_good::{LastGood, Tries, after};
use crate::lease::Fence;
use crate::link::chain;
use crate::status::StatusError;

#[derive(Debug, thiserror::Error)]
enum KeeperError {
    #[error(transparent)]
    Api(#[from] StatusError),
    #[error(transparent)]
    Kept(#[from] KeptError),
}

impl KeeperError {
    /// It will be the same in a second.
    fn lasting(&self) -> bool {
        match self {
            Self::Kept(_) => true,
            Self::Api(error) => error.is_lasting(),
        }
    }
}

/// Reads and writes the ConfigMap `<policy ConfigMap>-last-good`.
pub struct Keeper {
    last_good: LastGood,
    book: PolicyBook,
    fence: Fence,
    /// Name and uid of the policy ConfigMap, if it is kept for that one alone.
    owner: Option<(String, String)>,
    /// As it is there.
    stored: Option<Stored>,
}

impl Keeper {
    /// Of the book that the ConfigMap `policy_config_map` of that namespace feeds.
    pub fn new(client: kube::Client, namespace: &str, policy_config_map: &str, book: PolicyBook, fence: Fence) -> Self {
        let last_good = LastGood::beside(client, namespace, policy_config_map);
        Self { last_good, book, fence, owner: None, stored: None }
    }

    /// The same for the policy ConfigMap of this uid: when it is deleted, what was kept
    /// is deleted with it, and of another one of its name nothing is known.
    #[must_use]
    pub(super) fn that_goes_with(mut self, policy_config_map: &str, uid: String) -> Self {
        self.owner = Some((policy_config_map.to_owned(), uid));
        self
    }

    /// Tells the book what was in force before this process. To be called, and to
    /// end, before the book gets its first offer. Waits for the API server, until
    /// `stop`; what it refuses to give, or cannot be read, is not there.
    pub async fn recall(&mut self, stop: &CancellationToken) {
        let mut tries = Tries::default();
        loop {
            match self.load().await {
                Ok(kept) => return self.book.recall(self.book.completed(kept).await),
                Err(error) if error.lasting() => {
                    tracing::warn!(name = self.last_good.name(), error = %chain(&error), "what was in force before cannot be recalled");
                    return;
                }
                Err(error) => {
                    tracing::warn!(name = self.last_good.name(), error = %chain(&error), "what was in force before cannot be read yet");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(tries.failed(false)) => {}
                    }
                }
            }
        }
    }

    async fn load(&mut self) -> Result<Kept, KeeperError> {
        let stored = self.last_good.read().await?.map(Stored::of).unwrap_or_default();
        let stored = self.stored.insert(stored);
        match &self.owner {
            Some((_, uid)) if stored.owner.as_ref() != Some(uid) => Ok(Kept::default()),
            _ => Ok(stored.read()?),
        }
    }

    /// Keeps what is in force as it changes, while we lead, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let (mut changes, mut leading) = (self.book.changes(), self.fence.changed());
        let mut settled = self.book.settled();
        let (mut led, mut tries) = (false, Tries::default());
        loop {
            changes.mark_unchanged();
            leading.mark_unchanged();
            settled.mark_unchanged();
            let pause = match self.keep(&mut led).await {
                Ok(()) => {
                    tries.worked();
                    None
                }
                Err(error) => {
                    tracing::warn!(name = self.last_good.name(), error = %chain(&error), "the policies in force cannot be kept over a restart");
                    Some(tries.failed(error.lasting()))
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                told = changes.changed() => if told.is_err() { return },
                told = leading.changed() => if told.is_err() { return },
                Ok(()) = settled.changed() => {}
                () = after(pause) => {}
            }
        }
    }

    async fn keep(&mut self, led: &mut bool) -> Result<(), KeeperError> {
        if !self.fence.holds() {
            *led = false;
            return Ok(());
        }
        if !*led {
            // Somebody else may have led, and kept something, since we looked.
            let kept = match self.load().await {
                Ok(kept) => kept,
                // What nobody can read is written anew.
                Err(KeeperError::Kept(_)) => Kept::default(),
                Err(error) => return Err(error),
            };
            self.book.learn(&self.book.completed(kept).await).await;
            *led = true;
        }
        let Some(kept) = self.book.keepsake() else { return Ok(()) };
        let nothing = Stored::default();
        let there = self.stored.as_ref().unwrap_or(&nothing);
        let builtin = kept.in_force.as_ref().is_none_or(|content| content.data.is_none());
        // Nothing was ever chosen: no need to remember that.
        if builtin && kept.rolled_back.is_none() && there.data.is_empty() {
            return Ok(());
        }
        let stored = Stored { owner: self.owner.as_ref().map(|(_, uid)| uid.clone()), ..Stored::form(&kept)? };
        if *there == stored || !self.fence.holds() {
            return Ok(());
        }
        let mut patch = json!({ "data": stored.data, "binaryData": stored.binary });
        if let Some((name, uid)) = &self.owner {
            patch["metadata"]["ownerReferences"] =
                json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid }]);
        }
        self.last_good.write(patch).await?;
        self.stored = Some(stored);
        Ok(())
    }
}

//! What is in force, and how it is exchanged: all at once, while others read.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{Kind, Policy};

/// One policy for each question.
#[derive(Clone, Debug)]
pub struct PolicySet {
    /// What a new virtual machine is called.
    pub naming: Arc<Policy>,
    /// Where it goes.
    pub placement: Arc<Policy>,
    /// Who leaves.
    pub scaling: Arc<Policy>,
}

impl PolicySet {
    /// The policy for this question.
    pub const fn get(&self, kind: Kind) -> &Arc<Policy> {
        match kind {
            Kind::Naming => &self.naming,
            Kind::Placement => &self.placement,
            Kind::Scaling => &self.scaling,
        }
    }

    /// Puts a policy in the place of its kind. Gives back who was there.
    pub fn replace(&mut self, policy: Arc<Policy>) -> Arc<Policy> {
        let place = match policy.kind() {
            Kind::Naming => &mut self.naming,
            Kind::Placement => &mut self.placement,
            Kind::Scaling => &mut self.scaling,
        };
        std::mem::replace(place, policy)
    }
}

/// The set that decides now. A pass loads it once and keeps what it got to its
/// end, so that no decision mixes two sets.
#[derive(Debug)]
pub struct InForce(ArcSwap<PolicySet>);

impl InForce {
    /// Puts a first set into force.
    pub fn new(set: PolicySet) -> Self {
        Self(ArcSwap::from_pointee(set))
    }

    /// The set in force at this moment.
    pub fn load(&self) -> Arc<PolicySet> {
        self.0.load_full()
    }

    /// Puts another set into force, at once and whole. Gives back the former.
    pub fn swap(&self, set: PolicySet) -> Arc<PolicySet> {
        self.0.swap(Arc::new(set))
    }
}

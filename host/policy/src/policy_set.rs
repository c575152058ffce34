//! The policies that decide together, one of each kind.

use std::sync::Arc;

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

//! What the tests of the policy host have in common.

use vmgroup_policy::wit::types::{Context, Group, Purpose};

/// The context of a question about three members of `shop/web`.
pub fn context(purpose: Purpose, seed: u64, attempt: u32) -> Context {
    Context {
        now: 1_800_000_000,
        seed,
        attempt,
        purpose,
        config: String::new(),
        group: Group {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u".into(),
            labels: Vec::new(),
            template: "t".into(),
            cpus: 1,
            memory_mib: 1024,
            replicas: 3,
            attributes: Vec::new(),
        },
    }
}

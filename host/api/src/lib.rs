//! The operator's interface to its users: `VmGroup` with its status and
//! conditions, and the schemas of the policy file and of the connections file.
//!
//! Plain data with serde and schemars. Must not do I/O, and must not know
//! vSphere, WebAssembly or how a group is reconciled.

pub mod change;
pub mod condition;
pub mod connections_file;
pub mod policy_file;
pub mod readiness;
pub mod vmgroup;

pub use change::{RollingUpdate, UpdateStrategy, UpdateType};
pub use policy_file::{OnFailure, PolicyEntry, PolicyFile, PolicyFileError, ShadowEntry};
pub use readiness::{Readiness, ReadinessType};
pub use vmgroup::{
    CloneMode, ConnectionStatus, DataSource, DatacenterStatus, DeletionPolicy, DiskSpec, Evacuation, FolderStatus,
    GuestSpec, KeyRef, MemberState, MemberStatus, Phase, PolicyInForce, PolicyStatus, RolloutStatus, TagSpec,
    TargetSpec, VmGroup, VmGroupSpec, VmGroupStatus,
};

/// The finalizer that keeps a `VmGroup` until its virtual machines are gone.
pub const FINALIZER: &str = "vm.codeconnect.vmworld.com/vm-operator";

/// The finalizer of the original operator. Never added; removed with ours, so
/// that a group made under the original can go.
pub const LEGACY_FINALIZER: &str = "vm-operator";

/// Instance UUIDs, with commas between them, of machines that `vmgroup adopt` is
/// about to give to the group. Until they are members nobody is made in their
/// place, and nobody leaves.
pub const ADOPTING_ANNOTATION: &str = "vm.codeconnect.vmworld.com/adopting";

/// With `true` on a group, nobody leaves for a smaller `spec.replicas`.
pub const HOLD_SCALE_IN_ANNOTATION: &str = "vm.codeconnect.vmworld.com/hold-scale-in";

/// Names or instance UUIDs, with commas between them, of members that no scale-in
/// may remove. A machine whose `extraConfig` has `vmgroup.attr.protected` = `true`
/// is protected too.
pub const PROTECTED_MEMBERS_ANNOTATION: &str = "vm.codeconnect.vmworld.com/protected-members";

/// The way out of a deletion, as [`Orphan`] has it.
pub const ORPHAN_ANNOTATION: &str = "vmgroup.codeconnect.vmworld.com/orphan";

/// What [`ORPHAN_ANNOTATION`] may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphan {
    /// `true`: the members of a group that is being deleted are released, not destroyed.
    Release,
    /// `unreachable`: as well; and while vCenter cannot be reached the group goes
    /// without that, its members left as they are.
    Abandon,
}

impl Orphan {
    /// Parses the annotation's value. Whatever else it says counts as `true`: in doubt
    /// nothing is destroyed.
    pub fn parse(value: &str) -> Option<Self> {
        match value.trim() {
            "" | "false" => None,
            "unreachable" => Some(Self::Abandon),
            _ => Some(Self::Release),
        }
    }
}

/// A text, such as a time, that `vmgroup restart` writes: each member that has not
/// been started since it was written is restarted. Another text is another restart.
pub const RESTARTED_AT_ANNOTATION: &str = "vm.codeconnect.vmworld.com/restartedAt";

/// Annotations under this prefix reach the policies as attributes of the group.
pub const POLICY_ANNOTATION_PREFIX: &str = "policy.vmgroup.codeconnect.vmworld.com/";

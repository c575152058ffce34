//! The operator's interface to its users: `VmGroup` with its status and
//! conditions, and the schema of the policy file.
//!
//! Plain data with serde and schemars. Must not do I/O, and must not know
//! vSphere, WebAssembly or how a group is reconciled.

pub mod condition;
pub mod policy_file;
pub mod vmgroup;

pub use policy_file::{OnFailure, PolicyEntry, PolicyFile, PolicyFileError, ShadowEntry};
pub use vmgroup::{
    FolderStatus, MemberState, MemberStatus, Phase, PolicyInForce, PolicyStatus, VmGroup, VmGroupSpec, VmGroupStatus,
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

/// Annotations under this prefix reach the policies as attributes of the group.
pub const POLICY_ANNOTATION_PREFIX: &str = "policy.vmgroup.codeconnect.vmworld.com/";

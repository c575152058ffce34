//! Who may do what: one account everything but what the settings take from it, on
//! every object; the others may look. Privileges are the vendor's, by method.

use super::entity::{Kind, Moref};
use super::methods::{Answer, Call, returned};
use super::soap::VimFault;
use super::value::{Val, text};
use super::world::State;

/// Of the role "read-only".
const OF_READERS: [&str; 3] = ["System.Anonymous", "System.Read", "System.View"];

/// What there is to be had beside that, as far as a method here could take it.
const OF_WRITERS: [&str; 30] = [
    "Datastore.AllocateSpace",
    "Folder.Create",
    "Folder.Delete",
    "Global.SetCustomField",
    "Host.Config.Maintenance",
    "InventoryService.Tagging.AttachTag",
    "InventoryService.Tagging.ObjectAttachable",
    "Network.Assign",
    "Resource.AssignVMToPool",
    "Sessions.TerminateSession",
    "VirtualMachine.Config.AddNewDisk",
    "VirtualMachine.Config.AddRemoveDevice",
    "VirtualMachine.Config.AdvancedConfig",
    "VirtualMachine.Config.CPUCount",
    "VirtualMachine.Config.EditDevice",
    "VirtualMachine.Config.Memory",
    "VirtualMachine.Config.Rename",
    "VirtualMachine.Config.Settings",
    "VirtualMachine.Interact.PowerOff",
    "VirtualMachine.Interact.PowerOn",
    "VirtualMachine.Interact.Reset",
    "VirtualMachine.Inventory.Create",
    "VirtualMachine.Inventory.CreateFromExisting",
    "VirtualMachine.Inventory.Delete",
    "VirtualMachine.Inventory.Move",
    "VirtualMachine.Provisioning.Clone",
    "VirtualMachine.Provisioning.Customize",
    "VirtualMachine.Provisioning.DeployTemplate",
    "VirtualMachine.Provisioning.MarkAsTemplate",
    "VirtualMachine.Provisioning.ReadCustSpecs",
];

/// What a call takes, on whatever object it names.
fn needed(call: &Call<'_>) -> Vec<&'static str> {
    let says = |path: &[&str]| {
        let found = path.iter().try_fold(call.node, |node, name| node.child(name));
        found.is_some()
    };
    match (call.node.name.as_str(), call.this.kind) {
        ("CreateFolder", _) => vec!["Folder.Create"],
        ("Destroy_Task", Kind::Folder) => vec!["Folder.Delete"],
        ("Destroy_Task", Kind::VirtualMachine) => vec!["VirtualMachine.Inventory.Delete"],
        ("MoveIntoFolder_Task", _) => vec!["VirtualMachine.Inventory.Move"],
        ("EnterMaintenanceMode_Task" | "ExitMaintenanceMode_Task", _) => vec!["Host.Config.Maintenance"],
        ("PowerOnVM_Task", _) => vec!["VirtualMachine.Interact.PowerOn"],
        ("PowerOffVM_Task" | "ShutdownGuest", _) => vec!["VirtualMachine.Interact.PowerOff"],
        ("CloneVM_Task", _) => {
            let mut all = vec![
                "VirtualMachine.Provisioning.DeployTemplate",
                "VirtualMachine.Inventory.CreateFromExisting",
                "Resource.AssignVMToPool",
                "Datastore.AllocateSpace",
            ];
            all.extend(configured(|field| says(&["spec", "config", field])));
            all
        }
        ("SetField", _) => vec!["Global.SetCustomField"],
        ("ReconfigVM_Task", _) => configured(|field| says(&["spec", field])),
        _ => Vec::new(),
    }
}

/// What the fields of a `VirtualMachineConfigSpec` take.
fn configured(says: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let fields = [
        ("numCPUs", "VirtualMachine.Config.CPUCount"),
        ("memoryMB", "VirtualMachine.Config.Memory"),
        ("extraConfig", "VirtualMachine.Config.AdvancedConfig"),
    ];
    fields.into_iter().filter(|(field, _)| says(field)).map(|(_, privilege)| privilege).collect()
}

/// Refuses a call for which a privilege is missing.
pub(super) fn check(state: &State, call: &Call<'_>) -> Result<(), VimFault> {
    let missing = &state.config.missing_privileges;
    match needed(call).into_iter().find(|privilege| missing.contains(*privilege)) {
        Some(privilege) => Err(VimFault::no_permission(call.this, privilege)),
        None => Ok(()),
    }
}

/// `FetchUserPrivilegeOnEntities`.
pub(super) fn fetch(state: &State, call: &Call<'_>) -> Answer {
    let user = call.text("userName")?;
    let mut privileges: Vec<&str> = Vec::new();
    let writes = user == state.config.user;
    if writes || state.config.readers.contains_key(user) {
        privileges.extend(OF_READERS);
    }
    if writes {
        privileges.extend(OF_WRITERS);
    }
    privileges.retain(|privilege| !state.config.missing_privileges.contains(*privilege));
    privileges.retain(|privilege| state.config.session_privilege || *privilege != "Sessions.TerminateSession");
    let one = |entity: Moref| {
        let all = privileges.iter().map(|privilege| text((*privilege).to_owned())).collect();
        Val::Struct("UserPrivilegeResult", vec![("entity", Val::Ref(entity)), ("privileges", Val::List("string", all))])
    };
    let entities: Vec<Moref> = call.morefs("entities")?;
    for entity in &entities {
        call.existing(state, *entity)?;
    }
    Ok(returned(&Val::List("UserPrivilegeResult", entities.into_iter().map(one).collect())))
}

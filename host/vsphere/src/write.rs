//! What changes vCenter. Each call is sent once; whether a failed one may have
//! taken effect says [`Error::outcome_unknown`](crate::Error::outcome_unknown).

use crate::client::{Purpose, This, Vcenter};
use crate::error::Error;
use crate::hardware::{Customization, Hardware};
use crate::model::escape_name;
use crate::refs::{DatastoreRef, FolderRef, HostRef, ManagedObjectRef, PoolRef, SnapshotRef, TaskRef, VmRef};
use crate::soap::reference_of;
use crate::xml::{Element, Writer};
use vmgroup_wire::Password;

/// What `ReconfigVM_Task` shall change; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconfiguration {
    /// Virtual CPUs.
    pub cpus: Option<u32>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// `extraConfig` entries, key and value: these are set, those with an empty value
    /// removed, and the others stay.
    pub extra: Vec<(String, String)>,
}

impl Reconfiguration {
    /// Children follow the XSD's sequence.
    fn write(&self, writer: &mut Writer) {
        writer.node("spec", |w| {
            if let Some(cpus) = self.cpus {
                w.value("numCPUs", cpus);
            }
            if let Some(memory_mib) = self.memory_mib {
                w.value("memoryMB", memory_mib);
            }
            write_extra(w, self.extra.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        });
    }
}

/// What `CloneVM_Task` shall make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneSpec {
    /// What is cloned: a template, or any machine.
    pub template: VmRef,
    /// Where in the inventory the clone goes.
    pub folder: FolderRef,
    /// Its name, unescaped.
    pub name: String,
    /// Its resource pool: mandatory when the source is a template.
    pub pool: PoolRef,
    /// Its datastore; the template's if none.
    pub datastore: Option<DatastoreRef>,
    /// The source's snapshot that its disks begin with, storing what differs; a full
    /// copy if none.
    pub linked_to: Option<SnapshotRef>,
    /// Its host; vCenter chooses if none.
    pub host: Option<HostRef>,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Its instance UUID. vCenter does not promise to refuse one that is taken.
    pub instance_uuid: String,
    /// `extraConfig` entries, key and value.
    pub extra: Vec<(String, String)>,
    /// The same with values that must not be printed.
    pub guest: Vec<(String, Password)>,
    /// Hardware that the source has not, or has differently.
    pub hardware: Hardware,
    /// What vCenter does to the guest at its first start.
    pub customization: Option<Customization>,
    /// Whether vCenter powers it on, as a second task that nobody can follow.
    pub power_on: bool,
}

impl CloneSpec {
    /// Children follow the XSD's sequence; vCenter insists on it.
    fn write(&self, writer: &mut Writer) {
        writer.reference("folder", "Folder", self.folder.as_str());
        writer.text("name", &escape_name(&self.name));
        writer.node("spec", |w| {
            w.node("location", |w| {
                if let Some(datastore) = &self.datastore {
                    w.reference("datastore", "Datastore", datastore.as_str());
                }
                if self.linked_to.is_some() {
                    w.text("diskMoveType", "createNewChildDiskBacking");
                }
                w.reference("pool", "ResourcePool", self.pool.as_str());
                if let Some(host) = &self.host {
                    w.reference("host", "HostSystem", host.as_str());
                }
            });
            w.value("template", false);
            w.node("config", |w| {
                w.text("instanceUuid", &self.instance_uuid);
                w.value("numCPUs", self.cpus);
                w.value("memoryMB", self.memory_mib);
                self.hardware.write(w);
                write_extra(w, self.extra.iter().map(|(key, value)| (key.as_str(), value.as_str())));
                write_extra(w, self.guest.iter().map(|(key, value)| (key.as_str(), value.expose())));
            });
            if let Some(customization) = &self.customization {
                customization.write(w);
            }
            w.value("powerOn", self.power_on);
            if let Some(snapshot) = &self.linked_to {
                w.reference("snapshot", "VirtualMachineSnapshot", snapshot.as_str());
            }
        });
    }
}

fn write_extra<'e>(writer: &mut Writer, extra: impl Iterator<Item = (&'e str, &'e str)>) {
    for (key, value) in extra {
        writer.typed("extraConfig", "OptionValue", |w| {
            w.text("key", key);
            w.xsd_string("value", value);
        });
    }
}

impl Vcenter {
    /// `Folder.CreateFolder`. A taken name is the fault `DuplicateName`, with
    /// the one who has it.
    pub async fn create_folder(&self, parent: &FolderRef, name: &str) -> Result<FolderRef, Error> {
        let method = "CreateFolder";
        let this = This::Object(parent.managed_object());
        let answer = self
            .call(Purpose::Write, method, this, |w| {
                w.text("name", &escape_name(name));
            })
            .await?;
        Ok(FolderRef::new(returned(method, &answer)?.id))
    }

    /// `VirtualMachine.CloneVM_Task`. The task's result is the new machine.
    pub async fn clone_vm(&self, spec: &CloneSpec) -> Result<TaskRef, Error> {
        self.start("CloneVM_Task", spec.template.managed_object(), |w| {
            spec.write(w);
        })
        .await
    }

    /// `VirtualMachine.PowerOnVM_Task`. On a running machine the task fails with
    /// `InvalidPowerState`.
    pub async fn power_on(&self, vm: &VmRef) -> Result<TaskRef, Error> {
        self.start("PowerOnVM_Task", vm.managed_object(), |_| {}).await
    }

    /// `VirtualMachine.PowerOffVM_Task`, the hard way. On a machine that is off
    /// the task fails with `InvalidPowerState`.
    pub async fn power_off(&self, vm: &VmRef) -> Result<TaskRef, Error> {
        self.start("PowerOffVM_Task", vm.managed_object(), |_| {}).await
    }

    /// `VirtualMachine.ShutdownGuest`: asks the guest to shut down, and does not wait
    /// for it. There is no task: that it has obeyed shows in the power state. Without
    /// running VMware Tools it is refused with `ToolsUnavailable`.
    pub async fn shut_down_guest(&self, vm: &VmRef) -> Result<(), Error> {
        self.call(Purpose::Write, "ShutdownGuest", This::Object(vm.managed_object()), |_| {}).await.map(drop)
    }

    /// `VirtualMachine.ReconfigVM_Task` for `extraConfig` alone: sets these
    /// entries, and removes those with an empty value. The others stay.
    pub async fn set_extra(&self, vm: &VmRef, extra: &[(String, String)]) -> Result<TaskRef, Error> {
        self.reconfigure(vm, &Reconfiguration { extra: extra.to_vec(), ..Reconfiguration::default() }).await
    }

    /// `VirtualMachine.ReconfigVM_Task`. A running machine takes more CPUs or memory
    /// only where it is set up for hot-add, and fails the task with
    /// [`FaultKind::HotPlugNotSupported`](crate::FaultKind::HotPlugNotSupported) where not.
    pub async fn reconfigure(&self, vm: &VmRef, change: &Reconfiguration) -> Result<TaskRef, Error> {
        self.start("ReconfigVM_Task", vm.managed_object(), |w| change.write(w)).await
    }

    /// `Folder.MoveIntoFolder_Task`: moves machines into a folder. A name that is
    /// taken there fails the task with `DuplicateName`.
    pub async fn move_into_folder(&self, folder: &FolderRef, vms: &[VmRef]) -> Result<TaskRef, Error> {
        self.start("MoveIntoFolder_Task", folder.managed_object(), |w| {
            for vm in vms {
                w.reference("list", "VirtualMachine", vm.as_str());
            }
        })
        .await
    }

    /// `ManagedEntity.Destroy_Task`: deletes the machine from disk. It has to be
    /// powered off.
    pub async fn destroy_vm(&self, vm: &VmRef) -> Result<TaskRef, Error> {
        self.start("Destroy_Task", vm.managed_object(), |_| {}).await
    }

    /// `ManagedEntity.Destroy_Task` on a folder. vCenter deletes **everything in
    /// it, from disk**: list it first, and call this on an empty one only.
    pub async fn destroy_folder(&self, folder: &FolderRef) -> Result<TaskRef, Error> {
        self.start("Destroy_Task", folder.managed_object(), |_| {}).await
    }

    async fn start(
        &self,
        method: &'static str,
        object: ManagedObjectRef,
        arguments: impl Fn(&mut Writer),
    ) -> Result<TaskRef, Error> {
        let answer = self.call(Purpose::Write, method, This::Object(object), arguments).await?;
        Ok(TaskRef::new(returned(method, &answer)?.id))
    }
}

fn returned(method: &'static str, answer: &Element) -> Result<ManagedObjectRef, Error> {
    answer
        .child("returnval")
        .and_then(reference_of)
        .ok_or_else(|| Error::Protocol { method, detail: "it returns no object".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_written_in_the_schemas_order_and_says_nothing_of_what_stays() {
        let written = |change: Reconfiguration| {
            let mut writer = Writer::default();
            change.write(&mut writer);
            writer.into_string()
        };
        let extra = vec![("k".to_owned(), "v".to_owned())];
        assert_eq!(
            written(Reconfiguration { cpus: Some(4), memory_mib: Some(2048), extra }),
            "<spec><numCPUs>4</numCPUs><memoryMB>2048</memoryMB><extraConfig xsi:type=\"OptionValue\"><key>k</key>\
             <value xsi:type=\"xsd:string\">v</value></extraConfig></spec>"
        );
        assert_eq!(
            written(Reconfiguration { memory_mib: Some(2048), ..Reconfiguration::default() }),
            "<spec><memoryMB>2048</memoryMB></spec>"
        );
    }

    #[test]
    fn a_clone_is_written_in_the_schemas_order() {
        let spec = CloneSpec {
            template: VmRef::new("vm-1"),
            folder: FolderRef::new("group-v4"),
            name: "a/b".to_owned(),
            pool: PoolRef::new("resgroup-8"),
            datastore: Some(DatastoreRef::new("datastore-9")),
            linked_to: Some(SnapshotRef::new("snapshot-3")),
            host: Some(HostRef::new("host-7")),
            cpus: 2,
            memory_mib: 1024,
            instance_uuid: "u".to_owned(),
            extra: vec![("k".to_owned(), "<v>".to_owned())],
            guest: vec![("guestinfo.userdata".to_owned(), Password::from("hunter2"))],
            hardware: Hardware::default(),
            customization: None,
            power_on: false,
        };
        assert!(!format!("{spec:?}").contains("hunter2"), "S9");
        let mut writer = Writer::default();
        spec.write(&mut writer);
        assert_eq!(
            writer.into_string(),
            "<folder type=\"Folder\">group-v4</folder><name>a%2fb</name><spec>\
             <location><datastore type=\"Datastore\">datastore-9</datastore>\
             <diskMoveType>createNewChildDiskBacking</diskMoveType>\
             <pool type=\"ResourcePool\">resgroup-8</pool><host type=\"HostSystem\">host-7</host></location>\
             <template>false</template><config><instanceUuid>u</instanceUuid><numCPUs>2</numCPUs>\
             <memoryMB>1024</memoryMB><extraConfig xsi:type=\"OptionValue\"><key>k</key>\
             <value xsi:type=\"xsd:string\">&lt;v&gt;</value></extraConfig>\
             <extraConfig xsi:type=\"OptionValue\"><key>guestinfo.userdata</key>\
             <value xsi:type=\"xsd:string\">hunter2</value></extraConfig></config>\
             <powerOn>false</powerOn><snapshot type=\"VirtualMachineSnapshot\">snapshot-3</snapshot></spec>"
        );
    }
}

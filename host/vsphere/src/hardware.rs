//! What clones are given besides their source's own: network cards, disks, a
//! customization. Reads what has to be known of the source and of networks for
//! that, and writes it as a clone's spec has it.

use std::fmt;

use crate::client::{Purpose, This, Vcenter};
use crate::error::{Error, FaultKind};
use crate::property::Paths;
use crate::read::VM;
use crate::refs::{ManagedObjectRef, NetworkRef, VmRef};
use crate::site::{MAX_CANDIDATES, Site};
use crate::xml::{Element, Writer};

const DEVICES: &str = "config.hardware.device";
const NETWORK: &str = "Network";
const PORT_GROUP: &str = "DistributedVirtualPortgroup";
const OPAQUE: &str = "OpaqueNetwork";
const SWITCHES: [&str; 2] = ["VmwareDistributedVirtualSwitch", "DistributedVirtualSwitch"];

/// Network cards, by vim25 type.
const CARDS: [&str; 8] = [
    "VirtualVmxnet3",
    "VirtualVmxnet3Vrdma",
    "VirtualVmxnet2",
    "VirtualVmxnet",
    "VirtualE1000e",
    "VirtualE1000",
    "VirtualSriovEthernetCard",
    "VirtualPCNet32",
];

/// SCSI controllers, by vim25 type. The unit 7 of each is its own.
const CONTROLLERS: [&str; 4] = [
    "ParaVirtualSCSIController",
    "VirtualLsiLogicSASController",
    "VirtualLsiLogicController",
    "VirtualBusLogicController",
];
const OWN_UNIT: u32 = 7;
const UNITS: u32 = 16;

/// A network that cards can be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name, unescaped.
    pub name: String,
    backing: Backing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Backing {
    Standard(NetworkRef),
    Distributed { switch_uuid: String, port_group: String },
    Opaque { id: String, kind: String },
}

/// The devices of a clone's source that decide what hardware it can be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fittings {
    /// Types and keys of its network cards.
    cards: Vec<(&'static str, i32)>,
    /// The key of its first SCSI controller, and the units that are taken.
    controller: Option<(i32, Vec<u32>)>,
}

/// Hardware that a clone has and its source has not, or has differently.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hardware {
    remove: Vec<(&'static str, i32)>,
    cards: Vec<Network>,
    /// Controller, unit, size in KiB.
    disks: Vec<(i32, u32, u64)>,
}

/// A customization specification as vCenter keeps it. It may hold passwords, so
/// `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Customization(Element);

impl fmt::Debug for Customization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Customization(***)")
    }
}

impl Customization {
    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.element("customization", &self.0);
    }
}

impl Fittings {
    fn of(devices: &Element) -> Self {
        let key = |device: &Element| device.text_of("key").trim().parse::<i32>().ok();
        let known = |device: &Element, types: &[&'static str]| {
            types.iter().copied().find(|name| device.xsi_type.as_deref() == Some(name))
        };
        let all = &devices.children;
        let cards = all.iter().filter_map(|device| Some((known(device, &CARDS)?, key(device)?))).collect();
        let controller = all.iter().find(|device| known(device, &CONTROLLERS).is_some()).and_then(key);
        let units = |controller: i32| {
            let on_it = all.iter().filter(|device| device.text_of("controllerKey").trim() == controller.to_string());
            on_it.filter_map(|device| device.text_of("unitNumber").trim().parse().ok()).collect()
        };
        Self { cards, controller: controller.map(|controller| (controller, units(controller))) }
    }

    /// The hardware of a clone with cards on these networks instead of the source's
    /// (with none, the source's own), and with further disks of these sizes in GiB.
    pub fn with(&self, networks: Vec<Network>, disks_gib: &[u64]) -> Result<Hardware, Error> {
        let mut hardware = Hardware::default();
        if !networks.is_empty() {
            hardware.remove.clone_from(&self.cards);
            hardware.cards = networks;
        }
        if disks_gib.is_empty() {
            return Ok(hardware);
        }
        let Some((controller, taken)) = &self.controller else {
            return Err(Error::Config(
                "spec.disks needs a SCSI controller in the template: add one to it, or leave spec.disks out".to_owned(),
            ));
        };
        let mut units = (0..UNITS).filter(|unit| *unit != OWN_UNIT && !taken.contains(unit));
        for gib in disks_gib {
            let Some(unit) = units.next() else {
                return Err(Error::Config(format!(
                    "the template's SCSI controller has no room for {} further disks: ask for fewer in spec.disks",
                    disks_gib.len()
                )));
            };
            hardware.disks.push((*controller, unit, gib << 20));
        }
        Ok(hardware)
    }
}

impl Hardware {
    /// The `deviceChange` elements of a `VirtualMachineConfigSpec`, children in the
    /// XSD's sequence.
    pub(crate) fn write(&self, writer: &mut Writer) {
        // Keys of what is new are negative and tell the changes apart.
        let mut new_key = (1..).map(|number: i32| -number);
        let mut change =
            |writer: &mut Writer, operation: &str, file: bool, kind: &str, device: &dyn Fn(&mut Writer, i32)| {
                let key = new_key.next().unwrap_or(-1);
                writer.typed("deviceChange", "VirtualDeviceConfigSpec", |w| {
                    w.text("operation", operation);
                    if file {
                        w.text("fileOperation", "create");
                    }
                    w.typed("device", kind, |w| device(w, key));
                });
            };
        for (kind, key) in &self.remove {
            change(writer, "remove", false, kind, &|w, _| {
                w.value("key", key);
            });
        }
        for network in &self.cards {
            change(writer, "add", false, "VirtualVmxnet3", &|w, key| {
                w.value("key", key);
                network.write(w);
                w.node("connectable", |w| {
                    w.value("startConnected", true);
                    w.value("allowGuestControl", true);
                    w.value("connected", true);
                });
            });
        }
        for (controller, unit, kib) in &self.disks {
            change(writer, "add", true, "VirtualDisk", &|w, key| {
                w.value("key", key);
                w.typed("backing", "VirtualDiskFlatVer2BackingInfo", |w| {
                    // Beside the machine's other files, under a name of vCenter's.
                    w.text("fileName", "");
                    w.text("diskMode", "persistent");
                    w.value("thinProvisioned", true);
                });
                w.value("controllerKey", controller);
                w.value("unitNumber", unit);
                w.value("capacityInKB", kib);
            });
        }
    }
}

impl Network {
    fn write(&self, writer: &mut Writer) {
        match &self.backing {
            Backing::Standard(network) => writer.typed("backing", "VirtualEthernetCardNetworkBackingInfo", |w| {
                w.text("deviceName", &self.name);
                w.reference("network", NETWORK, network.as_str());
            }),
            Backing::Distributed { switch_uuid, port_group } => {
                writer.typed("backing", "VirtualEthernetCardDistributedVirtualPortBackingInfo", |w| {
                    w.node("port", |w| {
                        w.text("switchUuid", switch_uuid);
                        w.text("portgroupKey", port_group);
                    });
                })
            }
            Backing::Opaque { id, kind } => {
                writer.typed("backing", "VirtualEthernetCardOpaqueNetworkBackingInfo", |w| {
                    w.text("opaqueNetworkId", id);
                    w.text("opaqueNetworkType", kind);
                })
            }
        };
    }
}

impl Vcenter {
    /// Reads what decides which hardware clones of this source can be given.
    pub async fn read_fittings(&self, source: &VmRef) -> Result<Fittings, Error> {
        let read = self.retrieve_each(vec![source.managed_object()], &Paths::new(VM, &[DEVICES])).await?;
        let Some(object) = read.first() else {
            let kind = FaultKind::ManagedObjectNotFound { object: Some(source.managed_object()) };
            return Err(Error::from_fault("RetrievePropertiesEx", kind));
        };
        let none = Element::default();
        Ok(Fittings::of(object.get(DEVICES).unwrap_or(&none)))
    }

    /// The networks of these names in the site's datacenter, in the order of the
    /// names: standard, distributed and opaque ones.
    pub async fn find_networks(&self, site: &Site, names: &[String]) -> Result<Vec<Network>, Error> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let datacenter = site.datacenter.id.managed_object();
        let read = self.retrieve_each(vec![datacenter], &Paths::new("Datacenter", &["network"])).await?;
        let all = read.first().map(|object| object.references("network")).unwrap_or_default();
        let mut known: Vec<(String, ManagedObjectRef)> = Vec::new();
        for kind in [NETWORK, PORT_GROUP, OPAQUE] {
            let of_kind = all.iter().filter(|network| network.kind == kind).cloned().collect();
            let read = self.retrieve_each(of_kind, &Paths::new(kind, &["name"])).await?;
            known.extend(read.iter().map(|object| (object.name(), object.id.clone())));
        }
        let mut networks = Vec::new();
        for name in names {
            let found: Vec<&ManagedObjectRef> =
                known.iter().filter(|(known, _)| known == name).map(|(_, id)| id).collect();
            let id = match found.as_slice() {
                [only] => *only,
                [] => {
                    let mut candidates: Vec<String> = known.into_iter().map(|(name, _)| name).collect();
                    candidates.sort();
                    candidates.truncate(MAX_CANDIDATES);
                    return Err(Error::NotFound {
                        what: "network",
                        name: Some(name.clone()),
                        candidates,
                        remedy: None,
                    });
                }
                several => {
                    let candidates = several.iter().map(ToString::to_string).collect();
                    return Err(Error::Ambiguous { what: "network", name: Some(name.clone()), candidates });
                }
            };
            networks.push(Network { name: name.clone(), backing: self.backing(id).await? });
        }
        Ok(networks)
    }

    async fn backing(&self, network: &ManagedObjectRef) -> Result<Backing, Error> {
        let gone = || {
            let kind = FaultKind::ManagedObjectNotFound { object: Some(network.clone()) };
            Error::from_fault("RetrievePropertiesEx", kind)
        };
        match network.kind.as_str() {
            PORT_GROUP => {
                const SWITCH: &str = "config.distributedVirtualSwitch";
                let read = self.retrieve_each(vec![network.clone()], &Paths::new(PORT_GROUP, &["key", SWITCH])).await?;
                let group = read.first().ok_or_else(gone)?;
                let switch = group.reference(SWITCH).ok_or_else(gone)?;
                let kind = SWITCHES.into_iter().find(|kind| *kind == switch.kind).unwrap_or(SWITCHES[0]);
                let read = self.retrieve_each(vec![switch], &Paths::new(kind, &["uuid"])).await?;
                let switch = read.first().ok_or_else(gone)?;
                Ok(Backing::Distributed {
                    switch_uuid: switch.text("uuid").to_owned(),
                    port_group: group.text("key").to_owned(),
                })
            }
            OPAQUE => {
                const ID: &str = "summary.opaqueNetworkId";
                const KIND: &str = "summary.opaqueNetworkType";
                let read = self.retrieve_each(vec![network.clone()], &Paths::new(OPAQUE, &[ID, KIND])).await?;
                let object = read.first().ok_or_else(gone)?;
                Ok(Backing::Opaque { id: object.text(ID).to_owned(), kind: object.text(KIND).to_owned() })
            }
            _ => Ok(Backing::Standard(NetworkRef::new(&network.id))),
        }
    }

    /// The customization specification of this name
    /// (`CustomizationSpecManager.GetCustomizationSpec`).
    pub async fn find_customization(&self, name: &str) -> Result<Customization, Error> {
        let method = "GetCustomizationSpec";
        let unknown = || Error::NotFound {
            what: "customization specification",
            name: Some(name.to_owned()),
            candidates: Vec::new(),
            remedy: None,
        };
        let session = self.session(Purpose::Read, method).await?;
        let manager = session.content.customizations.clone().ok_or_else(unknown)?;
        let answer = self
            .call(Purpose::Read, method, This::Object(manager), |w| {
                w.text("name", name);
            })
            .await;
        match answer {
            Ok(answer) => match answer.at(&["returnval", "spec"]) {
                Some(spec) => Ok(Customization(spec.clone())),
                None => Err(Error::Protocol { method, detail: "it returns no specification".to_owned() }),
            },
            Err(error) if matches!(error.fault(), Some(FaultKind::Other(kind)) if kind == "NotFound") => Err(unknown()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml;

    fn source(devices: &str) -> Fittings {
        let text = format!("<a xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">{devices}</a>");
        Fittings::of(&xml::parse(text.as_bytes()).unwrap())
    }

    const TEMPLATE: &str = "<VirtualDevice xsi:type=\"ParaVirtualSCSIController\"><key>1000</key></VirtualDevice>\
        <VirtualDevice xsi:type=\"VirtualDisk\"><key>2000</key><controllerKey>1000</controllerKey><unitNumber>0</unitNumber></VirtualDevice>\
        <VirtualDevice xsi:type=\"VirtualE1000\"><key>4000</key></VirtualDevice>";

    fn written(hardware: &Hardware) -> String {
        let mut writer = Writer::default();
        hardware.write(&mut writer);
        writer.into_string()
    }

    #[test]
    fn cards_and_disks_are_written_in_the_schemas_order() {
        let network = |backing| Network { name: "lan".to_owned(), backing };
        let standard = network(Backing::Standard(NetworkRef::new("network-7")));
        let distributed =
            network(Backing::Distributed { switch_uuid: "50 0a".to_owned(), port_group: "dvportgroup-9".to_owned() });
        let hardware = source(TEMPLATE).with(vec![standard, distributed], &[20]).unwrap();
        assert_eq!(
            written(&hardware),
            "<deviceChange xsi:type=\"VirtualDeviceConfigSpec\"><operation>remove</operation>\
             <device xsi:type=\"VirtualE1000\"><key>4000</key></device></deviceChange>\
             <deviceChange xsi:type=\"VirtualDeviceConfigSpec\"><operation>add</operation>\
             <device xsi:type=\"VirtualVmxnet3\"><key>-2</key>\
             <backing xsi:type=\"VirtualEthernetCardNetworkBackingInfo\"><deviceName>lan</deviceName>\
             <network type=\"Network\">network-7</network></backing><connectable>\
             <startConnected>true</startConnected><allowGuestControl>true</allowGuestControl>\
             <connected>true</connected></connectable></device></deviceChange>\
             <deviceChange xsi:type=\"VirtualDeviceConfigSpec\"><operation>add</operation>\
             <device xsi:type=\"VirtualVmxnet3\"><key>-3</key>\
             <backing xsi:type=\"VirtualEthernetCardDistributedVirtualPortBackingInfo\"><port>\
             <switchUuid>50 0a</switchUuid><portgroupKey>dvportgroup-9</portgroupKey></port></backing><connectable>\
             <startConnected>true</startConnected><allowGuestControl>true</allowGuestControl>\
             <connected>true</connected></connectable></device></deviceChange>\
             <deviceChange xsi:type=\"VirtualDeviceConfigSpec\"><operation>add</operation>\
             <fileOperation>create</fileOperation><device xsi:type=\"VirtualDisk\"><key>-4</key>\
             <backing xsi:type=\"VirtualDiskFlatVer2BackingInfo\"><fileName></fileName>\
             <diskMode>persistent</diskMode><thinProvisioned>true</thinProvisioned></backing>\
             <controllerKey>1000</controllerKey><unitNumber>1</unitNumber>\
             <capacityInKB>20971520</capacityInKB></device></deviceChange>"
        );
    }

    #[test]
    fn disks_take_the_free_units_of_the_controller() {
        let ten = source(TEMPLATE).with(Vec::new(), &[1; 14]).unwrap();
        let units: Vec<u32> = ten.disks.iter().map(|(_, unit, _)| *unit).collect();
        assert_eq!(units, [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15]);
        assert!(ten.remove.is_empty(), "no network was named");
        assert!(source(TEMPLATE).with(Vec::new(), &[1; 15]).is_err());
        assert!(source("").with(Vec::new(), &[1]).unwrap_err().to_string().contains("SCSI controller"));
    }

    #[test]
    fn s9_a_customization_comes_back_as_it_was_and_is_not_printed() {
        let text = "<spec xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\
            <identity xsi:type=\"CustomizationSysprep\"><guiUnattended><password><value>hunter2</value>\
            <plainText>true</plainText></password></guiUnattended></identity></spec>";
        let customization = Customization(xml::parse(text.as_bytes()).unwrap());
        assert_eq!(format!("{customization:?}"), "Customization(***)");
        let mut writer = Writer::default();
        customization.write(&mut writer);
        assert_eq!(
            writer.into_string(),
            "<customization><identity xsi:type=\"CustomizationSysprep\"><guiUnattended><password><value>hunter2</value>\
             <plainText>true</plainText></password></guiUnattended></identity></customization>"
        );
    }
}

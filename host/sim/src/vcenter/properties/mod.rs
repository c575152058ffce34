//! The properties of managed objects, computed from the world when asked for.
//!
//! A list of names per type, as the vendor's reference has them, says what is a
//! property at all; those that the world has nothing to say about are unset.

mod compute;
mod machine;

use super::entity::{Kind, Moref};
use super::session::{SessionId, timeout_option};
use super::value::{Val, int, refs, split_path, text};
use super::views::Scope;
use super::world::{Detail, State, attribute_key};

/// All types, for matching a spec's type against.
pub(super) const KINDS: [Kind; 24] = [
    Kind::Folder,
    Kind::StoragePod,
    Kind::Datacenter,
    Kind::ClusterComputeResource,
    Kind::HostSystem,
    Kind::ResourcePool,
    Kind::Datastore,
    Kind::Network,
    Kind::VirtualMachine,
    Kind::VirtualMachineSnapshot,
    Kind::Task,
    Kind::ContainerView,
    Kind::ListView,
    Kind::PropertyCollector,
    Kind::PropertyFilter,
    Kind::ServiceInstance,
    Kind::SessionManager,
    Kind::ViewManager,
    Kind::TaskManager,
    Kind::SearchIndex,
    Kind::CustomFieldsManager,
    Kind::CustomizationSpecManager,
    Kind::OptionManager,
    Kind::AuthorizationManager,
];

/// The names of `ManagedEntity`'s properties, followed by a type's own.
macro_rules! entity_names {
    ($($own:literal),* $(,)?) => {
        &["availableField", "value", "alarmActionsEnabled", "configIssue", "configStatus",
          "customValue", "declaredAlarmState", "disabledMethod", "effectiveRole", "name",
          "overallStatus", "parent", "permission", "recentTask", "tag", "triggeredAlarmState",
          $($own),*]
    };
}

/// The names of a type's properties.
pub(super) fn names(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Folder => entity_names!["childEntity", "childType", "namespace"],
        Kind::StoragePod => {
            entity_names!["childEntity", "childType", "namespace", "podStorageDrsEntry", "summary"]
        }
        Kind::Datacenter => entity_names![
            "configuration",
            "datastore",
            "datastoreFolder",
            "hostFolder",
            "network",
            "networkFolder",
            "vmFolder",
        ],
        Kind::ClusterComputeResource => entity_names![
            "configurationEx",
            "datastore",
            "environmentBrowser",
            "host",
            "lifecycleManaged",
            "network",
            "resourcePool",
            "summary",
            "actionHistory",
            "configuration",
            "drsFault",
            "drsRecommendation",
            "hciConfig",
            "migrationHistory",
            "recommendation",
        ],
        Kind::HostSystem => entity_names![
            "capability",
            "config",
            "configManager",
            "datastore",
            "datastoreBrowser",
            "hardware",
            "licensableResource",
            "network",
            "runtime",
            "summary",
            "systemResources",
            "vm",
        ],
        Kind::ResourcePool => entity_names![
            "childConfiguration",
            "config",
            "namespace",
            "owner",
            "resourcePool",
            "runtime",
            "summary",
            "vm",
        ],
        Kind::Datastore => {
            entity_names!["browser", "capability", "host", "info", "iormConfiguration", "summary", "vm",]
        }
        Kind::Network => entity_names!["host", "summary", "vm"],
        Kind::VirtualMachine => entity_names![
            "capability",
            "config",
            "datastore",
            "environmentBrowser",
            "guest",
            "guestHeartbeatStatus",
            "layout",
            "layoutEx",
            "network",
            "parentVApp",
            "resourceConfig",
            "resourcePool",
            "rootSnapshot",
            "runtime",
            "snapshot",
            "storage",
            "summary",
        ],
        Kind::Task => &["availableField", "value", "info"],
        Kind::ContainerView => &["container", "recursive", "type", "view"],
        Kind::ListView => &["view"],
        Kind::PropertyCollector => &["filter"],
        Kind::PropertyFilter => &["partialUpdates", "spec"],
        Kind::ServiceInstance => &["capability", "content", "serverClock"],
        Kind::SessionManager => {
            &["currentSession", "defaultLocale", "message", "messageLocaleList", "sessionList", "supportedLocaleList"]
        }
        Kind::ViewManager => &["viewList"],
        Kind::TaskManager => &["description", "maxCollector", "recentTask"],
        Kind::SearchIndex | Kind::AuthorizationManager | Kind::VirtualMachineSnapshot => &[],
        Kind::CustomFieldsManager => &["field"],
        Kind::CustomizationSpecManager => &["info"],
        Kind::OptionManager => &["setting", "supportedOption"],
    }
}

/// The value of a property path; `Err` if there is no such property.
pub(super) fn property(state: &State, session: Option<SessionId>, object: Moref, path: &str) -> Result<Val, ()> {
    let (head, rest) = split_path(path);
    let value = top(state, session, object, head).ok_or(())?;
    rest.map_or(Ok(value.clone()), |rest| value.descend(rest))
}

/// The value of an object's own property; `None` if it has no such property.
pub(super) fn top(state: &State, session: Option<SessionId>, object: Moref, name: &str) -> Option<Val> {
    if !names(object.kind).contains(&name) {
        return None;
    }
    let own = match object.kind {
        Kind::Task => (name == "info").then(|| state.task_info(object)),
        Kind::ContainerView | Kind::ListView => view_property(state, object, name),
        Kind::PropertyCollector => session
            .and_then(|session| state.collectors.get(&(session, object)))
            .map(|collector| Val::List("ManagedObjectReference", collector.filters().map(Val::Ref).collect())),
        Kind::ServiceInstance => match name {
            "content" => Some(content(state)),
            "serverClock" => Some(Val::Time(state.now)),
            _ => None,
        },
        Kind::SessionManager => state.session_manager(name, session),
        Kind::ViewManager => {
            Some(refs(state.views.iter().filter(|(_, v)| Some(v.session) == session).map(|(moref, _)| *moref)))
        }
        Kind::TaskManager => match name {
            "recentTask" => Some(refs(state.recent_tasks.iter().copied())),
            "description" => Some(task_description()),
            _ => Some(int(32)),
        },
        Kind::CustomFieldsManager => Some(fields(state)),
        Kind::OptionManager => {
            (name == "setting").then(|| Val::List("OptionValue", vec![timeout_option(state.config.session_timeout)]))
        }
        Kind::PropertyFilter
        | Kind::SearchIndex
        | Kind::AuthorizationManager
        | Kind::CustomizationSpecManager
        | Kind::VirtualMachineSnapshot => None,
        _ => entity_property(state, object, name),
    };
    Some(own.unwrap_or(Val::Unset))
}

fn view_property(state: &State, object: Moref, name: &str) -> Option<Val> {
    let view = state.views.get(&object)?;
    if name == "view" {
        return Some(refs(view.members.iter().copied()));
    }
    let Scope::Container { container, types, recursive } = &view.scope else { return None };
    match name {
        "container" => Some(Val::Ref(*container)),
        "type" => Some(Val::List("string", types.iter().map(|name| text(name.clone())).collect())),
        _ => Some(Val::Bool(*recursive)),
    }
}

fn entity_property(state: &State, object: Moref, name: &str) -> Option<Val> {
    let entity = state.entity(object)?;
    match name {
        "name" => return Some(text(entity.name.clone())),
        "parent" => return entity.parent.map(Val::Ref),
        "overallStatus" | "configStatus" => return Some(green()),
        "recentTask" => return Some(refs(entity.recent_tasks.iter().copied())),
        "alarmActionsEnabled" => return Some(Val::Bool(true)),
        "effectiveRole" => return Some(Val::List("int", vec![Val::Int(-1)])),
        "disabledMethod" => return Some(Val::List("string", Vec::new())),
        "permission" => return Some(Val::List("Permission", Vec::new())),
        "customValue" | "value" => return Some(custom_values(state, object)),
        "availableField" => return Some(fields(state)),
        "configIssue" | "declaredAlarmState" | "tag" | "triggeredAlarmState" => return None,
        _ => {}
    }
    match &entity.detail {
        Detail::Folder { holds, children } => match name {
            "childEntity" => Some(refs(children.values().copied())),
            "childType" => {
                Some(Val::List("string", compute::child_types(*holds).iter().map(|name| text(*name)).collect()))
            }
            "summary" if object.kind == Kind::StoragePod => Some(compute::pod_summary(state, object, children)),
            _ => None,
        },
        Detail::Datacenter { folders } => compute::datacenter(state, folders, name),
        Detail::Cluster(cluster) => compute::cluster(state, object, cluster, name),
        Detail::Host(host) => compute::host(state, object, host, name),
        Detail::Pool { owner, vms } => compute::pool(state, object, *owner, vms, name),
        Detail::Datastore(store) => compute::datastore(state, object, store, name),
        Detail::Network => compute::network(state, object, name),
        Detail::Vm(vm) => machine::property(state, object, vm, name),
    }
}

pub(super) fn green() -> Val {
    Val::Enum("ManagedEntityStatus", "green")
}

/// The custom attributes of an entity, as `CustomFieldValue`s.
fn custom_values(state: &State, object: Moref) -> Val {
    let values = state.entity(object).into_iter().flat_map(|entity| &entity.attributes);
    Val::List(
        "CustomFieldValue",
        values
            .map(|(key, value)| {
                Val::Struct("CustomFieldStringValue", vec![("key", Val::Int(*key)), ("value", text(value.clone()))])
            })
            .collect(),
    )
}

/// The definitions of the custom attributes.
fn fields(state: &State) -> Val {
    let defined = state.attribute_names.iter().enumerate().map(|(index, (name, kind))| {
        Val::Struct(
            "CustomFieldDef",
            vec![
                ("key", Val::Int(attribute_key(index))),
                ("name", text(name.clone())),
                ("type", text("string")),
                ("managedObjectType", kind.map_or(Val::Unset, |kind| text(kind.name()))),
                ("fieldDefPrivileges", Val::Unset),
                ("fieldInstancePrivileges", Val::Unset),
            ],
        )
    });
    Val::List("CustomFieldDef", defined.collect())
}

fn task_description() -> Val {
    let known = [
        ("VirtualMachine.clone", "Clone virtual machine"),
        ("VirtualMachine.powerOn", "Power On virtual machine"),
        ("VirtualMachine.powerOff", "Power Off virtual machine"),
        ("VirtualMachine.reset", "Reset virtual machine"),
        ("VirtualMachine.reconfigure", "Reconfigure virtual machine"),
        ("VirtualMachine.destroy", "Delete virtual machine"),
        ("VirtualMachine.rename", "Rename virtual machine"),
        ("Folder.rename", "Rename folder"),
        ("Folder.destroy", "Delete folder"),
        ("Datacenter.powerOnVm", "Initialize powering On"),
        ("Folder.moveInto", "Move entities"),
    ];
    let elements = |type_name: &'static str, entries: &[(&'static str, &'static str)]| {
        super::value::poly(Val::List(
            type_name,
            entries
                .iter()
                .map(|(key, label)| {
                    Val::Struct(
                        type_name,
                        vec![("label", text(*label)), ("summary", text(*label)), ("key", text(*key))],
                    )
                })
                .collect(),
        ))
    };
    let states = [("running", "Running"), ("success", "Completed"), ("error", "Error")];
    Val::Struct(
        "TaskDescription",
        vec![
            ("methodInfo", elements("ElementDescription", &known)),
            ("state", elements("ElementDescription", &states)),
            ("reason", elements("TypeDescription", &[("TaskReasonUser", "User")])),
        ],
    )
}

/// The `ServiceContent`.
pub(super) fn content(state: &State) -> Val {
    let single = |kind: Kind| Val::Ref(Moref::singleton(kind));
    Val::Struct(
        "ServiceContent",
        vec![
            ("rootFolder", Val::Ref(state.root)),
            ("propertyCollector", single(Kind::PropertyCollector)),
            ("viewManager", single(Kind::ViewManager)),
            ("about", about(state)),
            ("setting", single(Kind::OptionManager)),
            ("sessionManager", single(Kind::SessionManager)),
            ("authorizationManager", single(Kind::AuthorizationManager)),
            ("taskManager", single(Kind::TaskManager)),
            ("customFieldsManager", single(Kind::CustomFieldsManager)),
            ("customizationSpecManager", single(Kind::CustomizationSpecManager)),
            ("searchIndex", single(Kind::SearchIndex)),
        ],
    )
}

/// The `AboutInfo`: the API of vCenter 8.0 U2, of a vendor that does not
/// pretend to be one.
fn about(state: &State) -> Val {
    Val::Struct(
        "AboutInfo",
        vec![
            ("name", text("VMware vCenter Server")),
            ("fullName", text("VMware vCenter Server 8.0.2 (vmgroup simulator)")),
            ("vendor", text("VMware, Inc.")),
            ("version", text("8.0.2")),
            ("patchLevel", Val::Unset),
            ("build", text("0")),
            ("localeVersion", text("INTL")),
            ("localeBuild", text("000")),
            ("osType", text("linux-x64")),
            ("productLineId", text("vpx")),
            ("apiType", text("VirtualCenter")),
            ("apiVersion", text("8.0.2.0")),
            ("instanceUuid", text(state.uuid.clone())),
            ("licenseProductName", text("VMware VirtualCenter Server")),
            ("licenseProductVersion", text("8.0")),
        ],
    )
}

//! The vim25 methods, but for those that act on virtual machines: what they
//! demand, what they do, what they answer.
//!
//! Synchronous: the long poll is the service's business.

use std::time::Duration;

use super::collector::{Collector, Retrieval};
use super::entity::{Kind, Moref};
use super::maintenance::ENTERING;
use super::privileges;
use super::properties;
use super::selection::invalid_property;
use super::session::{SessionId, parse_timeout, timeout_option};
use super::soap::{Node, VimFault};
use super::tasks::{Doom, Work};
use super::value::{Val, poly, refs, text};
use super::views::Scope;
use super::world::{State, not_supported};

/// A call on an open session.
pub(super) struct Call<'a> {
    pub(super) node: &'a Node,
    pub(super) this: Moref,
    pub(super) session: SessionId,
    /// What the fault script has in store for a task that it starts.
    pub(super) doom: Doom,
    /// A fault type for every property, by the fault script.
    pub(super) missing: Option<String>,
}

impl Call<'_> {
    /// A reference that the method cannot do without, to something that exists.
    pub(super) fn required(&self, state: &State, name: &str) -> Result<Moref, VimFault> {
        let moref = self.node.moref(name)?.ok_or_else(|| VimFault::invalid_argument(name))?;
        self.existing(state, moref)
    }

    pub(super) fn existing(&self, state: &State, moref: Moref) -> Result<Moref, VimFault> {
        if state.exists(moref, Some(self.session)) { Ok(moref) } else { Err(VimFault::not_found(moref)) }
    }

    pub(super) fn text(&self, name: &str) -> Result<&str, VimFault> {
        self.node.str(name).ok_or_else(|| VimFault::invalid_argument(name))
    }

    pub(super) fn morefs(&self, name: &str) -> Result<Vec<Moref>, VimFault> {
        self.node.all(name).map(Node::as_moref).collect()
    }

    pub(super) fn is_on(&self, kind: Kind) -> Result<(), VimFault> {
        if self.this.kind == kind { Ok(()) } else { Err(not_supported()) }
    }
}

/// An answer's content: what stands in the response element.
pub(super) type Answer = Result<String, VimFault>;

pub(super) fn returned(value: &Val) -> String {
    let mut out = String::new();
    value.write("returnval", false, &mut out);
    out
}

pub(super) fn nothing() -> String {
    String::new()
}

/// Carries out a call.
pub(super) fn dispatch(state: &mut State, call: &Call<'_>) -> Answer {
    if !state.exists(call.this, Some(call.session)) {
        return Err(VimFault::not_found(call.this));
    }
    if changes_the_inventory(&call.node.name) && !state.may_write(call.session) {
        return Err(VimFault::scripted("NoPermission", Some(call.this)));
    }
    privileges::check(state, call)?;
    match call.node.name.as_str() {
        "CurrentTime" => Ok(returned(&Val::Time(state.now))),
        "Logout" => {
            state.end_session(call.session);
            Ok(nothing())
        }
        "TerminateSession" => terminate(state, call),
        "SessionIsActive" => session_is_active(state, call),
        "FindByInventoryPath" => {
            let found = state.find_path(call.text("inventoryPath")?);
            Ok(returned(&found.map_or(Val::Unset, Val::Ref)))
        }
        "FindChild" => {
            let entity = call.required(state, "entity")?;
            let found = state.find_child(entity, call.text("name")?);
            Ok(returned(&found.map_or(Val::Unset, Val::Ref)))
        }
        "FindByUuid" | "FindAllByUuid" => find_by_uuid(state, call),
        "GetCustomizationSpec" => customization(state, call),
        "SetField" => set_field(state, call),
        "CreateContainerView" => create_container_view(state, call),
        "CreateListView" => {
            let view = state.create_view(call.session, Scope::List, &[]);
            state.list_view_add(view, &call.morefs("obj")?);
            Ok(returned(&Val::Ref(view)))
        }
        "ModifyListView" | "ResetListView" => modify_list_view(state, call),
        "DestroyView" => {
            state.destroy_view(call.this);
            Ok(nothing())
        }
        "RetrievePropertiesEx"
        | "RetrieveProperties"
        | "ContinueRetrievePropertiesEx"
        | "CancelRetrievePropertiesEx" => retrieve(state, call),
        // What pyVmomi reads single properties with.
        "Fetch" => {
            let path = call.text("prop")?;
            let value = properties::property(state, Some(call.session), call.this, path)
                .map_err(|()| invalid_property(path))?;
            let mut out = String::new();
            value.write("returnval", true, &mut out);
            Ok(out)
        }
        "CreatePropertyCollector" => {
            let collector = state.new_ref(Kind::PropertyCollector);
            state.collectors.insert((call.session, collector), Collector::default());
            Ok(returned(&Val::Ref(collector)))
        }
        "DestroyPropertyCollector" => {
            state.collectors.remove(&(call.session, call.this));
            state.wake();
            Ok(nothing())
        }
        "CreateFilter" => {
            let spec = call.node.child("spec").ok_or_else(|| VimFault::invalid_argument("spec"))?;
            let filter = state.create_filter(call.session, call.this, spec)?;
            Ok(returned(&Val::Ref(filter)))
        }
        "DestroyPropertyFilter" => {
            for ((owner, _), collector) in &mut state.collectors {
                if *owner == call.session {
                    collector.destroy_filter(call.this);
                }
            }
            Ok(nothing())
        }
        "CancelWaitForUpdates" => {
            state.collector(call.session, call.this)?.cancels += 1;
            state.wake();
            Ok(nothing())
        }
        "CreateFolder" => {
            call.is_on(Kind::Folder)?;
            let folder = state.create_folder(call.this, call.text("name")?)?;
            Ok(returned(&Val::Ref(folder)))
        }
        "Destroy_Task" => destroy(state, call),
        "Rename_Task" => rename(state, call),
        "MoveIntoFolder_Task" => move_into(state, call),
        "EnterMaintenanceMode_Task" => enter_maintenance(state, call),
        "ExitMaintenanceMode_Task" => exit_maintenance(state, call),
        "CancelTask" => {
            call.is_on(Kind::Task)?;
            state.cancel_task(call.this)?;
            Ok(nothing())
        }
        "FetchUserPrivilegeOnEntities" => privileges::fetch(state, call),
        "QueryOptions" => Ok(returned(&Val::List("OptionValue", vec![timeout_option(state.config.session_timeout)]))),
        "UpdateOptions" => update_options(state, call),
        _ => super::vm_methods::dispatch(state, call),
    }
}

fn enter_maintenance(state: &mut State, call: &Call<'_>) -> Answer {
    call.is_on(Kind::HostSystem)?;
    // "If the timeout is less than or equal to zero, there is no timeout."
    let timeout: i64 = call.node.number("timeout")?.ok_or_else(|| VimFault::invalid_argument("timeout"))?;
    let work = Work::EnterMaintenance {
        host: call.this,
        timeout: u64::try_from(timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs),
        evacuate_off: call.node.flag("evacuatePoweredOffVms"),
    };
    Ok(started(state, call, "EnterMaintenanceMode_Task", ENTERING, work))
}

fn exit_maintenance(state: &mut State, call: &Call<'_>) -> Answer {
    call.is_on(Kind::HostSystem)?;
    let work = Work::ExitMaintenance { host: call.this };
    Ok(started(state, call, "ExitMaintenanceMode_Task", "HostSystem.exitMaintenanceMode", work))
}

pub(super) fn unknown_method(name: &str) -> VimFault {
    VimFault::new("InvalidRequest", format!("Unable to resolve WSDL method name {name}"))
}

/// Whether a method takes more than the role "read-only".
fn changes_the_inventory(method: &str) -> bool {
    method.ends_with("_Task")
        || matches!(method, "CreateFolder" | "SetField" | "ShutdownGuest" | "MarkAsTemplate" | "UpdateOptions")
}

fn terminate(state: &mut State, call: &Call<'_>) -> Answer {
    if !state.config.session_privilege {
        return Err(VimFault::scripted("NoPermission", Some(call.this)));
    }
    let mut ids = Vec::new();
    for key in call.node.all("sessionId") {
        let id = state
            .sessions
            .iter()
            .find(|(_, session)| session.key == key.text.trim())
            .map(|(id, _)| *id)
            .ok_or_else(|| VimFault::new("NotFound", "The session object was not found or is invalid."))?;
        if id == call.session {
            return Err(VimFault::invalid_argument("sessionId"));
        }
        ids.push(id);
    }
    for id in ids {
        state.end_session(id);
    }
    Ok(nothing())
}

fn session_is_active(state: &State, call: &Call<'_>) -> Answer {
    let key = call.text("sessionID")?;
    let active = state.sessions.values().any(|session| session.key == key);
    Ok(returned(&Val::Bool(active)))
}

fn find_by_uuid(state: &State, call: &Call<'_>) -> Answer {
    if !call.node.flag("vmSearch") {
        return Ok(nothing());
    }
    let datacenter = call.node.moref("datacenter")?;
    let mut found = state.vms_with(call.text("uuid")?, call.node.flag("instanceUuid"));
    if datacenter.is_some() {
        found.retain(|vm| state.datacenter_of(*vm) == datacenter);
    }
    if call.node.name == "FindByUuid" {
        found.truncate(1);
    }
    Ok(returned(&refs(found)))
}

fn customization(state: &State, call: &Call<'_>) -> Answer {
    call.is_on(Kind::CustomizationSpecManager)?;
    let name = call.text("name")?;
    if !state.customizations.contains(name) {
        return Err(VimFault::new("NotFound", format!("The customization specification {name} was not found.")));
    }
    let host_name = Val::Struct("CustomizationVirtualMachineName", Vec::new());
    let identity = Val::Struct(
        "CustomizationLinuxPrep",
        vec![("hostName", poly(host_name)), ("domain", text(format!("{name}.example.com")))],
    );
    let spec = Val::Struct("CustomizationSpec", vec![("identity", poly(identity))]);
    let info = Val::Struct("CustomizationSpecInfo", vec![("name", text(name.to_owned())), ("type", text("Linux"))]);
    Ok(returned(&Val::Struct("CustomizationSpecItem", vec![("info", info), ("spec", spec)])))
}

/// `CustomFieldsManager.SetField`.
fn set_field(state: &mut State, call: &Call<'_>) -> Answer {
    call.is_on(Kind::CustomFieldsManager)?;
    let entity = call.required(state, "entity")?;
    let key: i32 = call.node.number("key")?.ok_or_else(|| VimFault::invalid_argument("key"))?;
    let value = call.text("value")?.to_owned();
    match state.attribute(key) {
        Some((_, kind)) if kind.is_none_or(|kind| kind == entity.kind) => {}
        _ => return Err(VimFault::invalid_argument("key")),
    }
    state.set_field(entity, key, &value);
    Ok(nothing())
}

fn create_container_view(state: &mut State, call: &Call<'_>) -> Answer {
    let container = call.required(state, "container")?;
    if !state.can_contain(container) {
        return Err(VimFault::invalid_argument("container"));
    }
    let types = call.node.all("type").map(|node| node.text.trim().to_owned()).collect();
    let recursive = call.node.flag("recursive");
    let scope = Scope::Container { container, types, recursive };
    Ok(returned(&Val::Ref(state.create_view(call.session, scope, &[]))))
}

fn modify_list_view(state: &mut State, call: &Call<'_>) -> Answer {
    call.is_on(Kind::ListView)?;
    let unresolved = if call.node.name == "ResetListView" {
        let wanted = call.morefs("obj")?;
        let there: Vec<Moref> = state.views.get(&call.this).into_iter().flat_map(|v| v.members.clone()).collect();
        let gone: Vec<Moref> = there.into_iter().filter(|m| !wanted.contains(m)).collect();
        state.list_view_remove(call.this, &gone);
        state.list_view_add(call.this, &wanted)
    } else {
        let (add, remove) = (call.morefs("add")?, call.morefs("remove")?);
        let mut unresolved = state.list_view_remove(call.this, &remove);
        unresolved.extend(state.list_view_add(call.this, &add));
        unresolved
    };
    Ok(returned(&refs(unresolved)))
}

fn retrieve(state: &mut State, call: &Call<'_>) -> Answer {
    if call.node.name == "CancelRetrievePropertiesEx" {
        let known = state.collector(call.session, call.this)?.cancel_retrieval(call.text("token")?);
        return if known { Ok(nothing()) } else { Err(VimFault::invalid_argument("token")) };
    }
    let (objects, token) = if call.node.name == "ContinueRetrievePropertiesEx" {
        state.continue_retrieval(call.session, call.this, call.text("token")?)?
    } else {
        let wanted: Option<usize> = match call.node.child("options") {
            Some(options) => options.number("maxObjects")?,
            None => None,
        };
        let own = state.config.page_size.max(1);
        let page = if call.node.name == "RetrieveProperties" {
            // The predecessor cannot page.
            usize::MAX
        } else {
            wanted.filter(|most| *most > 0).map_or(own, |most| most.min(own))
        };
        let specs = call.node.all("specSet").collect();
        let retrieval = Retrieval { specs, page, missing: call.missing.clone() };
        state.retrieve(call.session, call.this, &retrieval)?
    };
    if call.node.name == "RetrieveProperties" {
        return Ok(objects.replace("<objects>", "<returnval>").replace("</objects>", "</returnval>"));
    }
    // Nothing selected is no result at all, not an empty one.
    if objects.is_empty() && token.is_none() {
        return Ok(nothing());
    }
    let token = token.map(|token| format!("<token>{token}</token>")).unwrap_or_default();
    Ok(format!("<returnval>{token}{objects}</returnval>"))
}

fn destroy(state: &mut State, call: &Call<'_>) -> Answer {
    let description = match call.this.kind {
        Kind::VirtualMachine => "VirtualMachine.destroy",
        Kind::Folder => "Folder.destroy",
        _ => return Err(not_supported()),
    };
    // The folders that come with a datacenter stay with it.
    if state.parent_of(call.this).is_none_or(|parent| parent.kind == Kind::Datacenter) {
        return Err(not_supported());
    }
    let work = Work::Destroy { entity: call.this };
    Ok(started(state, call, "Destroy_Task", description, work))
}

fn rename(state: &mut State, call: &Call<'_>) -> Answer {
    let description = match call.this.kind {
        Kind::VirtualMachine => "VirtualMachine.rename",
        Kind::Folder => "Folder.rename",
        _ => return Err(not_supported()),
    };
    let work = Work::Rename { entity: call.this, to: call.text("newName")?.to_owned() };
    Ok(started(state, call, "Rename_Task", description, work))
}

fn move_into(state: &mut State, call: &Call<'_>) -> Answer {
    call.is_on(Kind::Folder)?;
    let list = call.morefs("list")?;
    for moref in &list {
        call.existing(state, *moref)?;
    }
    let work = Work::Move { list, folder: call.this };
    Ok(started(state, call, "MoveIntoFolder_Task", "Folder.moveInto", work))
}

/// Starts a task and answers with its reference.
pub(super) fn started(
    state: &mut State,
    call: &Call<'_>,
    method: &'static str,
    description: &'static str,
    work: Work,
) -> String {
    let doom = call.doom.clone();
    let task = state.task_of(call.session, method, description, call.this, work, doom);
    returned(&Val::Ref(task))
}

fn update_options(state: &mut State, call: &Call<'_>) -> Answer {
    for option in call.node.all("changedValue") {
        if option.str("key") != Some("config.vmacore.soap.sessionTimeout") {
            return Err(VimFault::new("InvalidName", "There is no such option.")
                .with("name", super::value::text(option.str("key").unwrap_or("").to_owned())));
        }
        state.config.session_timeout =
            option.str("value").and_then(parse_timeout).ok_or_else(|| VimFault::invalid_argument("changedValue"))?;
    }
    Ok(nothing())
}

/// The answer to `RetrieveServiceContent`, which needs no session.
pub(super) fn service_content(state: &State) -> String {
    returned(&properties::content(state))
}

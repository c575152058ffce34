//! SOAP envelopes and vim25 faults. It knows the shape of every call, and the
//! meaning of none.

use crate::error::{Error, Fault, FaultKind};
use crate::refs::ManagedObjectRef;
use crate::xml::{self, Element, Writer};

/// The first line of every request.
const OPEN: &str = concat!(
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>",
    "<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" ",
    "xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\" ",
    "xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body>"
);
const CLOSE: &str = "</soapenv:Body></soapenv:Envelope>";

/// The envelope of one call. `xsi:type` values are vim25's own, so vim25 is the
/// default namespace within the call.
pub(crate) fn envelope(method: &str, this: &ManagedObjectRef, arguments: impl FnOnce(&mut Writer)) -> String {
    let mut writer = Writer::default();
    writer.reference("_this", &this.kind, &this.id);
    arguments(&mut writer);
    let inside = writer.into_string();
    format!("{OPEN}<{method} xmlns=\"urn:vim25\">{inside}</{method}>{CLOSE}")
}

/// The answer's `…Response` element, or the fault, or what else came instead.
pub(crate) fn answer(method: &'static str, status: u16, body: &[u8]) -> Result<Element, Error> {
    let not_soap = |detail: String| {
        if status == 200 { Error::Protocol { method, detail } } else { Error::Http { method, status } }
    };
    let envelope = xml::parse(body).map_err(not_soap)?;
    let Some(body) = envelope.child("Body") else {
        return Err(not_soap("it has no SOAP body".to_owned()));
    };
    if let Some(fault) = body.child("Fault") {
        return Err(Error::Fault { method, fault: Box::new(soap_fault(fault)) });
    }
    if status != 200 {
        return Err(Error::Http { method, status });
    }
    body.children
        .iter()
        .find(|child| child.name.strip_suffix("Response") == Some(method))
        .cloned()
        .ok_or_else(|| not_soap("it answers another call".to_owned()))
}

fn soap_fault(fault: &Element) -> Fault {
    let message = fault.text_of("faultstring").trim().to_owned();
    let detail = fault.child("detail").and_then(|detail| detail.children.first());
    match detail {
        Some(detail) => Fault { kind: kind_of(detail), message },
        None => Fault { kind: FaultKind::Other("SystemError".to_owned()), message },
    }
}

/// A `LocalizedMethodFault`: `fault` and `localizedMessage`.
pub(crate) fn localized_fault(element: &Element) -> Fault {
    Fault {
        kind: element.child("fault").map_or_else(|| FaultKind::Other("MethodFault".to_owned()), kind_of),
        message: element.text_of("localizedMessage").trim().to_owned(),
    }
}

/// A managed object reference, if the element is a filled one.
pub(crate) fn reference_of(element: &Element) -> Option<ManagedObjectRef> {
    let kind = element.ref_type.as_deref()?;
    let id = element.text.trim();
    (!id.is_empty() && !kind.is_empty()).then(|| ManagedObjectRef::new(kind, id))
}

/// Names the fault's type: its `xsi:type`, or else the element it stands in
/// without `Fault` at its end.
fn kind_of(element: &Element) -> FaultKind {
    let object = |name: &str| element.child(name).and_then(reference_of);
    let text = |name: &str| element.text_of(name).trim().to_owned();
    let name =
        element.xsi_type.as_deref().unwrap_or_else(|| element.name.strip_suffix("Fault").unwrap_or(&element.name));
    match name {
        "NotAuthenticated" => FaultKind::NotAuthenticated,
        "InvalidLogin" | "InvalidLocale" | "PasswordExpired" => FaultKind::InvalidLogin,
        // Newer servers put several missing privileges into a list of objects.
        "NoPermission" => FaultKind::NoPermission {
            privilege: missing_privilege(element),
            object: object("object").or_else(|| element.at(&["missingPrivileges", "entity"]).and_then(reference_of)),
        },
        "DuplicateName" => {
            FaultKind::DuplicateName { name: crate::model::unescape_name(&text("name")), object: object("object") }
        }
        "InvalidPowerState" => {
            FaultKind::InvalidPowerState { requested: text("requestedState"), existing: text("existingState") }
        }
        "ManagedObjectNotFound" => FaultKind::ManagedObjectNotFound { object: object("obj") },
        "InvalidName" => FaultKind::InvalidName { name: text("name") },
        "InvalidArgument" => FaultKind::InvalidArgument { property: text("invalidProperty") },
        "NoDiskSpace" => FaultKind::NoDiskSpace { datastore: text("datastore") },
        "Timedout" => FaultKind::Timedout,
        "TaskInProgress" => FaultKind::TaskInProgress,
        "RequestCanceled" => FaultKind::RequestCanceled,
        "ConcurrentAccess" => FaultKind::ConcurrentAccess,
        "InvalidCollectorVersion" => FaultKind::InvalidCollectorVersion,
        "ToolsUnavailable" => FaultKind::ToolsUnavailable,
        "HostNotConnected" | "HostNotReachable" | "HostCommunication" | "HostConnectFault" => {
            FaultKind::HostNotConnected(name.to_owned())
        }
        "InvalidState" | "InvalidHostState" | "InvalidHostConnectionState" => FaultKind::InvalidState(name.to_owned()),
        "CpuHotPlugNotSupported" | "MemoryHotPlugNotSupported" => FaultKind::HotPlugNotSupported(name.to_owned()),
        "NoCompatibleHost"
        | "NoCompatibleDatastore"
        | "NotEnoughCpus"
        | "NotEnoughLicenses"
        | "VmLimitLicense"
        | "NotEnoughLogicalCpus"
        | "NumVirtualCpusExceedsLimit"
        | "MemorySizeNotRecommended" => FaultKind::InsufficientResources(name.to_owned()),
        _ if name.starts_with("Insufficient") => FaultKind::InsufficientResources(name.to_owned()),
        "FileFault" | "CannotAccessFile" | "CannotCreateFile" | "CannotDeleteFile" | "FileAlreadyExists"
        | "FileLocked" | "FileNameTooLong" | "FileNotFound" | "FileNotWritable" | "FileTooLarge"
        | "IncorrectFileType" | "NetworkCopyFault" => FaultKind::FileFault(name.to_owned()),
        _ => FaultKind::Other(name.to_owned()),
    }
}

fn missing_privilege(element: &Element) -> String {
    let old = element.text_of("privilegeId").trim();
    if !old.is_empty() {
        return old.to_owned();
    }
    element.at(&["missingPrivileges", "privilegeIds"]).map_or_else(String::new, |id| id.text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope_with(body: &str) -> String {
        format!(
            "<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\
             <soapenv:Body>{body}</soapenv:Body></soapenv:Envelope>"
        )
    }

    fn fault(detail: &str) -> Error {
        let body = envelope_with(&format!(
            "<soapenv:Fault><faultcode>ServerFaultCode</faultcode>\
             <faultstring>in words</faultstring><detail>{detail}</detail></soapenv:Fault>"
        ));
        answer("CloneVM_Task", 500, body.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_fault_is_known_by_its_type_and_its_data() {
        let error = fault(
            "<NoPermissionFault xsi:type=\"NoPermission\">\
             <object type=\"Folder\">group-v3</object><privilegeId>Folder.Create</privilegeId></NoPermissionFault>",
        );
        assert_eq!(error.category(), crate::Category::Permission);
        assert_eq!(
            error.fault(),
            Some(&FaultKind::NoPermission {
                privilege: "Folder.Create".to_owned(),
                object: Some(ManagedObjectRef::new("Folder", "group-v3")),
            })
        );
        assert!(!error.outcome_unknown());
    }

    #[test]
    fn the_elements_name_serves_where_the_type_is_missing() {
        assert_eq!(fault("<InvalidLoginFault/>").fault(), Some(&FaultKind::InvalidLogin));
    }

    #[test]
    fn vcsim_types_a_fault_under_a_prefix_of_its_own() {
        let error = fault(
            "<Fault xmlns:_XMLSchema-instance=\"http://www.w3.org/2001/XMLSchema-instance\" \
             _XMLSchema-instance:type=\"ManagedObjectNotFound\"><obj type=\"VirtualMachine\">vm-1</obj></Fault>",
        );
        assert_eq!(error.missing_object(), Some(&ManagedObjectRef::new("VirtualMachine", "vm-1")));
    }

    #[test]
    fn an_unknown_insufficiency_is_still_a_matter_of_capacity() {
        let error = fault("<x xsi:type=\"InsufficientSomethingNewFault\"/>");
        assert_eq!(error.category(), crate::Category::Capacity);
    }

    #[test]
    fn a_proxys_503_leaves_the_outcome_open() {
        let error = answer("CloneVM_Task", 503, b"<html>busy</html>").unwrap_err();
        assert!(matches!(error, Error::Http { status: 503, .. }), "{error}");
        assert!(error.outcome_unknown());
    }

    #[test]
    fn a_cut_answer_leaves_the_outcome_open() {
        let whole = envelope_with("<CloneVM_TaskResponse/>");
        let error = answer("CloneVM_Task", 200, &whole.as_bytes()[..40]).unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
        assert!(error.outcome_unknown());
    }

    #[test]
    fn an_answer_to_another_call_is_not_taken() {
        let other = envelope_with("<DestroyTaskResponse/>");
        assert!(answer("CloneVM_Task", 200, other.as_bytes()).is_err());
    }

    #[test]
    fn a_name_cannot_break_out_of_its_element() {
        let this = ManagedObjectRef::new("Folder", "group-1");
        let text = envelope("CreateFolder", &this, |w| {
            w.text("name", "</name><evil/>&\"");
        });
        let parsed = xml::parse(text.as_bytes()).unwrap();
        let call = parsed.at(&["Body", "CreateFolder"]).unwrap();
        assert_eq!(call.text_of("name"), "</name><evil/>&\"");
        assert_eq!(call.children.len(), 2);
    }
}

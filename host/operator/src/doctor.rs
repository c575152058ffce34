//! What `vmgroup doctor` looks at: whether a vCenter is there, lets us in, has what was
//! named, and lets our user do what the operator will do, on the very objects that it
//! will be done to. In the order in which a newcomer meets trouble; nothing is changed.
//!
//! Must not know the command line, nor Kubernetes.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use vmgroup_vsphere::{About, Error, ManagedObjectRef, Site, SiteSelection, Template, TransportKind, Vcenter};

use crate::link::chain;

/// The kind of object that a privilege has to be held on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum On {
    /// The folder that all groups' folders lie in, and by propagation all that is below.
    RootFolder,
    /// The pool of each cluster that may be used.
    Pool,
    /// Each datastore that may be used.
    Datastore,
    /// Each template.
    Template,
    /// Each network that a template is connected to.
    Network,
    /// The vCenter itself.
    Vcenter,
}

impl On {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RootFolder => "root folder",
            Self::Pool => "pool",
            Self::Datastore => "datastore",
            Self::Template => "template",
            Self::Network => "network",
            Self::Vcenter => "vCenter",
        }
    }
}

/// A privilege that the operator uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Need {
    /// vCenter's identifier of it.
    pub privilege: &'static str,
    /// What it has to be held on.
    pub on: On,
    /// What does not work without it.
    pub without: &'static str,
    /// Everything else works without it.
    pub optional: bool,
}

const fn need(privilege: &'static str, on: On, without: &'static str) -> Need {
    Need { privilege, on, without, optional: false }
}

const fn wish(privilege: &'static str, on: On, without: &'static str) -> Need {
    Need { privilege, on, without, optional: true }
}

/// What a source takes that is a template, and one that is an ordinary machine.
const DEPLOY: &str = "VirtualMachine.Provisioning.DeployTemplate";
const CLONE: &str = "VirtualMachine.Provisioning.Clone";

/// Tags lie in no datacenter, but below vCenter itself.
const TAG: &str = "InventoryService.Tagging.AttachTag";

/// All of them.
pub const NEEDS: [Need; 23] = [
    need("Folder.Create", On::RootFolder, "no group can begin: it gets no folder"),
    need("Folder.Delete", On::RootFolder, "a deleted group stays: its empty folder cannot go"),
    need("VirtualMachine.Inventory.CreateFromExisting", On::RootFolder, "no member is cloned"),
    need("VirtualMachine.Inventory.Delete", On::RootFolder, "no member can leave"),
    need("VirtualMachine.Interact.PowerOn", On::RootFolder, "members stay off"),
    need("VirtualMachine.Interact.PowerOff", On::RootFolder, "no member that is on can leave"),
    need("VirtualMachine.Config.AdvancedConfig", On::RootFolder, "no member is cloned: it could carry no owner mark"),
    need("VirtualMachine.Config.CPUCount", On::RootFolder, "no member is cloned with the group's cpu"),
    need("VirtualMachine.Config.Memory", On::RootFolder, "no member is cloned with the group's memory"),
    need(DEPLOY, On::Template, "no member is cloned from it"),
    need(CLONE, On::Template, "no member is cloned from it"),
    need("Resource.AssignVMToPool", On::Pool, "no member is cloned into it"),
    need("Datastore.AllocateSpace", On::Datastore, "no member is cloned onto it"),
    need("Network.Assign", On::Network, "no member is cloned that is connected to it"),
    wish("VirtualMachine.Config.AddNewDisk", On::RootFolder, "no member of a group with `disks` is cloned"),
    wish("VirtualMachine.Config.AddRemoveDevice", On::RootFolder, "no member of a group with `networks` is cloned"),
    wish(
        "VirtualMachine.Provisioning.Customize",
        On::Template,
        "no member of a group with `customizationSpec` is cloned",
    ),
    wish("VirtualMachine.Provisioning.ReadCustSpecs", On::Vcenter, "a group's `customizationSpec` is not found"),
    wish("Global.SetCustomField", On::RootFolder, "members of a group with `customAttributes` do not get them"),
    wish(TAG, On::Vcenter, "members of a group with `tags` do not get them"),
    wish("InventoryService.Tagging.ObjectAttachable", On::RootFolder, "members of a group with `tags` do not get them"),
    wish("VirtualMachine.Inventory.Move", On::RootFolder, "`vmgroup adopt` cannot move machines into a group's folder"),
    wish("Sessions.TerminateSession", On::Vcenter, "sessions of an operator that was killed end by timeout only"),
];

/// The privileges of the role to create. Of the two that a source of clones may take,
/// that for templates: an ordinary machine is the exception.
pub fn role() -> BTreeSet<&'static str> {
    NEEDS.iter().filter(|need| need.on != On::Vcenter && need.privilege != CLONE).map(|need| need.privilege).collect()
}

/// Those of a second role, for vCenter itself. All of them are optional.
pub fn role_on_vcenter() -> BTreeSet<&'static str> {
    NEEDS.iter().filter(|need| need.on == On::Vcenter).map(|need| need.privilege).collect()
}

/// How something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// As it should be.
    Good,
    /// It could be better; the operator does without.
    Wish,
    /// It could not be looked at.
    Unknown,
    /// The operator cannot work so.
    Bad,
}

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: `address`, `certificate`, `login`, `privilege`, …
    pub check: &'static str,
    /// Of what: its name, path or address.
    pub object: String,
    /// How it was found.
    pub condition: Condition,
    /// In words.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn good(check: &'static str, object: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { check, object: object.into(), condition: Condition::Good, detail: detail.into(), remedy: None }
    }

    /// Something without which the operator cannot work.
    pub fn bad(check: &'static str, object: impl Into<String>, detail: String, remedy: Option<&str>) -> Self {
        let remedy = remedy.map(str::to_owned);
        Self { check, object: object.into(), condition: Condition::Bad, detail, remedy }
    }

    /// Something that nobody could look at.
    pub fn unknown(check: &'static str, object: impl Into<String>, detail: String, remedy: &str) -> Self {
        let remedy = Some(remedy.to_owned());
        Self { check, object: object.into(), condition: Condition::Unknown, detail, remedy }
    }
}

/// Looks at everything; what comes after something that is not there is left out.
/// `address` is what people call this vCenter, `trust` says whose certificates count,
/// `templates` what they clone from.
pub async fn examine(
    vcenter: &Vcenter,
    (address, trust): (&str, &str),
    selection: &SiteSelection,
    templates: &[String],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    match vcenter.connect().await {
        Ok(about) => findings.extend(reached(address, trust, &about)),
        Err(error) => {
            findings.extend(not_reached(address, trust, &error));
            return findings;
        }
    }
    let site = match vcenter.resolve_site(selection).await {
        Ok(site) => site,
        Err(error) => {
            findings.push(Finding::bad("site", address, chain(&error), remedy_of(&error)));
            return findings;
        }
    };
    findings.extend(found(&site));
    findings.push(tags(vcenter, address).await);
    let mut sources = Vec::new();
    for name in templates {
        match vcenter.find_template(&site, name).await {
            Ok(template) => {
                let what =
                    if template.is_template { "a template" } else { "an ordinary machine, which can be cloned too" };
                findings.push(Finding::good("template", &template.path, what));
                sources.push(template);
            }
            Err(error) => findings.push(Finding::bad("template", name, chain(&error), remedy_of(&error))),
        }
    }
    findings.extend(privileges(vcenter, address, &site, &sources).await);
    findings
}

/// Whether the API answers that tags are behind. Nobody else needs it.
async fn tags(vcenter: &Vcenter, address: &str) -> Finding {
    let check = "tags";
    match vcenter.tagging_answers().await {
        Ok(()) => Finding::good(check, address, "the REST API answers"),
        Err(error) => Finding {
            check,
            object: address.to_owned(),
            condition: Condition::Wish,
            detail: format!(
                "the REST API does not answer, so members of a group with `tags` do not get them: {}",
                chain(&error)
            ),
            remedy: Some(
                "look at what lies between (a proxy that lets /sdk through only?), or do without `tags`".to_owned(),
            ),
        },
    }
}

fn before_login(address: &str, trust: &str) -> [Finding; 2] {
    [Finding::good("address", address, "answers"), Finding::good("certificate", address, trust)]
}

fn reached(address: &str, trust: &str, about: &About) -> Vec<Finding> {
    let [answers, trusted] = before_login(address, trust);
    vec![answers, trusted, Finding::good("login", address, format!("{}, API {}", about.full_name, about.api_version))]
}

fn not_reached(address: &str, trust: &str, error: &Error) -> Vec<Finding> {
    let why = chain(error);
    let bad = |check| Finding::bad(check, address, why.clone(), remedy_of(error));
    let [answers, trusted] = before_login(address, trust);
    match error {
        Error::Transport { source, .. } => match source.kind {
            TransportKind::Tls => vec![answers, bad("certificate")],
            TransportKind::Connect | TransportKind::Timeout | TransportKind::Broken => vec![bad("address")],
        },
        Error::Login { .. } => vec![answers, trusted, bad("login")],
        _ => vec![bad("address")],
    }
}

fn remedy_of(error: &Error) -> Option<&'static str> {
    match error {
        Error::Transport { source, .. } => Some(match source.kind {
            TransportKind::Tls => {
                "give its certificate authority with --vc-ca-file; vCenter's own is in https://VCENTER/certs/download.zip"
            }
            TransportKind::Connect => {
                "is the name right (VC_HOST), does it resolve here, and does a firewall let HTTPS (443) through?"
            }
            TransportKind::Timeout | TransportKind::Broken => {
                "look at what lies between: firewall, proxy, load balancer"
            }
        }),
        Error::Timeout { .. } => Some("look at what lies between: firewall, proxy, load balancer"),
        Error::Http { .. } | Error::Protocol { .. } => {
            Some("is this a vCenter? Its API is under /sdk, which is appended where no path is given")
        }
        Error::Login { .. } => Some(
            "a user needs his domain, as in operator@vsphere.local; mind that vCenter locks after five wrong passwords",
        ),
        Error::Session { source, .. } => remedy_of(source),
        // They say what there is to choose from.
        _ => None,
    }
}

fn found(site: &Site) -> Vec<Finding> {
    let mut findings = vec![Finding::good("datacenter", &site.datacenter_path, "found")];
    findings.extend(
        site.clusters.iter().map(|cluster| Finding::good("pool", &cluster.pool_path, format!("of {}", cluster.name))),
    );
    findings.extend(site.datastores.iter().map(|store| {
        let pod = site.pods.iter().find(|pod| pod.datastores.contains(&store.id));
        let found = pod.map_or_else(|| "found".to_owned(), |pod| format!("of the datastore cluster {}", pod.name));
        Finding::good("datastore", &store.name, found)
    }));
    findings.push(Finding::good("root folder", &site.root_path, "found"));
    findings
}

/// An object to be asked about: what people call it, and what is needed on it.
struct Subject {
    on: On,
    name: String,
    id: ManagedObjectRef,
    needs: Vec<&'static Need>,
}

impl Subject {
    fn new(on: On, name: &str, id: ManagedObjectRef) -> Self {
        Self { on, name: name.to_owned(), id, needs: NEEDS.iter().filter(|need| need.on == on).collect() }
    }

    fn source(template: &Template) -> Self {
        let mut subject = Self::new(On::Template, &template.path, template.id.managed_object());
        let other = if template.is_template { CLONE } else { DEPLOY };
        subject.needs.retain(|need| need.privilege != other);
        subject
    }

    fn findings(&self, held: &BTreeSet<String>) -> Vec<Finding> {
        let missing = self.needs.iter().filter(|need| !held.contains(need.privilege));
        let findings: Vec<Finding> = missing.map(|need| self.lacks(need)).collect();
        if findings.is_empty() {
            let all = format!("{} on the {}", self.needs.len(), self.on.as_str());
            return vec![Finding::good("privileges", &self.name, all)];
        }
        findings
    }

    fn lacks(&self, need: &Need) -> Finding {
        Finding {
            check: "privilege",
            object: self.name.clone(),
            condition: if need.optional { Condition::Wish } else { Condition::Bad },
            detail: format!("{} is missing on the {}: {}", need.privilege, self.on.as_str(), need.without),
            remedy: Some(format!(
                "give the user a role with {} there; `vmgroup doctor --role` prints how to make one",
                need.privilege
            )),
        }
    }
}

async fn privileges(vcenter: &Vcenter, address: &str, site: &Site, sources: &[Template]) -> Vec<Finding> {
    let asked = async {
        let subjects = subjects(vcenter, address, site, sources).await?;
        let ids: Vec<ManagedObjectRef> = subjects.iter().map(|subject| subject.id.clone()).collect();
        Ok::<_, Error>((vcenter.privileges_on(&ids).await?, subjects))
    };
    let cannot = |why: String| {
        let remedy = "compare the user's role with what `vmgroup doctor --role` prints";
        vec![Finding::unknown("privileges", address, why, remedy)]
    };
    match asked.await {
        Ok((Some(held), subjects)) => {
            let none = BTreeSet::new();
            subjects.iter().flat_map(|subject| subject.findings(held.get(&subject.id).unwrap_or(&none))).collect()
        }
        Ok((None, _)) => cannot("this server does not tell who may do what".to_owned()),
        Err(error) => cannot(chain(&error)),
    }
}

async fn subjects(vcenter: &Vcenter, address: &str, site: &Site, sources: &[Template]) -> Result<Vec<Subject>, Error> {
    let mut subjects = vec![Subject::new(On::RootFolder, &site.root_path, site.root_folder.managed_object())];
    for cluster in &site.clusters {
        subjects.push(Subject::new(On::Pool, &cluster.pool_path, cluster.pool.managed_object()));
    }
    for store in &site.datastores {
        subjects.push(Subject::new(On::Datastore, &store.name, store.id.managed_object()));
    }
    let mut networks = BTreeMap::new();
    for template in sources {
        subjects.push(Subject::source(template));
        for network in vcenter.networks_of(&template.id).await? {
            networks.insert(network.id, network.name);
        }
    }
    subjects.extend(networks.into_iter().map(|(id, name)| Subject::new(On::Network, &name, id)));
    subjects.push(Subject::new(On::Vcenter, address, vcenter.top().await?));
    Ok(subjects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roles_have_each_privilege_once_and_nothing_that_is_held_elsewhere() {
        let (role, on_vcenter) = (role(), role_on_vcenter());
        assert!(role.contains(DEPLOY) && !role.contains(CLONE) && !role.contains("Sessions.TerminateSession"));
        assert!(on_vcenter.contains("Sessions.TerminateSession") && role.is_disjoint(&on_vcenter));
        // No remedy leads to a role that lacks it, but to the other word for cloning.
        let lacking =
            NEEDS.iter().filter(|need| !role.contains(need.privilege) && !on_vcenter.contains(need.privilege));
        assert_eq!(lacking.map(|need| need.privilege).collect::<Vec<_>>(), [CLONE]);
        assert!(NEEDS.iter().all(|need| need.optional || need.on != On::Vcenter));
        let distinct: BTreeSet<_> = NEEDS.iter().map(|need| (need.privilege, need.on.as_str())).collect();
        assert_eq!(distinct.len(), NEEDS.len());
    }

    #[test]
    fn the_docs_have_every_privilege_with_what_it_is_for() {
        let docs = include_str!("../../../docs/operations.md");
        for need in NEEDS {
            let row = format!("| `{}` | {} | {} |", need.privilege, need.on.as_str(), need.without);
            assert!(docs.contains(&row), "docs/operations.md needs this row:\n{row}");
        }
    }
}

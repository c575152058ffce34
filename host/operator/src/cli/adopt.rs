//! `vmgroup adopt`: gives machines that are nobody's to a group.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::Instant;
use vmgroup_api::{ADOPTING_ANNOTATION, MemberState, VmGroup};
use vmgroup_vsphere::FolderRef;

use super::desk::DeskArgs;
use super::orphans::{machine_json, power};
use super::{Output, table};
use crate::by_hand::{Hand, HandError, Machine, Survey};
use crate::ownership::{Owner, Standing, mark};
use crate::report::ADOPTING;
use crate::revision::Made;
use crate::status::{StatusError, bounded};
use crate::validate::{Desired, Invalid, validate};
use crate::wake::GroupRef;

/// How long the operator may take to say that it waits for the newcomers.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is asked.
const LOOK: Duration = Duration::from_millis(500);

/// Arguments of `vmgroup adopt`.
#[derive(Args, Debug)]
#[command(after_help = "\
A machine can be adopted that carries no mark, was released (`vmgroup orphans --release`), or is
an orphan of this cluster. It keeps its name, its place and its power state until it is a member;
then the operator powers it on. CPU and memory stay as they are, whatever the group's spec says.

A group that has as many members as it wishes would have one of them removed again: --scale raises
spec.replicas by as many as come, in the same step. The operator has to be running: it says that
it waits for the newcomers, and makes and removes nobody until they have come.

Members whose marks are those of an older version, or another cluster's, get today's marks.

Examples:
  vmgroup adopt shop/web old-web-1 old-web-2 --scale         # shows what it would do
  vmgroup adopt shop/web old-web-1 old-web-2 --scale --yes
  vmgroup adopt shop/web old-web-1 --connections vmgroup-connections --connection muc")]
pub struct AdoptArgs {
    /// The group: NAMESPACE/NAME
    #[arg(value_name = "NAMESPACE/GROUP", value_parser = group)]
    group: GroupRef,

    /// Who comes: names, inventory paths or references (vm-123)
    #[arg(value_name = "VM", required = true)]
    vms: Vec<String>,

    /// Raise spec.replicas, so that nobody has to leave for the newcomers
    #[arg(long)]
    scale: bool,

    /// Do it. Without this, what would be done is shown
    #[arg(long)]
    yes: bool,

    /// For people or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,

    #[command(flatten)]
    desk: DeskArgs,
}

fn group(text: &str) -> Result<GroupRef, String> {
    GroupRef::parse(text)
        .filter(|group| !group.namespace.is_empty() && !group.name.is_empty())
        .ok_or_else(|| "give it as NAMESPACE/NAME, such as shop/web".to_owned())
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// Something went wrong on the way.
    #[error(transparent)]
    Hand(#[from] HandError),
    /// The session could not be had.
    #[error(transparent)]
    Session(#[from] Box<super::SessionError>),
    /// The group could not be read or changed.
    #[error("the VmGroup {group} could not be read or changed")]
    Group {
        /// Which.
        group: GroupRef,
        /// Why.
        source: StatusError,
    },
    /// Its spec cannot be worked on.
    #[error("the VmGroup {group} cannot be worked on")]
    Invalid {
        /// Which.
        group: GroupRef,
        /// Why.
        source: Invalid,
    },
    /// It is going.
    #[error("the VmGroup {0} is being deleted, and its members with it")]
    Deleting(GroupRef),
    /// It has no folder yet.
    #[error(
        "the VmGroup {0} has no folder in vCenter yet: is the operator running? `kubectl describe vg` says what it waits for"
    )]
    NoFolder(GroupRef),
    /// Not to be adopted.
    #[error("{path} cannot be adopted: {why}")]
    Refused {
        /// Its inventory path.
        path: String,
        /// Why not.
        why: String,
    },
    /// Somebody would have to leave.
    #[error(
        "{group} wishes {wished} members and has {has}: with {come} more, the scaling policy would choose who is destroyed. Say --scale to raise spec.replicas to {to} in the same step"
    )]
    Full {
        /// The group.
        group: GroupRef,
        /// `spec.replicas`.
        wished: usize,
        /// Members that there are or will be.
        has: usize,
        /// Newcomers.
        come: usize,
        /// What it would have to be.
        to: usize,
    },
    /// The operator does not answer.
    #[error(
        "the operator has not said within {} s that it waits for them; nothing was moved or marked. Is it running, and does it lead? The annotation stays, so that nobody is made or removed meanwhile: run this again, or give up with  kubectl -n {} annotate vg {} {ADOPTING_ANNOTATION}-",
        PATIENCE.as_secs(), .0.namespace, .0.name
    )]
    NoOperator(GroupRef),
    /// The operator does not count them.
    #[error(
        "they are moved and marked, but the operator has not counted them within {} s; the annotation stays, so that nobody is made or removed meanwhile: run this again to end it",
        PATIENCE.as_secs()
    )]
    NotCounted(GroupRef),
    /// The result could not be written.
    #[error("the output could not be written")]
    Output(#[from] std::io::Error),
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The group.
    pub group: GroupRef,
    /// Who comes.
    pub vms: Vec<String>,
    /// Raise `spec.replicas`.
    pub scale: bool,
    /// Really.
    pub yes: bool,
    /// How to say it.
    pub output: Output,
}

pub(super) async fn run(arguments: AdoptArgs, out: &mut impl Write) -> Result<ExitCode, AdoptError> {
    let AdoptArgs { group, vms, scale, yes, output, desk } = arguments;
    let hand = desk.hand().await?;
    let result = execute(&hand, &Request { group, vms, scale, yes, output }, out).await;
    hand.vcenter.logout().await;
    result.map(|()| ExitCode::SUCCESS)
}

/// What becomes of one machine.
struct Move<'a> {
    machine: &'a Machine,
    action: Action,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    /// It becomes a member.
    Adopt,
    /// It is one, and gets today's marks.
    Mark,
    /// It is one.
    Nothing,
}

/// Shows what would be done, or does it.
pub async fn execute(hand: &Hand, request: &Request, out: &mut impl Write) -> Result<(), AdoptError> {
    let api: Api<VmGroup> = Api::namespaced(hand.kube.clone(), &request.group.namespace);
    let failed = |source| AdoptError::Group { group: request.group.clone(), source };
    let object = bounded(api.get(&request.group.name)).await.map_err(failed)?;
    let desired = validate(&object).map_err(|source| AdoptError::Invalid { group: request.group.clone(), source })?;
    if desired.deleting {
        return Err(AdoptError::Deleting(request.group.clone()));
    }
    let owner = Owner::of(&desired, Some(&hand.cluster));
    let folder = object
        .status
        .as_ref()
        .and_then(|status| status.folder.as_ref()?.id.clone())
        .map(FolderRef::new)
        .ok_or_else(|| AdoptError::NoFolder(request.group.clone()))?;
    let baseline = desired.baseline(object.status.as_ref().and_then(|status| status.baseline.as_deref()));
    let marks = Marks { desired: &desired, baseline };
    let survey = hand.survey().await?;
    let moves = moves(&survey, request, &owner, &folder)?;
    let newcomers: BTreeSet<String> = moves
        .iter()
        .filter(|one| one.action == Action::Adopt)
        .map(|one| one.machine.vm.instance_uuid.to_lowercase())
        .collect();
    let replicas = replicas(&survey, &object, &desired, &owner, &newcomers, request)?;
    if request.output == Output::Text {
        show(out, &moves, &desired, replicas)?;
    }
    if request.yes {
        if !newcomers.is_empty() {
            announce(&api, &object, &desired, &newcomers, replicas).await.map_err(failed)?;
            if !told(&api, request, &newcomers, true).await.map_err(failed)? {
                return Err(AdoptError::NoOperator(request.group.clone()));
            }
        }
        for one in moves.iter().filter(|one| one.action != Action::Nothing) {
            carry_out(hand, one, &owner, &marks, &folder).await?;
        }
        if !newcomers.is_empty() {
            // Only when the operator counts them may their place be taken back.
            if !told(&api, request, &newcomers, false).await.map_err(failed)? {
                return Err(AdoptError::NotCounted(request.group.clone()));
            }
            let patch = json!({"metadata": {"uid": desired.uid, "annotations": {ADOPTING_ANNOTATION: Value::Null}}});
            bounded(api.patch(&request.group.name, &PatchParams::default(), &Patch::Merge(patch)))
                .await
                .map_err(failed)?;
        }
    }
    match request.output {
        Output::Json => {
            let machines: Vec<Value> = moves
                .iter()
                .map(|one| {
                    let mut row = machine_json(one.machine);
                    row["action"] = json!(one.action.as_str());
                    row
                })
                .collect();
            let answer = json!({
                "group": request.group.to_string(), "replicas": replicas, "done": request.yes, "machines": machines,
            });
            writeln!(out, "{answer:#}")?;
        }
        Output::Text if request.yes => {
            writeln!(out, "Done: `kubectl -n {} get vg {}` shows them.", request.group.namespace, request.group.name)?;
        }
        Output::Text => writeln!(out, "Nothing was changed. To do it, say --yes.")?,
    }
    Ok(())
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Adopt => "adopt",
            Self::Mark => "mark",
            Self::Nothing => "none",
        }
    }
}

fn moves<'a>(
    survey: &'a Survey,
    request: &Request,
    owner: &Owner,
    folder: &FolderRef,
) -> Result<Vec<Move<'a>>, AdoptError> {
    let mut moves: Vec<Move<'a>> = Vec::new();
    for name in &request.vms {
        let machine = survey.find(name)?;
        if moves.iter().any(|other| other.machine.vm.id == machine.vm.id) {
            continue;
        }
        let refused = |why: String| AdoptError::Refused { path: machine.path.clone(), why };
        let of_group = machine.vm.extra.get(mark::GROUP_UID) == Some(&owner.uid);
        let action = match machine.standing {
            Standing::Member if of_group && owner.outdated(&machine.vm) => Action::Mark,
            Standing::Member if of_group => Action::Nothing,
            Standing::Contested if of_group => Action::Mark,
            Standing::Unmarked | Standing::Orphan | Standing::Copy | Standing::Released => Action::Adopt,
            Standing::Member | Standing::Contested => {
                let whose = machine.group.as_ref().map_or_else(|| "another group".to_owned(), ToString::to_string);
                return Err(refused(format!("it is a member of {whose}")));
            }
            Standing::OtherCluster => {
                return Err(refused("it is marked as another cluster's: release it there".into()));
            }
            Standing::Doubtful => {
                return Err(refused(
                    "its marks name a group that nobody here knows, and no cluster: if it is nobody's, release it with `vmgroup orphans --release`".into(),
                ));
            }
        };
        if action == Action::Adopt {
            let uuid = &machine.vm.instance_uuid;
            if uuid.is_empty() {
                return Err(refused("vCenter knows no instance UUID of it".into()));
            }
            let same =
                |other: &&Machine| other.vm.instance_uuid.eq_ignore_ascii_case(uuid) && other.vm.id != machine.vm.id;
            if let Some(other) = survey.machines.iter().find(same) {
                return Err(refused(format!("{} has the same instance UUID {uuid}", other.path)));
            }
            let in_the_way = |other: &&Machine| {
                other.vm.parent.as_ref() == Some(folder)
                    && other.vm.name == machine.vm.name
                    && other.vm.id != machine.vm.id
            };
            let among_newcomers = moves.iter().any(|other| other.machine.vm.name == machine.vm.name);
            if survey.machines.iter().any(|other| in_the_way(&other)) || among_newcomers {
                return Err(refused("the name is taken in the group's folder: rename it first".into()));
            }
        }
        moves.push(Move { machine, action });
    }
    Ok(moves)
}

/// `spec.replicas` as it has to be.
fn replicas(
    survey: &Survey,
    object: &VmGroup,
    desired: &Desired,
    owner: &Owner,
    newcomers: &BTreeSet<String>,
    request: &Request,
) -> Result<usize, AdoptError> {
    let members = survey.machines.iter().filter(|machine| owner.owns(&machine.vm) || owner.contests(&machine.vm));
    let mut uuids: BTreeSet<String> = members.map(|machine| machine.vm.instance_uuid.to_lowercase()).collect();
    let making = object.status.iter().flat_map(|status| &status.members);
    let making = making.filter(|member| matches!(member.state, MemberState::Planned | MemberState::Cloning));
    uuids.extend(making.map(|member| member.uuid.to_lowercase()));
    // Those of an earlier attempt are waited for already.
    uuids.extend(desired.adopting.iter().cloned());
    let has = uuids.difference(newcomers).count();
    let to = has + newcomers.len();
    if to <= desired.replicas || newcomers.is_empty() {
        return Ok(desired.replicas);
    }
    if request.scale {
        return Ok(to);
    }
    let (group, wished, come) = (request.group.clone(), desired.replicas, newcomers.len());
    Err(AdoptError::Full { group, wished, has, come, to })
}

/// Tells the operator who is coming, and makes room for them, in one step.
async fn announce(
    api: &Api<VmGroup>,
    object: &VmGroup,
    desired: &Desired,
    newcomers: &BTreeSet<String>,
    replicas: usize,
) -> Result<(), StatusError> {
    let all: Vec<&str> = desired.adopting.union(newcomers).map(String::as_str).collect();
    let patch = json!({
        "metadata": {
            "uid": desired.uid,
            "resourceVersion": object.metadata.resource_version,
            "annotations": {ADOPTING_ANNOTATION: all.join(",")},
        },
        "spec": {"replicas": replicas},
    });
    bounded(api.patch(&desired.group.name, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
}

/// Waits until the operator says that it waits for them all (from then on no pass
/// is under way that began without knowing of them), or that it waits for none of
/// them any more. False if it does not within [`PATIENCE`].
async fn told(
    api: &Api<VmGroup>,
    request: &Request,
    newcomers: &BTreeSet<String>,
    waiting: bool,
) -> Result<bool, StatusError> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let status = bounded(api.get(&request.group.name)).await?.status.unwrap_or_default();
        let message = status.conditions.iter().find(|known| known.type_ == ADOPTING).map(|known| &known.message);
        let names = |uuid: &String| message.is_some_and(|message| message.contains(uuid.as_str()));
        if if waiting { newcomers.iter().all(names) } else { !newcomers.iter().any(names) } {
            return Ok(true);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(false)
}

/// What machines are marked as having been made as.
struct Marks<'a> {
    desired: &'a Desired,
    /// Members whose marks do not tell.
    baseline: Made,
}

impl Marks<'_> {
    /// Who is adopted is as he is to be, whatever he was before: he is neither
    /// replaced nor restarted for having come.
    fn of(&self, one: &Move<'_>) -> (Made, Option<&str>) {
        if one.action == Action::Adopt {
            return (self.desired.made(), self.desired.restarted_at.as_deref());
        }
        let made = one.machine.vm.extra.get(mark::MADE).and_then(|text| text.parse().ok());
        (made.unwrap_or_else(|| self.baseline.clone()), None)
    }
}

async fn carry_out(
    hand: &Hand,
    one: &Move<'_>,
    owner: &Owner,
    marks: &Marks<'_>,
    folder: &FolderRef,
) -> Result<(), AdoptError> {
    let fresh = hand.unchanged(one.machine).await?;
    if one.action == Action::Adopt {
        // Unmarked in the folder it is nobody's; marked outside of it the
        // operator would not see it.
        hand.move_into(&fresh, folder, &one.machine.path).await?;
    }
    let created = fresh.extra.get(mark::CREATED).and_then(|text| text.parse().ok());
    let created = created.or_else(|| u64::try_from(fresh.created?.as_second()).ok()).unwrap_or_default();
    let (made, restarted) = marks.of(one);
    let mut marks = owner.marks(&fresh.instance_uuid, created, &made, restarted, None);
    // What another group's data was tells nothing of this one's.
    marks.extend([mark::RELEASED, mark::USER_DATA].map(|key| (key.to_owned(), String::new())));
    Ok(hand.mark(&fresh.id, &marks, &one.machine.path).await?)
}

fn show(out: &mut impl Write, moves: &[Move<'_>], desired: &Desired, replicas: usize) -> Result<(), std::io::Error> {
    let mut rows = vec![["ACTION", "PATH", "POWER", "CPUS", "MEMORY", "NOTE"].map(str::to_owned)];
    for Move { machine, action } in moves {
        let vm = &machine.vm;
        let mut notes = Vec::new();
        if *action == Action::Adopt {
            if machine.standing != Standing::Unmarked {
                notes.push(format!("was {}", machine.standing.as_str()));
            }
            if (vm.cpus, vm.memory_mib) != (desired.cpus, desired.memory_mib) {
                notes.push("not of the group's size, and stays so".to_owned());
            }
            if vm.power != vmgroup_vsphere::PowerState::On {
                notes.push("the operator will power it on".to_owned());
            }
        }
        rows.push([
            action.as_str().to_owned(),
            machine.path.clone(),
            power(vm.power).to_owned(),
            vm.cpus.to_string(),
            format!("{} MiB", vm.memory_mib),
            notes.join("; "),
        ]);
    }
    table(out, &rows)?;
    if replicas != desired.replicas {
        writeln!(out, "spec.replicas: {} -> {replicas}", desired.replicas)?;
    }
    Ok(())
}

//! `vmgroup orphans`: lists what no group has, and releases or deletes it.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use vmgroup_vsphere::PowerState;

use super::desk::DeskArgs;
use super::{Output, table};
use crate::by_hand::{Hand, HandError, LooseFolder, Machine};
use crate::ownership::{Standing, mark};

/// Arguments of `vmgroup orphans`.
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
#[derive(Args, Debug)]
#[command(after_help = "\
What is listed:
  orphan     carries the mark of this cluster, but its group does not exist any more
  doubtful   carries the mark of a group that nobody here knows, and of no cluster
  contested  carries the uid of a group of this cluster, and the mark of another cluster
  copy       carries the marks of another machine: a clone made by hand
  released   was a member; its group was deleted and kept it (deletionPolicy: Retain, or the
             annotation vmgroup.codeconnect.vmworld.com/orphan)
  unmarked   lies in a folder under the root folder and carries no mark
  folder     lies under the root folder and no group of this cluster has it
Members of groups, and what other clusters have marked, are not.

--release takes the marks away: whoever wants the machine can have it, and `vmgroup adopt` can
give it to a group. --delete powers off and destroys orphans, and removes empty folders; what is
doubtful only with --doubtful, and nothing else. Neither does anything without --yes.

Examples:
  vmgroup orphans
  vmgroup orphans --delete --all             # shows what it would do
  vmgroup orphans --delete web-replica-abcdefgh --yes
  vmgroup orphans --output json
  vmgroup orphans --connections vmgroup-connections --connection muc    # one of several vCenters")]
pub struct OrphansArgs {
    /// What to act on: names, inventory paths or references (vm-123)
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Take the marks from machines, which stay as they are
    #[arg(long, conflicts_with = "delete")]
    release: bool,

    /// Destroy orphans, remove empty folders
    #[arg(long)]
    delete: bool,

    /// Act on every orphan (but on no folder, and on nothing that is in doubt)
    #[arg(long, conflicts_with = "names")]
    all: bool,

    /// With --delete: also those whose marks name no cluster. They may be another cluster's
    #[arg(long, requires = "delete")]
    doubtful: bool,

    /// Do it. Without this, what would be done is shown
    #[arg(long)]
    yes: bool,

    /// For people or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,

    #[command(flatten)]
    desk: DeskArgs,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum OrphansError {
    /// Something went wrong on the way.
    #[error(transparent)]
    Hand(#[from] HandError),
    /// The session could not be had.
    #[error(transparent)]
    Session(#[from] Box<super::SessionError>),
    /// To act on nothing is a mistake.
    #[error("say what to {0}: names, or --all for every orphan")]
    Nothing(&'static str),
    /// Not to be done to such a one.
    #[error("{path} is {standing}: {why}")]
    Refused {
        /// Its inventory path.
        path: String,
        /// How it stands.
        standing: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// The result could not be written.
    #[error("the output could not be written")]
    Output(#[from] std::io::Error),
}

/// What to do, with what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Only look.
    List,
    /// Take marks away.
    Release,
    /// Destroy; those in doubt too if so.
    Delete {
        /// Also machines whose marks name no cluster.
        doubtful: bool,
    },
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to do.
    pub deed: Deed,
    /// To whom.
    pub names: Vec<String>,
    /// To every orphan.
    pub all: bool,
    /// Really.
    pub yes: bool,
    /// How to say it.
    pub output: Output,
}

pub(super) async fn run(arguments: OrphansArgs, out: &mut impl Write) -> Result<ExitCode, OrphansError> {
    let OrphansArgs { names, release, delete, all, doubtful, yes, output, desk } = arguments;
    let deed = match (release, delete) {
        (true, _) => Deed::Release,
        (_, true) => Deed::Delete { doubtful },
        _ => Deed::List,
    };
    let request = Request { deed, names, all, yes, output };
    let hand = desk.hand().await?;
    let result = execute(&hand, &request, out).await;
    hand.vcenter.logout().await;
    result.map(|()| ExitCode::SUCCESS)
}

enum Target<'a> {
    Machine(&'a Machine),
    Folder(&'a LooseFolder),
}

/// Lists, or does what was asked for.
pub async fn execute(hand: &Hand, request: &Request, out: &mut impl Write) -> Result<(), OrphansError> {
    let survey = hand.survey().await?;
    let listed: Vec<&Machine> = survey
        .machines
        .iter()
        .filter(|machine| match machine.standing {
            Standing::Member | Standing::OtherCluster => false,
            Standing::Unmarked => machine.in_group_folder,
            Standing::Orphan | Standing::Doubtful | Standing::Contested | Standing::Copy | Standing::Released => true,
        })
        .collect();
    let verb = match request.deed {
        Deed::List => {
            let mut machines = listed;
            let mut folders: Vec<&LooseFolder> = survey.folders.iter().collect();
            if !request.names.is_empty() {
                let asked: Vec<&Machine> = request.names.iter().filter_map(|name| survey.find(name).ok()).collect();
                machines.retain(|machine| asked.iter().any(|one| one.vm.id == machine.vm.id));
                folders.retain(|folder| request.names.iter().any(|name| *name == folder.name || *name == folder.path));
            }
            return Ok(list(out, &machines, &folders, request.output)?);
        }
        Deed::Release => "release",
        Deed::Delete { .. } => "delete",
    };
    let mut targets = Vec::new();
    if request.all {
        targets.extend(listed.iter().filter(|one| one.standing == Standing::Orphan).map(|one| Target::Machine(one)));
    } else if request.names.is_empty() {
        return Err(OrphansError::Nothing(verb));
    }
    for name in &request.names {
        let target = match survey.find_folder(name) {
            Some(folder) => Target::Folder(folder),
            None => Target::Machine(survey.find(name)?),
        };
        targets.push(target);
    }
    // All or nothing: a list with a mistake in it is no list to act on.
    for target in &targets {
        permit(request.deed, target)?;
    }
    let mut done = Vec::new();
    for target in &targets {
        let (path, id) = match target {
            Target::Machine(machine) => (&machine.path, machine.vm.id.as_str()),
            Target::Folder(folder) => (&folder.path, folder.id.as_str()),
        };
        if request.yes {
            match (request.deed, target) {
                (Deed::Release, Target::Machine(machine)) => hand.release(machine).await?,
                (_, Target::Machine(machine)) => hand.delete(machine).await?,
                (_, Target::Folder(folder)) => hand.delete_folder(folder).await?,
            }
        }
        if request.output == Output::Text {
            writeln!(out, "{}{verb}d {path} ({id})", if request.yes { "" } else { "would have " })?;
        }
        done.push(json!({"action": verb, "path": path, "id": id, "done": request.yes}));
    }
    match request.output {
        Output::Json => writeln!(out, "{:#}", json!({ "actions": done }))?,
        Output::Text if done.is_empty() => writeln!(out, "there is no orphan")?,
        Output::Text if !request.yes => writeln!(out, "Nothing was changed. To do it, say --yes.")?,
        Output::Text => {}
    }
    Ok(())
}

fn permit(deed: Deed, target: &Target<'_>) -> Result<(), OrphansError> {
    let machine = match target {
        Target::Folder(folder) if deed == Deed::Release => {
            return Err(refused(&folder.path, "a folder", "folders carry no marks"));
        }
        Target::Folder(folder) if folder.holds > 0 => {
            return Err(refused(
                &folder.path,
                "a folder",
                "it is not empty, and vCenter would delete all that is in it",
            ));
        }
        Target::Folder(_) => return Ok(()),
        Target::Machine(machine) => machine,
    };
    let why = match (machine.standing, deed) {
        (Standing::Orphan, _)
        | (Standing::Doubtful | Standing::Contested | Standing::Copy | Standing::Released, Deed::Release) => {
            return Ok(());
        }
        (Standing::Doubtful, Deed::Delete { doubtful: true }) => return Ok(()),
        (Standing::Doubtful, _) => {
            "its marks name no cluster, so it may be a living member of another one; --doubtful, if you know better"
        }
        (Standing::Member, _) => "scale or delete its group instead",
        (Standing::OtherCluster, _) => "ask there",
        (Standing::Contested, _) => "release it first, in the cluster that it is not to belong to",
        (Standing::Copy, _) => "a machine that somebody made by hand is deleted by hand, in vCenter",
        (Standing::Released, _) => "it was to be kept: delete it in vCenter",
        (Standing::Unmarked, Deed::Release) => "it carries no marks",
        (Standing::Unmarked, _) => "it was not made by this operator: delete it in vCenter",
    };
    Err(refused(&machine.path, machine.standing.as_str(), why))
}

fn refused(path: &str, standing: &'static str, why: &'static str) -> OrphansError {
    OrphansError::Refused { path: path.to_owned(), standing, why }
}

fn list(
    out: &mut impl Write,
    machines: &[&Machine],
    folders: &[&LooseFolder],
    output: Output,
) -> Result<(), std::io::Error> {
    if output == Output::Json {
        let machines: Vec<Value> = machines.iter().map(|machine| machine_json(machine)).collect();
        let folders: Vec<Value> = folders
            .iter()
            .map(|folder| json!({"path": folder.path, "id": folder.id.as_str(), "holds": folder.holds}))
            .collect();
        return writeln!(out, "{:#}", json!({"machines": machines, "folders": folders}));
    }
    if machines.is_empty() && folders.is_empty() {
        return writeln!(out, "Nothing: every machine and folder under the root folder has its group.");
    }
    let mut rows = vec![["KIND", "PATH", "ID", "POWER", "MARKED AS"].map(str::to_owned)];
    for machine in machines {
        rows.push([
            machine.standing.as_str().to_owned(),
            machine.path.clone(),
            machine.vm.id.to_string(),
            power(machine.vm.power).to_owned(),
            machine.group.as_ref().map(ToString::to_string).unwrap_or_default(),
        ]);
    }
    for folder in folders {
        let holds = if folder.holds == 0 { "empty".to_owned() } else { format!("holds {}", folder.holds) };
        rows.push(["folder".to_owned(), folder.path.clone(), folder.id.to_string(), String::new(), holds]);
    }
    table(out, &rows)
}

pub(super) fn power(state: PowerState) -> &'static str {
    match state {
        PowerState::On => "on",
        PowerState::Off => "off",
        PowerState::Suspended => "suspended",
        PowerState::Unknown => "?",
    }
}

pub(super) fn machine_json(machine: &Machine) -> Value {
    json!({
        "kind": machine.standing,
        "name": machine.vm.name,
        "path": machine.path,
        "id": machine.vm.id.as_str(),
        "uuid": machine.vm.instance_uuid,
        "power": power(machine.vm.power),
        "group": machine.group.as_ref().map(ToString::to_string),
        "groupUid": machine.vm.extra.get(mark::GROUP_UID),
        "cluster": machine.vm.extra.get(mark::CLUSTER),
    })
}

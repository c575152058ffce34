//! A question of any kind as one plain value, with its answer: what recorded
//! decisions, generated cases and the author's tools have in common. Knows no
//! engine.

use serde::{Deserialize, Serialize};

use crate::wit::types::Context;
use crate::wit::{naming, placement, scaling};
use crate::{Decided, DecisionError, Kind, LogLine};

/// A question with all that its answer may depend on. As JSON:
/// `{"kind": "scaling", "request": {…}}`, with the contract's field names in
/// snake case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "request", rename_all = "lowercase")]
pub enum Question {
    /// What new members are called.
    Naming(naming::Request),
    /// Where they go.
    Placement(placement::Request),
    /// Who leaves.
    Scaling(scaling::Request),
}

/// The answer to a [`Question`] of the same kind, checked against it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "answer", rename_all = "lowercase")]
pub enum Answer {
    /// Names.
    Naming(naming::Answer),
    /// Places, one for each newcomer.
    Placement(Vec<placement::Place>),
    /// Victims, the first to leave first.
    Scaling(Vec<scaling::Victim>),
}

/// What came of a question and what it cost, whether there is an answer or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried<A> {
    /// The answer, checked, or why there is none.
    pub outcome: Result<A, DecisionError>,
    /// Fuel used: the same for the same question on any machine.
    pub fuel: u64,
    /// Linear memory of the sandbox at its largest, in bytes.
    pub memory: usize,
    /// What the policy logged.
    pub log: Vec<LogLine>,
}

impl<A> Tried<A> {
    /// The answer with what it cost, or only why there is none.
    pub fn decided(self) -> Result<Decided<A>, DecisionError> {
        let Self { outcome, fuel, memory, log } = self;
        Ok(Decided { answer: outcome?, fuel, memory, log })
    }

    /// The same of another type of answer.
    pub(crate) fn map<B>(self, change: impl FnOnce(A) -> B) -> Tried<B> {
        let Self { outcome, fuel, memory, log } = self;
        Tried { outcome: outcome.map(change), fuel, memory, log }
    }
}

impl Question {
    /// Which of the three it is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Naming(_) => Kind::Naming,
            Self::Placement(_) => Kind::Placement,
            Self::Scaling(_) => Kind::Scaling,
        }
    }

    /// What every question carries.
    pub const fn context(&self) -> &Context {
        match self {
            Self::Naming(request) => &request.context,
            Self::Placement(request) => &request.context,
            Self::Scaling(request) => &request.context,
        }
    }

    /// The same, to be changed.
    pub const fn context_mut(&mut self) -> &mut Context {
        match self {
            Self::Naming(request) => &mut request.context,
            Self::Placement(request) => &mut request.context,
            Self::Scaling(request) => &mut request.context,
        }
    }

    /// How many members it is about, those that are to come included.
    pub fn members(&self) -> usize {
        match self {
            Self::Naming(request) => request.members.len() + usize::try_from(request.count).unwrap_or(usize::MAX),
            Self::Placement(request) => request.members.len() + request.newcomers.len(),
            Self::Scaling(request) => request.members.len(),
        }
    }
}

/// One line of an answer in names instead of indices: for people, and to compare
/// answers to questions whose tables are ordered differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The member that leaves, the newcomer that is placed, or the name given.
    pub subject: String,
    /// Where a newcomer goes, as `cluster/host/datastore` with `-` for what is
    /// left to vCenter; nothing for the other kinds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Why, in the policy's words.
    pub reason: String,
}

impl Answer {
    /// The answer line by line, in its own order. `question` is the one that it
    /// was given to; an index that is not in there is shown as a number.
    pub fn lines(&self, question: &Question) -> Vec<Line> {
        match (self, question) {
            (Self::Placement(places), Question::Placement(request)) => request
                .newcomers
                .iter()
                .zip(places)
                .map(|(newcomer, place)| Line {
                    subject: newcomer.name.clone(),
                    place: Some(in_names(request, place)),
                    reason: place.reason.clone(),
                })
                .collect(),
            (Self::Placement(places), _) => places
                .iter()
                .map(|place| Line { subject: String::new(), place: None, reason: place.reason.clone() })
                .collect(),
            (Self::Naming(answer), _) => answer
                .proposals
                .iter()
                .map(|proposal| Line { subject: proposal.name.clone(), place: None, reason: proposal.reason.clone() })
                .collect(),
            (Self::Scaling(victims), question) => {
                let members = match question {
                    Question::Scaling(request) => &request.members[..],
                    Question::Naming(_) | Question::Placement(_) => &[],
                };
                let name = |index| at(members, index).map_or_else(|| format!("#{index}"), |member| member.name.clone());
                victims
                    .iter()
                    .map(|victim| Line { subject: name(victim.member), place: None, reason: victim.reason.clone() })
                    .collect()
            }
        }
    }
}

fn in_names(request: &placement::Request, place: &placement::Place) -> String {
    let inventory = &request.inventory;
    let cluster = place.cluster.map(|index| at(&inventory.clusters, index).map_or("?", |one| &one.name));
    let host = place.host.map(|index| at(&inventory.hosts, index).map_or("?", |one| &one.name));
    let datastore = place.datastore.map(|index| at(&inventory.datastores, index).map_or("?", |one| &one.name));
    format!("{}/{}/{}", cluster.unwrap_or("-"), host.unwrap_or("-"), datastore.unwrap_or("-"))
}

fn at<T>(table: &[T], index: u32) -> Option<&T> {
    usize::try_from(index).ok().and_then(|index| table.get(index))
}

//! Which tasks are followed, what the list view at vCenter still has to be told
//! about them, and when. Plain data; it calls nobody.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{PowerState, Vm};
use crate::refs::{TaskRef, VmRef};
use crate::task::{TaskInfo, TaskState};
use crate::watch::update::Change;
use crate::xml::Element;

/// So many ended tasks may stay in the view before it is told for their sake
/// alone; otherwise they leave with the next batch of new ones.
const MAX_STALE: usize = 256;
/// New tasks gather this long, so that those of many groups are one call, and one
/// answer. What ends sooner is heard of that much later: nobody clones in less.
const GATHER: Duration = Duration::from_millis(500);
/// So long a task with a [`Goal`] is left to the inventory alone. Then the view
/// is told of it too, for an inventory shows no failure.
const PATIENCE: Duration = Duration::from_secs(2);

/// So long after a task was put into the view, vCenter has to have said something
/// of it. If it vanished before the view was first looked at, it never does: then
/// it is put in anew, and the answer to that names who is unknown.
const SILENCE: Duration = Duration::from_secs(30);

/// What a task is to bring about, where the inventory can show it. It is seen
/// there at no cost, while following a task itself costs two calls. A destruction
/// is none: what leaves the inventory may only have been moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// The machine is on.
    On(VmRef),
}

impl Goal {
    fn vm(&self) -> &VmRef {
        let Self::On(vm) = self;
        vm
    }

    fn is_reached(&self, vm: Option<&Vm>) -> bool {
        let Self::On(_) = self;
        vm.is_some_and(|vm| vm.power == PowerState::On)
    }
}

/// The followed tasks.
#[derive(Default)]
pub(super) struct Tracked {
    tasks: HashMap<TaskRef, Entry>,
    stale: Vec<TaskRef>,
}

struct Entry {
    in_view: bool,
    /// When the view has to be told of it: for the first time, or anew.
    due: Instant,
    goal: Option<Goal>,
    /// The parts of its `info` as far as vCenter has told, by their names.
    parts: BTreeMap<String, Element>,
    last: Option<TaskInfo>,
}

impl Entry {
    /// vCenter has said nothing of it yet.
    fn is_silent(&self) -> bool {
        self.parts.is_empty()
    }
}

/// One `ModifyListView`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) add: Vec<TaskRef>,
    pub(super) remove: Vec<TaskRef>,
}

impl Tracked {
    /// True if it was not followed before.
    pub(super) fn track(&mut self, task: TaskRef, goal: Option<Goal>, now: Instant) -> bool {
        let mut new = false;
        self.tasks.entry(task).or_insert_with(|| {
            new = true;
            let due = now + if goal.is_some() { PATIENCE } else { GATHER };
            Entry { in_view: false, due, goal, parts: BTreeMap::new(), last: None }
        });
        new
    }

    /// True if the view has to be told.
    pub(super) fn untrack(&mut self, task: &TaskRef) -> bool {
        self.forget(task);
        self.stale.len() > MAX_STALE
    }

    /// When the view has to be told something; `None` if nothing is to be told.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        if self.stale.len() > MAX_STALE {
            return Some(now);
        }
        self.tasks.values().filter(|entry| !entry.in_view || entry.is_silent()).map(|entry| entry.due).min()
    }

    /// Takes what the view has to be told now, as told. When it is told anything,
    /// all go along whose goal the inventory cannot show.
    pub(super) fn next_batch(&mut self, now: Instant) -> Option<Batch> {
        if self.due(now).is_none_or(|due| due > now) {
            return None;
        }
        for (task, entry) in &mut self.tasks {
            if entry.in_view && entry.is_silent() && entry.due <= now {
                entry.in_view = false;
                self.stale.push(task.clone());
            }
        }
        let is_new = |entry: &Entry| !entry.in_view && (entry.due <= now || entry.goal.is_none());
        let mut add: Vec<TaskRef> =
            self.tasks.iter().filter(|(_, entry)| is_new(entry)).map(|(task, _)| task.clone()).collect();
        // Tracked again while it is still in the view: vCenter would have nothing
        // new to tell of it. It is taken out now and put in with the next batch.
        add.retain(|task| !self.stale.contains(task));
        add.sort();
        for task in &add {
            if let Some(entry) = self.tasks.get_mut(task) {
                entry.in_view = true;
                entry.due = now + SILENCE;
            }
        }
        Some(Batch { add, remove: std::mem::take(&mut self.stale) })
    }

    /// The view is a new one and empty: it has to be told of all at once.
    pub(super) fn view_is_new(&mut self, now: Instant) {
        self.stale.clear();
        for entry in self.tasks.values_mut() {
            entry.in_view = false;
            entry.due = now;
            // What the old view has told is no sign that the new one will tell anything.
            entry.parts.clear();
        }
    }

    /// Takes in what changed of a task, as far as it is followed.
    pub(super) fn learn(&mut self, task: &TaskRef, change: Change) {
        let Some(entry) = self.tasks.get_mut(task) else { return };
        let properties = match change {
            Change::Enter(properties) => {
                entry.parts.clear();
                properties
            }
            Change::Modify(properties) => properties,
            Change::Leave => return,
        };
        for property in properties {
            let Some(name) = property.name.strip_prefix("info.") else { continue };
            match property.value {
                Some(value) => entry.parts.insert(name.to_owned(), value),
                None => entry.parts.remove(name),
            };
        }
    }

    /// How a task stands by what has been learnt, if that is news. An ended task
    /// is followed no more.
    pub(super) fn news(&mut self, task: &TaskRef) -> Option<TaskInfo> {
        let entry = self.tasks.get_mut(task)?;
        if !entry.parts.contains_key("state") {
            return None;
        }
        let info = TaskInfo::from_parts(task.clone(), |name| entry.parts.get(name));
        if entry.last.as_ref() == Some(&info) {
            return None;
        }
        entry.last = Some(info.clone());
        if info.state.is_ended() {
            self.forget(task);
        }
        Some(info)
    }

    /// The tasks whose goals are reached, as ended well. They are followed no more.
    pub(super) fn reached(&mut self, vm: impl Fn(&VmRef) -> Option<std::sync::Arc<Vm>>) -> Vec<TaskInfo> {
        let is_reached =
            |entry: &Entry| entry.goal.as_ref().is_some_and(|goal| goal.is_reached(vm(goal.vm()).as_deref()));
        let mut reached: Vec<TaskRef> =
            self.tasks.iter().filter(|(_, entry)| is_reached(entry)).map(|(task, _)| task.clone()).collect();
        reached.sort();
        let mut ended = Vec::new();
        for task in reached {
            let Some(entry) = self.tasks.get(&task) else { continue };
            let known = TaskInfo::from_parts(task.clone(), |name| entry.parts.get(name));
            let entity = entry.goal.as_ref().map(|goal| goal.vm().managed_object());
            self.forget(&task);
            ended.push(TaskInfo { state: TaskState::Success { result: None }, entity, ..known });
        }
        ended
    }

    /// True if it was followed.
    pub(super) fn gone(&mut self, task: &TaskRef) -> bool {
        self.forget(task)
    }

    fn forget(&mut self, task: &TaskRef) -> bool {
        let Some(entry) = self.tasks.remove(task) else {
            return false;
        };
        if entry.in_view {
            self.stale.push(task.clone());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::watch::update::Property;

    fn told(state: &str) -> Change {
        let value = Element { text: state.to_owned(), ..Element::default() };
        Change::Modify(vec![Property { name: "info.state".to_owned(), value: Some(value) }])
    }

    fn saw(tracked: &mut Tracked, task: &str, state: &str) -> Option<TaskInfo> {
        tracked.learn(&task.into(), told(state));
        tracked.news(&task.into())
    }

    #[test]
    fn additions_go_in_one_batch_and_the_ended_leave_with_the_next() {
        let now = Instant::now();
        let mut tracked = Tracked::default();
        assert!(tracked.track("t-1".into(), None, now));
        assert!(tracked.track("t-2".into(), None, now + GATHER / 2));
        assert!(!tracked.track("t-2".into(), None, now));
        assert_eq!(tracked.next_batch(now), None, "more may come");
        assert_eq!(tracked.due(now), Some(now + GATHER));
        let batch = tracked.next_batch(now + GATHER).unwrap();
        assert_eq!(batch.add, ["t-1".into(), "t-2".into()]);
        let later = now + GATHER * 4;
        assert_eq!(tracked.next_batch(later), None);
        assert!(saw(&mut tracked, "t-1", "running").is_some());
        assert!(saw(&mut tracked, "t-1", "running").is_none(), "told once");
        assert!(saw(&mut tracked, "t-2", "running").is_some());
        assert!(saw(&mut tracked, "t-1", "success").is_some());
        assert!(saw(&mut tracked, "t-1", "success").is_none());
        assert_eq!(tracked.due(later), None, "nothing to say for its sake");
        tracked.track("t-3".into(), None, now);
        assert_eq!(tracked.next_batch(later).unwrap(), Batch { add: vec!["t-3".into()], remove: vec!["t-1".into()] });
    }

    #[test]
    fn a_new_view_is_told_at_once_of_all_that_still_run() {
        let now = Instant::now();
        let mut tracked = Tracked::default();
        tracked.track("t-1".into(), None, now);
        tracked.track("t-2".into(), Some(Goal::On("vm-1".into())), now);
        tracked.next_batch(now + PATIENCE);
        tracked.untrack(&"t-1".into());
        tracked.view_is_new(now);
        assert_eq!(tracked.next_batch(now).unwrap(), Batch { add: vec!["t-2".into()], remove: vec![] });
    }

    #[test]
    fn a_task_tracked_again_is_taken_out_of_the_view_before_it_is_put_in() {
        let now = Instant::now();
        let mut tracked = Tracked::default();
        tracked.track("t-1".into(), None, now);
        tracked.next_batch(now + GATHER);
        tracked.untrack(&"t-1".into());
        tracked.track("t-1".into(), None, now);
        let later = now + GATHER;
        assert_eq!(tracked.next_batch(later).unwrap(), Batch { add: vec![], remove: vec!["t-1".into()] });
        assert_eq!(tracked.next_batch(later).unwrap(), Batch { add: vec!["t-1".into()], remove: vec![] });
    }

    #[test]
    fn a_task_of_which_nothing_is_heard_is_asked_for_again() {
        let now = Instant::now();
        let mut tracked = Tracked::default();
        tracked.track("t-1".into(), None, now);
        tracked.track("t-2".into(), None, now);
        let told = now + GATHER;
        assert_eq!(tracked.next_batch(told).unwrap().add.len(), 2);
        assert!(saw(&mut tracked, "t-2", "running").is_some());
        assert_eq!(tracked.next_batch(told), None);
        let later = told + SILENCE;
        assert_eq!(tracked.due(told), Some(later));
        assert_eq!(tracked.next_batch(later).unwrap(), Batch { add: vec![], remove: vec!["t-1".into()] });
        assert_eq!(tracked.next_batch(later).unwrap(), Batch { add: vec!["t-1".into()], remove: vec![] });
        assert!(saw(&mut tracked, "t-1", "running").is_some());
        assert_eq!(tracked.due(later), None, "they are heard of");
    }

    /// Seed 7945: it was seen to run, the view was lost, and the task as well before the
    /// next view was looked at.
    #[test]
    fn a_task_of_which_only_an_old_view_has_told_is_asked_for_again() {
        let now = Instant::now();
        let mut tracked = Tracked::default();
        tracked.track("t-1".into(), None, now);
        tracked.next_batch(now + GATHER);
        assert!(saw(&mut tracked, "t-1", "running").is_some());
        tracked.view_is_new(now + GATHER);
        assert_eq!(tracked.next_batch(now + GATHER).unwrap().add, ["t-1".into()]);
        let later = now + GATHER + SILENCE;
        assert_eq!(tracked.due(later), Some(later));
        assert_eq!(tracked.next_batch(later).unwrap().remove, ["t-1".into()]);
        assert_eq!(tracked.next_batch(later).unwrap().add, ["t-1".into()]);
    }

    #[test]
    fn a_goal_that_the_inventory_shows_needs_no_view() {
        let now = Instant::now();
        let vm = |power| Arc::new(Vm { power, ..Vm::blank("vm-1".into()) });
        let mut tracked = Tracked::default();
        tracked.track("t-1".into(), Some(Goal::On("vm-1".into())), now);
        tracked.track("t-2".into(), Some(Goal::On("vm-2".into())), now);
        assert!(tracked.reached(|_| Some(vm(PowerState::Off))).is_empty());
        assert_eq!(tracked.next_batch(now + GATHER), None);
        let reached = tracked.reached(|id| (id.as_str() == "vm-1").then(|| vm(PowerState::On)));
        assert_eq!(reached.iter().map(|info| info.id.as_str()).collect::<Vec<_>>(), ["t-1"]);
        assert!(reached[0].state.is_ended());
        // It takes long, and may have failed.
        let batch = tracked.next_batch(now + PATIENCE).unwrap();
        assert_eq!(batch, Batch { add: vec!["t-2".into()], remove: vec![] });
        assert!(tracked.reached(|_| None).is_empty(), "a machine that is not seen is not known to be on");
        assert_eq!(tracked.reached(|_| Some(vm(PowerState::On))).len(), 1);
        assert!(saw(&mut tracked, "t-2", "success").is_none(), "told already");
    }

    #[test]
    fn a_change_of_one_part_leaves_the_others_as_they_were() {
        let mut tracked = Tracked::default();
        tracked.track("t-1".into(), None, Instant::now());
        let text = |text: &str| Some(Element { text: text.to_owned(), ..Element::default() });
        let property = |name: &str, value| Property { name: name.to_owned(), value };
        let id: TaskRef = "t-1".into();
        tracked.learn(
            &id,
            Change::Enter(vec![
                property("info.state", text("running")),
                property("info.descriptionId", text("VirtualMachine.clone")),
            ]),
        );
        assert_eq!(tracked.news(&id).unwrap().state, TaskState::Running);
        tracked.learn(&id, told("success"));
        let info = tracked.news(&id).unwrap();
        assert!(info.state.is_ended());
        assert_eq!(info.description_id, "VirtualMachine.clone");
    }
}

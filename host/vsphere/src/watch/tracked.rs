//! Which tasks are followed, and what the list view at vCenter still has to be
//! told about them. Plain data; it calls nobody.

use std::collections::HashMap;

use crate::refs::TaskRef;
use crate::task::TaskInfo;

/// So many ended tasks may stay in the view before it is told for their sake
/// alone; otherwise they leave with the next batch of new ones.
const MAX_STALE: usize = 256;

/// The followed tasks.
#[derive(Default)]
pub(super) struct Tracked {
    tasks: HashMap<TaskRef, Entry>,
    stale: Vec<TaskRef>,
}

#[derive(Default)]
struct Entry {
    in_view: bool,
    last: Option<TaskInfo>,
}

/// One `ModifyListView`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) add: Vec<TaskRef>,
    pub(super) remove: Vec<TaskRef>,
}

impl Tracked {
    /// True if the view has to be told.
    pub(super) fn track(&mut self, task: TaskRef) -> bool {
        let mut new = false;
        self.tasks.entry(task).or_insert_with(|| {
            new = true;
            Entry::default()
        });
        new
    }

    /// True if the view has to be told.
    pub(super) fn untrack(&mut self, task: &TaskRef) -> bool {
        self.forget(task);
        self.stale.len() > MAX_STALE
    }

    /// Takes what the view has to be told now, as told.
    pub(super) fn next_batch(&mut self) -> Option<Batch> {
        let mut add: Vec<TaskRef> =
            self.tasks.iter().filter(|(_, entry)| !entry.in_view).map(|(task, _)| task.clone()).collect();
        if add.is_empty() && self.stale.len() <= MAX_STALE {
            return None;
        }
        // Tracked again while it is still in the view: vCenter would have nothing
        // new to tell of it. It is taken out now and put in with the next batch.
        add.retain(|task| !self.stale.contains(task));
        add.sort();
        for task in &add {
            if let Some(entry) = self.tasks.get_mut(task) {
                entry.in_view = true;
            }
        }
        Some(Batch { add, remove: std::mem::take(&mut self.stale) })
    }

    /// The view is a new one and empty.
    pub(super) fn view_is_new(&mut self) {
        self.stale.clear();
        for entry in self.tasks.values_mut() {
            entry.in_view = false;
        }
    }

    /// True if this is followed and new to us. An ended task is followed no more.
    pub(super) fn saw(&mut self, info: &TaskInfo) -> bool {
        let Some(entry) = self.tasks.get_mut(&info.id) else {
            return false;
        };
        if entry.last.as_ref() == Some(info) {
            return false;
        }
        entry.last = Some(info.clone());
        if info.state.is_ended() {
            self.forget(&info.id);
        }
        true
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
    use super::*;
    use crate::task::TaskState;

    fn task(id: &str, state: TaskState) -> TaskInfo {
        TaskInfo {
            id: TaskRef::new(id),
            state,
            entity: None,
            description_id: String::new(),
            progress: None,
            cancelled: false,
            queued_at: None,
            user: None,
        }
    }

    #[test]
    fn additions_go_in_one_batch_and_the_ended_leave_with_the_next() {
        let mut tracked = Tracked::default();
        assert!(tracked.track("t-1".into()));
        assert!(tracked.track("t-2".into()));
        assert!(!tracked.track("t-2".into()));
        let batch = tracked.next_batch().unwrap();
        assert_eq!(batch.add, ["t-1".into(), "t-2".into()]);
        assert_eq!(tracked.next_batch(), None);
        assert!(tracked.saw(&task("t-1", TaskState::Running)));
        assert!(!tracked.saw(&task("t-1", TaskState::Running)), "told once");
        assert!(tracked.saw(&task("t-1", TaskState::Success { result: None })));
        assert!(!tracked.saw(&task("t-1", TaskState::Success { result: None })));
        assert_eq!(tracked.next_batch(), None, "nothing to say for its sake");
        tracked.track("t-3".into());
        assert_eq!(tracked.next_batch().unwrap(), Batch { add: vec!["t-3".into()], remove: vec!["t-1".into()] });
    }

    #[test]
    fn a_new_view_is_told_of_all_that_still_run() {
        let mut tracked = Tracked::default();
        tracked.track("t-1".into());
        tracked.track("t-2".into());
        tracked.next_batch();
        tracked.untrack(&"t-1".into());
        tracked.view_is_new();
        assert_eq!(tracked.next_batch().unwrap(), Batch { add: vec!["t-2".into()], remove: vec![] });
    }

    #[test]
    fn a_task_tracked_again_is_taken_out_of_the_view_before_it_is_put_in() {
        let mut tracked = Tracked::default();
        tracked.track("t-1".into());
        tracked.next_batch();
        tracked.untrack(&"t-1".into());
        tracked.track("t-1".into());
        assert_eq!(tracked.next_batch().unwrap(), Batch { add: vec![], remove: vec!["t-1".into()] });
        assert_eq!(tracked.next_batch().unwrap(), Batch { add: vec!["t-1".into()], remove: vec![] });
    }
}

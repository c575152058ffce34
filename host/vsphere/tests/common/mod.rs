//! What the tests on both vCenters share: an observer that can be waited for,
//! and what they ask for.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use vmgroup_vsphere::{CloneSpec, Event, Observer, Site, SiteSelection, TaskInfo, TaskRef, Vm, Watch};

/// No wait is longer, in whatever time the test runs.
const DEADLINE: Duration = Duration::from_mins(1);
/// The mark that the options index by.
pub const KEY: &str = "owner.uid";
/// Those `extraConfig` keys are kept.
pub const PREFIX: &str = "owner.";

/// Remembers every event.
#[derive(Default)]
pub struct Seen {
    events: Mutex<Vec<Event>>,
    news: Notify,
}

impl Observer for Seen {
    fn on_event(&self, event: &Event) {
        self.events.lock().unwrap().push(event.clone());
        self.news.notify_waiters();
    }
}

impl Seen {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// Waits until some event passes, and gives what it gave.
    pub async fn find<T>(&self, what: &str, find: impl Fn(&Event) -> Option<T>) -> T {
        let wait = async {
            loop {
                let news = self.news.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                if let Some(found) = self.events.lock().unwrap().iter().find_map(&find) {
                    return found;
                }
                news.await;
            }
        };
        let Ok(found) = tokio::time::timeout(DEADLINE, wait).await else {
            panic!("never seen: {what}; seen: {:#?}", self.events());
        };
        found
    }

    pub async fn synced(&self) {
        self.find("Synced", |event| matches!(event, Event::Synced).then_some(())).await;
    }

    pub async fn ended(&self, task: &TaskRef) -> TaskInfo {
        self.find("the task's end", |event| match event {
            Event::Task(info) if info.id == *task && info.state.is_ended() => Some(info.clone()),
            _ => None,
        })
        .await
    }

    pub async fn vm(&self, what: &str, accept: impl Fn(&Vm) -> bool) -> Arc<Vm> {
        self.find(what, |event| match event {
            Event::VmChanged { vm, .. } if accept(vm) => Some(Arc::clone(vm)),
            _ => None,
        })
        .await
    }
}

/// A site with one cluster named.
pub fn selection() -> SiteSelection {
    SiteSelection { pool_or_cluster: Some("DC0_C0".to_owned()), ..SiteSelection::default() }
}

pub fn clone_spec(site: &Site, template: &vmgroup_vsphere::Template, name: &str, uuid: &str) -> CloneSpec {
    CloneSpec {
        template: template.id.clone(),
        folder: site.root_folder.clone(),
        name: name.to_owned(),
        pool: site.pool.clone(),
        datastore: site.datastore.clone(),
        linked_to: None,
        host: None,
        cpus: 2,
        memory_mib: 2048,
        instance_uuid: uuid.to_owned(),
        extra: vec![
            (KEY.to_owned(), "uid-1".to_owned()),
            ("owner.name".to_owned(), "a<b>&c".to_owned()),
            ("foreign".to_owned(), "x".to_owned()),
        ],
        guest: Vec::new(),
        hardware: vmgroup_vsphere::Hardware::default(),
        customization: None,
        power_on: false,
    }
}

pub async fn follow(watch: &Watch, seen: &Seen, task: TaskRef) -> TaskInfo {
    watch.track(task.clone(), None);
    seen.ended(&task).await
}

/// Waits until the world is so. With time paused this costs none.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never so: {what}");
}

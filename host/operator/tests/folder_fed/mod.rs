//! A folder on a real disk, gone with its test, and a book that is fed from it.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use vmgroup_operator::policy_source::{PolicyBook, watch_folder};
use vmgroup_policy::{Host, Limits};

/// One for all tests of a program: it compiles each plugin once.
pub static HOST: LazyLock<Host> = LazyLock::new(|| Host::new(Limits::default()).unwrap());

/// A folder of its own.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("vmgroup-policies-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A book that is fed until this is dropped.
pub struct Fed {
    pub book: PolicyBook,
    stop: CancellationToken,
}

impl Fed {
    /// Nobody feeds it yet.
    pub fn new(book: PolicyBook) -> Self {
        Self { book, stop: CancellationToken::new() }
    }

    pub fn watch(&self, folder: &Folder) {
        tokio::spawn(watch_folder(folder.path().to_owned(), self.book.clone(), self.stop.clone()));
    }

    /// Waits until the book is as wished.
    pub async fn until(&self, what: &str, is_so: impl Fn(&PolicyBook) -> bool) {
        let mut changes = self.book.changes();
        let reached = changes.wait_for(|_| is_so(&self.book));
        let reached = tokio::time::timeout(Duration::from_secs(60), reached).await.map(|it| it.is_ok());
        assert_eq!(reached, Ok(true), "{what}: {:?}, refused {:?}", self.book.in_force().told(), self.book.refusal());
    }

    /// Waits until this policy chooses who leaves, and nothing is refused.
    pub async fn serves(&self, plugin: &str, order: &str) {
        let as_wished = |book: &PolicyBook| {
            let scaling = &book.in_force().set.scaling;
            scaling.plugin() == plugin && scaling.config()["order"] == order && book.refusal().is_none()
        };
        self.until(&format!("{plugin}, {order}"), as_wished).await;
    }

    /// Waits until what was offered is refused, in these words among others.
    pub async fn refused(&self, stage: &str, words: &[&str]) {
        let as_said = |book: &PolicyBook| {
            book.refusal().is_some_and(|it| {
                let told = it.told(&book.in_force(), 2_000);
                it.stage == stage && words.iter().all(|word| told.contains(word))
            })
        };
        self.until(&format!("refused at {stage} because of {words:?}"), as_said).await;
    }
}

impl Drop for Fed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A policy file.
pub fn scaling(plugin: impl std::fmt::Display, order: &str) -> String {
    format!("scaling: {{ plugin: \"{plugin}\", config: {{ order: {order} }} }}\n")
}

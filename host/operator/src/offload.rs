//! Where work that keeps a core busy (compiling a plugin) is done: on tokio's
//! blocking threads, or in place where a run has to be deterministic.
//!
//! Must not know what the work is.

use std::time::Duration;

/// Where busy work is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// On a thread of tokio's blocking pool. For production.
    #[default]
    Blocking,
    /// In place, on the caller's thread: no thread, no race. For tests under
    /// paused time, which would run ahead while a blocking thread works.
    Inline,
    /// In place, after so long: others come in between, as they do in production.
    /// For tests under paused time.
    InlineAfter(Duration),
}

impl Offload {
    /// Does the work and gives its result. A panic inside is the caller's panic.
    /// Dropping the future does not stop work that has begun.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self {
            Self::Inline => work(),
            Self::InlineAfter(pause) => {
                tokio::time::sleep(*pause).await;
                work()
            }
            Self::Blocking => match tokio::task::spawn_blocking(work).await {
                Ok(result) => result,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is going down, and this task with it.
                    Err(_) => std::future::pending().await,
                },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn inline_stays_on_the_thread_and_blocking_leaves_it() {
        let here = std::thread::current().id();
        assert_eq!(Offload::Inline.run(|| std::thread::current().id()).await, here);
        assert_ne!(Offload::Blocking.run(|| std::thread::current().id()).await, here);
    }

    #[tokio::test]
    #[should_panic(expected = "the work's own words")]
    async fn a_panic_is_the_callers() {
        Offload::Blocking.run(|| panic!("the work's own words")).await;
    }
}

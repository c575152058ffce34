//! From the end of the leader to the first write of the other: one operator
//! leads, one stands by, and a group waits for its first machine.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::Result;
use crate::stage::{Side, Stage};
use crate::table::{Table, percentile, short};

const NAMESPACE: &str = "bench";

/// How the leader ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is asked to, and releases the lease.
    Term,
    /// It is killed: the lease runs out.
    Kill,
}

impl End {
    fn signal(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Kill => "KILL",
        }
    }

    fn times(self) -> usize {
        match self {
            Self::Term => 7,
            Self::Kill => 3,
        }
    }
}

/// The time of each.
pub async fn run(operator: &Path, end: End) -> Result<Vec<Duration>> {
    let stage = Stage::set(Side::Simulator, Duration::ZERO).await?;
    let mut leader = stage.start(operator, 8)?;
    stage.at_rest(&mut leader).await?;
    stage.user.namespace(NAMESPACE).await;
    let mut times = Vec::new();
    for number in 0..end.times() {
        let mut standby = stage.start(operator, 8)?;
        standby.ready().await?;
        stage.all_ready(&mut leader, NAMESPACE, 1, Duration::from_millis(20)).await?;
        // Both have seen what there is, and the lease has been renewed once more.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let before = stage.clones().await?;
        let since = Instant::now();
        leader.end(end.signal()).await?;
        // Only now: the old one must not be who makes it.
        stage.apply(NAMESPACE, &format!("group-{number}"), 1)?;
        times.push(stage.next_clone(&mut standby, before, since).await?);
        leader = standby;
    }
    Ok(times)
}

/// Adds the row.
pub fn report(table: &mut Table, end: End, outcome: Result<Vec<Duration>>) {
    let measured = outcome
        .map(|times| format!("median {}, at most {}", short(percentile(&times, 50)), short(percentile(&times, 100))));
    let beside = match end {
        End::Term => "the lease is released; the other looks every 2 s",
        End::Kill => "the lease holds for 15 s; the other looks every 2 s",
    };
    let how = format!(
        "{} times; two operator processes; from SIG{} to the other's first clone call, for a group applied once the leader had ended",
        end.times(),
        end.signal()
    );
    table.add(format!("failover after SIG{}", end.signal()), measured, beside, how);
}

//! From the start of the process to holding the lease and to being ready.

use std::path::Path;
use std::time::Duration;

use crate::Result;
use crate::stage::{Side, Stage};
use crate::table::{Table, percentile, short};

const STARTS: usize = 11;

/// Times of several starts: to leading, to ready.
pub async fn run(operator: &Path) -> Result<Vec<(Duration, Duration)>> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let stage = Stage::set(Side::Simulator, Duration::ZERO).await?;
        let mut process = stage.start(operator, 8)?;
        let leading = stage.leading(&mut process).await?;
        times.push((leading, process.ready().await?.max(leading)));
    }
    Ok(times)
}

/// Adds the row.
pub fn report(table: &mut Table, outcome: Result<Vec<(Duration, Duration)>>) {
    let measured = outcome.map(|times| {
        let (leading, ready): (Vec<Duration>, Vec<Duration>) = times.into_iter().unzip();
        format!("leading {}, ready {}", short(percentile(&leading, 50)), short(percentile(&ready, 50)))
    });
    let how = format!(
        "median of {STARTS}; from spawn to the lease with its name and to /readyz 200; nobody held the lease before"
    );
    let beside = "in it: compiling the three built-in policies";
    table.add("start to leading and ready", measured, beside, how);
}

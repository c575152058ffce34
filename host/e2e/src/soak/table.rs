//! The table of a long run: fault × workload, with runs, violations and seeds.
//! It can be kept in a file and gone on with.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Report;
use super::script::{Fault, Workload};

/// How many seeds of a cell are kept.
const SEEDS: usize = 10;

/// One cell.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Cell {
    runs: u64,
    violations: u64,
    seeds: Vec<u64>,
}

/// The table.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Table {
    /// The first seed that was not yet run.
    pub next: u64,
    runs: u64,
    calls: u64,
    /// By fault, then by workload, both as they are shown.
    cells: BTreeMap<String, BTreeMap<String, Cell>>,
    /// Violations by property, with seeds.
    violations: BTreeMap<String, Vec<u64>>,
}

impl Table {
    /// Enters a run.
    pub fn enter(&mut self, report: &Report) {
        self.runs += 1;
        self.calls += report.calls;
        for fault in &report.faults {
            let row = self.cells.entry(fault.to_string()).or_default();
            let cell = row.entry(report.workload.to_string()).or_default();
            cell.runs += 1;
            if report.violation.is_some() {
                cell.violations += 1;
                if cell.seeds.len() < SEEDS {
                    cell.seeds.push(report.seed);
                }
            }
        }
        if let Some(violation) = &report.violation {
            self.violations.entry(violation.property.to_owned()).or_default().push(report.seed);
        }
    }

    /// Runs so far.
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// Violations so far.
    pub fn violations(&self) -> usize {
        self.violations.values().map(Vec::len).sum()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| runs (violations) |")?;
        for workload in Workload::ALL {
            write!(f, " {workload} |")?;
        }
        write!(f, "\n|---|")?;
        for _ in Workload::ALL {
            write!(f, "---:|")?;
        }
        for fault in Fault::ALL {
            write!(f, "\n| {fault} |")?;
            for workload in Workload::ALL {
                let cell = self.cells.get(&fault.to_string()).and_then(|row| row.get(&workload.to_string()));
                match cell {
                    None => write!(f, " 0 |")?,
                    Some(cell) if cell.violations == 0 => write!(f, " {} |", cell.runs)?,
                    Some(cell) => write!(f, " {} (**{}**: {:?}) |", cell.runs, cell.violations, cell.seeds)?,
                }
            }
        }
        writeln!(f, "\n\n{} runs, {} calls, {} violations", self.runs, self.calls, self.violations())?;
        for (property, seeds) in &self.violations {
            writeln!(f, "{property}: seeds {:?}", &seeds[..seeds.len().min(30)])?;
        }
        Ok(())
    }
}

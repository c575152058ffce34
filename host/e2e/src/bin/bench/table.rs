//! The table: figures in rows, as Markdown that also reads well in a terminal.
//! Must not know what is measured.

use std::fmt;
use std::time::Duration;

use crate::Result;

const HEAD: [&str; 4] = ["figure", "measured", "beside it", "how it was taken"];

/// Rows in the order in which they came.
#[derive(Default)]
pub struct Table(Vec<[String; 4]>);

impl Table {
    /// Adds a figure; one that could not be taken says why in its place. Told at
    /// once on standard error too: the whole takes minutes.
    pub fn add(
        &mut self,
        figure: impl Into<String>,
        measured: Result<String>,
        beside: impl Into<String>,
        how: impl Into<String>,
    ) {
        let measured = measured.unwrap_or_else(|why| why.to_string().replace(['|', '\n'], " "));
        let figure = figure.into();
        eprintln!("    {figure}: {measured}");
        self.0.push([figure, measured, beside.into(), how.into()]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = HEAD.map(str::to_owned);
        let width = |column: usize| {
            let cells = self.0.iter().chain([&head]).map(|row| row[column].chars().count());
            cells.max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
        let line = |f: &mut fmt::Formatter<'_>, row: &[String; 4]| {
            for (cell, width) in row.iter().zip(&widths) {
                write!(f, "| {cell:<width$} ")?;
            }
            writeln!(f, "|")
        };
        line(f, &head)?;
        for width in &widths {
            write!(f, "|{}", "-".repeat(width + 2))?;
        }
        writeln!(f, "|")?;
        self.0.iter().try_for_each(|row| line(f, row))
    }
}

/// A quotient with one decimal, in whole numbers all the way.
pub fn tenths(value: u64, unit: u64) -> String {
    let tenths = (value * 10 + unit / 2) / unit;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// A quotient of two times with two decimals.
pub fn ratio(one: Duration, other: Duration) -> String {
    format!("{:.2}", one.as_secs_f64() / other.as_secs_f64())
}

/// A duration with three digits that count.
pub fn short(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    match micros {
        ..100.0 => format!("{micros:.1} µs"),
        ..1_000.0 => format!("{micros:.0} µs"),
        ..10_000.0 => format!("{:.2} ms", micros / 1e3),
        ..100_000.0 => format!("{:.1} ms", micros / 1e3),
        ..1_000_000.0 => format!("{:.0} ms", micros / 1e3),
        _ => format!("{:.1} s", micros / 1e6),
    }
}

/// The value below which this share of the samples lies: 50 is the median.
pub fn percentile(samples: &[Duration], percent: usize) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

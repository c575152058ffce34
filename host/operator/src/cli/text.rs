//! How results look to people: colours, sizes, durations.

use std::io::IsTerminal as _;
use std::time::Duration;

use crate::logging::colours;

/// Colours, where standard output is a terminal.
#[derive(Clone, Copy)]
pub(super) struct Paint(bool);

impl Paint {
    pub(super) fn new() -> Self {
        Self(colours(std::io::stdout().is_terminal()))
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(super) fn good(self, text: &str) -> String {
        self.with("1;32", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }
}

/// `134.2 KiB`.
pub(super) fn size(bytes: usize) -> String {
    let tenths = bytes.saturating_mul(10) / 1024;
    format!("{}.{} KiB", tenths / 10, tenths % 10)
}

/// Three digits and a unit: `84 µs`, `1.25 ms`.
pub(super) fn time(took: Duration) -> String {
    let micros = took.as_micros();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..10_000 => format!("{:.2} ms", took.as_secs_f64() * 1_000.0),
        10_000..1_000_000 => format!("{:.0} ms", took.as_secs_f64() * 1_000.0),
        _ => format!("{:.2} s", took.as_secs_f64()),
    }
}

/// What part of a limit was used: `0.4 % of 1000000000`.
pub(super) fn share(used: u64, limit: u64) -> String {
    let thousandths = u128::from(used) * 1_000 / u128::from(limit.max(1));
    format!("{}.{} % of {limit}", thousandths / 10, thousandths % 10)
}

/// A number with a space at every third digit: `12 345 678`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut spaced = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            spaced.push(' ');
        }
        spaced.push(digit);
    }
    spaced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(size(1_536), "1.5 KiB");
        assert_eq!([number(0), number(999), number(1_000), number(12_345_678)], ["0", "999", "1 000", "12 345 678"]);
        assert_eq!(time(Duration::from_micros(84)), "84 µs");
        assert_eq!(time(Duration::from_micros(1_250)), "1.25 ms");
        assert_eq!(share(4_200, 1_000_000), "0.4 % of 1000000");
    }
}

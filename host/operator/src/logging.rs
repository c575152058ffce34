//! Logs to standard error: lines for people, or one JSON object a line.
//!
//! Must not be called by a library's test: it installs the process's subscriber.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::traces::Exporter;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line, its fields at the top level. For collectors.
    #[default]
    Json,
    /// For people, in colours on a terminal (unless `NO_COLOR` is set).
    Text,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// Not a level and not a filter.
    #[error(
        "log level `{filter}` is not understood: use error, warn, info, debug or trace, or a filter such as `info,vmgroup_vsphere=debug`"
    )]
    Filter {
        /// As it was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something else has installed a subscriber.
    #[error("logging is already set up")]
    Taken(#[source] tracing_subscriber::util::TryInitError),
}

/// Starts logging, and exporting spans if there is an exporter. `RUST_LOG`, where
/// it is set, goes before `level`; the exporter has a filter of its own.
pub fn init(format: LogFormat, level: &str, exporter: Option<&Exporter>) -> Result<(), LoggingError> {
    let filter = filter(std::env::var("RUST_LOG").ok().filter(|it| !it.is_empty()).as_deref().unwrap_or(level))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Json => {
            // At the usual level the pass is the innermost span and says which group
            // it is about; below that there are steps and calls within it.
            let nested = filter.max_level_hint().is_none_or(|level| level > LevelFilter::INFO);
            lines.json().flatten_event(true).with_current_span(!nested).with_span_list(nested).boxed()
        }
        LogFormat::Text => lines.with_ansi(colours(std::io::stderr().is_terminal())).boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(exporter.map(Exporter::layer))
        .try_init()
        .map_err(LoggingError::Taken)
}

/// Whether to write in colours, by the custom of no-color.org.
pub fn colours(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn filter(text: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder().parse(text).map_err(|source| LoggingError::Filter { filter: text.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_understood_and_nonsense_is_named() {
        assert!(filter("info").is_ok());
        assert!(filter("info,vmgroup_vsphere=debug").is_ok());
        let message = filter("vmgroup=loud").unwrap_err().to_string();
        assert!(message.contains("vmgroup=loud") && message.contains("debug"), "{message}");
    }
}

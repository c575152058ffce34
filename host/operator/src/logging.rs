//! Logs to standard error: lines for people, or one JSON object a line.
//!
//! Must not be called by a library's test: it installs the process's subscriber.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

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

/// Starts logging. `RUST_LOG`, where it is set, goes before `level`.
pub fn init(format: LogFormat, level: &str) -> Result<(), LoggingError> {
    let filter = filter(std::env::var("RUST_LOG").ok().filter(|it| !it.is_empty()).as_deref().unwrap_or(level))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => {
            builder.json().flatten_event(true).with_current_span(true).with_span_list(false).finish().try_init()
        }
        LogFormat::Text => builder.with_ansi(colours(std::io::stderr().is_terminal())).finish().try_init(),
    }
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

//! Traces by OTLP: each pass with its steps, its calls to Kubernetes and
//! vCenter and its decisions, sent to a collector over HTTP.
//!
//! Nobody waits for the collector: spans go into a bounded queue, what does not
//! fit is dropped (and told in the log), and a thread of its own sends. Must not
//! know what is traced.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The span that a trace begins with.
const ROOT: &str = "pass";

/// How long the last spans may take to be sent when the process ends.
const FAREWELL: Duration = Duration::from_secs(3);

/// Why traces cannot be exported. The URL is not repeated: it may hold a secret.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// Not the URL of a collector.
    #[error(
        "the OTLP endpoint is not understood: give the URL of a collector, such as http://collector:4318, \
         and what it wants to know of us in OTEL_EXPORTER_OTLP_HEADERS"
    )]
    Endpoint,
    /// The exporter cannot be made of what the environment says.
    #[error("traces cannot be exported as the environment's OTEL_ variables want it")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
}

/// Sends spans to a collector, from [`Self::layer`] on until [`Self::end`].
pub struct Exporter(SdkTracerProvider);

impl Exporter {
    /// To a collector's base URL (`OTEL_EXPORTER_OTLP_ENDPOINT`): the path
    /// `/v1/traces` is added. Connects to nobody yet. `instance` becomes
    /// `service.instance.id`. The SDK's other variables hold: headers and timeout
    /// (`OTEL_EXPORTER_OTLP_*`), sampling (`OTEL_TRACES_SAMPLER`), the queue
    /// (`OTEL_BSP_*`), `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`.
    pub fn new(endpoint: &str, instance: &str) -> Result<Self, TracesError> {
        // Its HTTP client wants the process's TLS provider now.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(signal_url(endpoint)?)
            .build()
            .map_err(TracesError::Exporter)?;
        // The environment's word goes before ours.
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", "vmgroup-operator"),
                KeyValue::new("service.version", crate::cli::VERSION),
                KeyValue::new("service.instance.id", instance.to_owned()),
            ])
            .with_detector(Box::new(EnvResourceDetector::new()));
        let resource = match std::env::var("OTEL_SERVICE_NAME") {
            Ok(name) if !name.is_empty() => resource.with_service_name(name),
            _ => resource,
        };
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
        Ok(Self(provider))
    }

    /// What turns `tracing`'s spans into those that are sent: passes, and what
    /// happens within them.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        // Leases, watches and the long poll go on for ever beside the passes; each
        // of their calls as a trace of its own would bury them.
        let filter = dynamic_filter_fn(|metadata: &Metadata<'_>, context: &Context<'_, S>| {
            metadata.target().starts_with("vmgroup_")
                && (context.lookup_current().is_some() || (metadata.is_span() && metadata.name() == ROOT))
        })
        .with_max_level_hint(LevelFilter::DEBUG);
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("vmgroup"))
            .with_location(false)
            .with_threads(false)
            .with_filter(filter)
    }

    /// Sends what is left and stops. Blocks for a few seconds at most, so not to be
    /// called from within a runtime.
    pub fn end(self) {
        if let Err(error) = self.0.shutdown_with_timeout(FAREWELL) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// Where spans go below a collector's base URL.
fn signal_url(endpoint: &str) -> Result<String, TracesError> {
    let base: http::Uri = endpoint.parse().map_err(|_| TracesError::Endpoint)?;
    let usable = matches!(base.scheme_str(), Some("http" | "https"))
        && base.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        && base.query().is_none();
    if usable { Ok(format!("{}/v1/traces", endpoint.trim_end_matches('/'))) } else { Err(TracesError::Endpoint) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signals_path_is_added_to_the_base() {
        for base in ["http://collector:4318", "http://collector:4318/"] {
            assert_eq!(signal_url(base).unwrap(), "http://collector:4318/v1/traces");
        }
        assert_eq!(signal_url("https://x.example/otlp").unwrap(), "https://x.example/otlp/v1/traces");
    }

    #[test]
    fn s9_an_endpoint_that_cannot_be_used_is_not_repeated() {
        for endpoint in
            ["collector:4318", "grpc://collector:4317", "http://me:hunter2@collector:4318", "http://c/?k=hunter2", ""]
        {
            let message = signal_url(endpoint).unwrap_err().to_string();
            assert!(!message.contains("hunter2") && message.contains("http://collector:4318"), "{message}");
        }
    }
}

//! A registry that also remembers what was registered, so that documents,
//! alerts and dashboards can be held against it. Knows no metric by name.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

/// What there is to know of a metric but its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// As it is registered: without the suffix of a counter or an info.
    base: &'static str,
    kind: MetricKind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means, in one line.
    pub help: &'static str,
}

/// What kind of metric it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only rises.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Distributes observations over buckets.
    Histogram,
    /// Is always 1, and says something by its labels.
    Info,
}

impl Described {
    /// The name by which it is queried; a histogram's is followed by `_bucket`,
    /// `_sum` or `_count`.
    pub fn name(&self) -> String {
        match self.kind {
            MetricKind::Counter => format!("{}_total", self.base),
            MetricKind::Info => format!("{}_info", self.base),
            MetricKind::Gauge | MetricKind::Histogram => self.base.to_owned(),
        }
    }

    /// Its kind.
    pub fn kind(&self) -> MetricKind {
        self.kind
    }
}

/// A set of labels whose names are known before there is a value.
pub(super) trait LabelNames {
    const NAMES: &'static [&'static str];
}

/// A metric whose labels are known before there is a value.
pub(super) trait Labelled {
    const LABELS: &'static [&'static str];
}

impl<N, A> Labelled for Counter<N, A> {
    const LABELS: &'static [&'static str] = &[];
}

impl<N, A> Labelled for Gauge<N, A> {
    const LABELS: &'static [&'static str] = &[];
}

impl Labelled for Histogram {
    const LABELS: &'static [&'static str] = &[];
}

impl<S: LabelNames> Labelled for Info<S> {
    const LABELS: &'static [&'static str] = S::NAMES;
}

impl<S: LabelNames, M, C> Labelled for Family<S, M, C> {
    const LABELS: &'static [&'static str] = S::NAMES;
}

/// All metrics of a process with what there is to know of them.
#[derive(Default)]
pub(super) struct Catalogue {
    registry: Registry,
    described: Vec<Described>,
}

impl Catalogue {
    /// Registers a metric and gives back its twin, to be changed. `base` is its name without the `_total` of a counter
    /// and the `_info` of an info, which the encoder adds; `help` has no full stop,
    /// which it adds too.
    pub(super) fn add<M: Metric + TypedMetric + Labelled + Clone>(
        &mut self,
        base: &'static str,
        help: &'static str,
        metric: M,
    ) -> M {
        self.keep(base, help, metric.clone());
        metric
    }

    /// The same of a metric that nobody changes.
    pub(super) fn keep<M: Metric + TypedMetric + Labelled>(
        &mut self,
        base: &'static str,
        help: &'static str,
        metric: M,
    ) {
        let kind = match M::TYPE {
            MetricType::Counter => MetricKind::Counter,
            MetricType::Histogram => MetricKind::Histogram,
            MetricType::Info => MetricKind::Info,
            MetricType::Gauge | MetricType::Unknown => MetricKind::Gauge,
        };
        self.described.push(Described { base, kind, labels: M::LABELS, help });
        self.registry.register(base, help, metric);
    }

    /// What was registered, in that order.
    pub(super) fn described(&self) -> Vec<Described> {
        self.described.clone()
    }

    /// All values, in the `OpenMetrics` text format.
    pub(super) fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry).map(|()| text)
    }
}

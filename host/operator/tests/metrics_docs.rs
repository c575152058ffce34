//! docs/operations.md lists every metric that there is, in the words of its
//! HELP. When it should change, run with `UPDATE_GOLDEN=1`.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use vmgroup_operator::clock::Clock;
use vmgroup_operator::metrics::{MetricKind, Metrics};
use vmgroup_operator::tasks::TaskKind;

const BEGIN: &str = "<!-- metrics: written by host/operator/tests/metrics_docs.rs -->\n";
const END: &str = "<!-- metrics: end -->\n";

fn table() -> String {
    let mut table = "| name | labels | |\n|---|---|---|\n".to_owned();
    for metric in Metrics::new(Clock::starting_at(Duration::ZERO)).described() {
        let kind = match metric.kind() {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
            MetricKind::Info => "info",
        };
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let help = metric.help.replace('<', "&lt;");
        writeln!(table, "| `{}` ({kind}) | {labels} | {help} |", metric.name()).unwrap();
    }
    table
}

#[tokio::test]
async fn the_documents_list_of_metrics_is_complete_and_true() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (listed, after) = rest.split_once(END).unwrap();
    let wanted = table();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(listed, wanted, "docs/operations.md differs from the metrics; run with UPDATE_GOLDEN=1");
}

#[tokio::test]
async fn every_kind_of_task_is_named() {
    let metrics = Metrics::new(Clock::starting_at(Duration::ZERO));
    let described = metrics.described();
    let tasks = described.iter().find(|metric| metric.name() == "vmgroup_vcenter_tasks").unwrap();
    let kinds = TaskKind::ALL.map(TaskKind::as_str).join(", ");
    assert!(tasks.help.ends_with(&kinds), "{} are {kinds}", tasks.help);
}

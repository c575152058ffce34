//! Alerts and dashboard of deploy/monitoring, held against the metrics that the
//! operator really has: names, labels and the values that are compared with.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{self, Expr, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::Value;
use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Options, User, World, eventually, yaml};
use vmgroup_operator::clock::Clock;
use vmgroup_operator::metrics::{MetricKind, Metrics};
use vmgroup_sim::faults::{Fault, Rule};

const SOON: Duration = Duration::from_secs(60);
const RULES: &str = include_str!("../../../deploy/monitoring/rules.yaml");
const DASHBOARD: &str = include_str!("../../../deploy/monitoring/dashboard.json");
const HANDBOOK: &str = include_str!("../../../docs/operations.md");

/// What Prometheus puts on every series of a target.
const TARGET: [&str; 4] = ["job", "namespace", "pod", "instance"];

/// By the name of a series: its labels, each with the values that were seen.
type Series = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// The samples of a page in the text format. No label's value in it has a comma.
fn samples(page: &str) -> Series {
    let mut series = Series::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_once(['{', ' ']).unwrap();
        let labels = series.entry(name.to_owned()).or_default();
        let Some((pairs, _)) = rest.split_once('}').filter(|_| line.contains('{')) else { continue };
        for (label, value) in pairs.split(',').filter_map(|pair| pair.split_once('=')) {
            labels.entry(label.to_owned()).or_default().insert(value.trim_matches('"').to_owned());
        }
    }
    series
}

fn merge(all: &mut Series, more: Series) {
    for (name, labels) in more {
        let known = all.entry(name).or_default();
        for (label, values) in labels {
            known.entry(label).or_default().extend(values);
        }
    }
}

/// A story in which every kind of thing happens once that is counted.
async fn a_day() -> (Series, Metrics) {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    let fail = Rule { on: "CloneVM_Task".into(), skip: 1, times: 1, fault: Fault::FailTask("NoDiskSpace".into()) };
    world.vcenter.faults().add(fail);
    let stop = world.launch(Some("vmgroup-operator"));
    let metrics = world.metrics(0).clone();
    let user = User::of(&world);
    let mut seen = Series::new();
    user.group("shop", "web", 3).await;
    eventually("it is told that the group is not ready", SOON, async || {
        merge(&mut seen, samples(&metrics.encode()));
        if seen.contains_key("vmgroup_groups_not_ready") { Ok(()) } else { Err(String::new()) }
    })
    .await;
    user.ready("shop", "web", 3, SOON).await;
    user.policy(Some("scaling: { plugin: nobody }"), &[]).await;
    user.told("shop", "web", "PolicyRefused", "nobody", SOON).await;
    merge(&mut seen, samples(&metrics.encode()));
    user.scale("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;
    stop.cancel();
    merge(&mut seen, samples(&metrics.encode()));
    (seen, metrics)
}

/// The names under which a metric is queried.
fn queried(name: &str, kind: MetricKind) -> Vec<String> {
    match kind {
        MetricKind::Histogram => ["bucket", "sum", "count"].map(|part| format!("{name}_{part}")).to_vec(),
        MetricKind::Counter | MetricKind::Gauge | MetricKind::Info => vec![name.to_owned()],
    }
}

/// Complains about whatever an expression names that there is not.
struct Check<'a> {
    series: &'a Series,
    faults: Vec<String>,
    /// Labels that are there after all: of the metrics, or by which is grouped.
    labels: BTreeSet<String>,
}

impl Check<'_> {
    fn selector(&mut self, selector: &VectorSelector) {
        let name = selector.name.clone().unwrap_or_default();
        self.labels.extend(TARGET.map(str::to_owned));
        // Prometheus' own.
        if name == "up" {
            return;
        }
        let Some(labels) = self.series.get(&name) else {
            return self.faults.push(format!("there is no metric {name}"));
        };
        self.labels.extend(labels.keys().cloned());
        for Matcher { op, name: label, value } in &selector.matchers.matchers {
            if TARGET.contains(&label.as_str()) {
                continue;
            }
            let Some(values) = labels.get(label) else {
                self.faults.push(format!("{name} has no label {label}"));
                continue;
            };
            let alternatives: Vec<&str> = match op {
                MatchOp::Equal | MatchOp::NotEqual => vec![value],
                MatchOp::Re(_) | MatchOp::NotRe(_) => value.split('|').collect(),
            };
            for value in alternatives {
                // What did not happen in the story is at least in the handbook.
                let word = value.chars().all(char::is_alphabetic);
                if word && !values.contains(value) && !HANDBOOK.contains(&format!("`{value}`")) {
                    self.faults.push(format!("{name}: {label} is never {value}, but one of {values:?}"));
                }
            }
        }
        if !selector.matchers.matchers.iter().any(|matcher| matcher.name == "job") {
            self.faults.push(format!("{name} may be anybody's: there is no job"));
        }
    }
}

impl ExprVisitor for Check<'_> {
    type Error = Infallible;

    fn pre_visit(&mut self, expr: &Expr) -> Result<bool, Infallible> {
        match expr {
            Expr::VectorSelector(selector) => self.selector(selector),
            Expr::MatrixSelector(matrix) => self.selector(&matrix.vs),
            _ => {}
        }
        Ok(true)
    }

    fn post_visit(&mut self, expr: &Expr) -> Result<bool, Infallible> {
        if let Expr::Aggregate(aggregate) = expr {
            let by: BTreeSet<String> =
                aggregate.modifier.iter().flat_map(|modifier| modifier.labels().labels.iter().cloned()).collect();
            for label in by.difference(&self.labels) {
                self.faults.push(format!("grouped by {label}, which nothing in there has"));
            }
            self.labels = by;
        }
        Ok(true)
    }
}

/// What is wrong with an expression and with the texts that show its labels.
fn faults(series: &Series, expression: &str, shown: &[&str]) -> Vec<String> {
    let plain = expression.replace("$__rate_interval", "5m").replace("=~\"$job\"", "=\"any\"");
    let parsed = match parser::parse(&plain) {
        Ok(parsed) => parsed,
        Err(error) => return vec![format!("{expression}: {error}")],
    };
    let mut check = Check { series, faults: Vec::new(), labels: BTreeSet::new() };
    let Ok(_) = walk_expr(&mut check, &parsed);
    let Check { mut faults, labels, .. } = check;
    for text in shown {
        for inner in text.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
            let inner = inner.trim();
            let label = inner.strip_prefix("$labels.").unwrap_or(inner);
            if !inner.starts_with("$value") && !labels.contains(label) {
                faults.push(format!("shows {label}, which the result does not have"));
            }
        }
    }
    faults.into_iter().map(|fault| format!("{expression}: {fault}")).collect()
}

/// Each metric that is described is there after the story, with just those
/// labels; and nothing is there that is not described.
#[tokio::test(start_paused = true)]
async fn the_metrics_are_those_that_are_described() {
    let (seen, metrics) = a_day().await;
    let mut described = BTreeSet::new();
    for metric in metrics.described() {
        for name in queried(&metric.name(), metric.kind()) {
            let labels = seen.get(&name).unwrap_or_else(|| panic!("{name} was never there"));
            let real: BTreeSet<&str> = labels.keys().map(String::as_str).filter(|label| *label != "le").collect();
            assert_eq!(real, metric.labels.iter().copied().collect(), "labels of {name}");
            described.insert(name);
        }
    }
    let undescribed: Vec<&String> = seen.keys().filter(|name| !described.contains(*name)).collect();
    assert!(undescribed.is_empty(), "{undescribed:?}");
    // No object's name is a label: nothing in there knows the group.
    let values = seen.values().flat_map(BTreeMap::values).flatten();
    assert!(values.clone().any(|value| value == "CloneVM_Task") && !values.clone().any(|value| value.contains("web")));
}

/// Every alert asks for what there is, is complete, and says where to read on.
#[tokio::test(start_paused = true)]
async fn alerts_are_about_what_there_is() {
    let (series, _) = a_day().await;
    let rules = yaml(RULES);
    let groups = rules["spec"]["groups"].as_array().unwrap();
    let alerts: Vec<&Value> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert!(alerts.len() > 10);
    let anchors: BTreeSet<String> = HANDBOOK
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .map(|heading| heading.to_lowercase().replace(' ', "-"))
        .collect();
    let mut wrong = Vec::new();
    let mut names = BTreeSet::new();
    for alert in alerts {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = text(&alert["alert"]);
        let notes = &alert["annotations"];
        let (summary, description) = (text(&notes["summary"]), text(&notes["description"]));
        wrong.extend(faults(&series, alert["expr"].as_str().unwrap(), &[&summary, &description]));
        let runbook = text(&notes["runbook_url"]);
        if !runbook.split_once("docs/operations.md#").is_some_and(|(_, anchor)| anchors.contains(anchor)) {
            wrong.push(format!("{name}: docs/operations.md has no {runbook}"));
        }
        let severity = text(&alert["labels"]["severity"]);
        if summary.is_empty() || description.is_empty() || alert["for"].is_null() {
            wrong.push(format!("{name} lacks a summary, a description or `for`"));
        }
        if !["critical", "warning"].contains(&severity.as_str()) {
            wrong.push(format!("{name}: severity {severity}"));
        }
        if !names.insert(name.to_lowercase()) {
            wrong.push(format!("{name} is there twice"));
        }
    }
    // And no runbook of an alert that is no more.
    wrong.extend(anchors.difference(&names).filter(|anchor| anchor.starts_with("vmgroup")).cloned());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// An edit that does not count is neither silent nor unseen, whatever it is of.
#[tokio::test]
async fn what_is_refused_has_an_alert_and_a_panel() {
    let metrics = Metrics::new(Clock::starting_at(Duration::ZERO));
    let described = metrics.described();
    let names: Vec<String> = described
        .iter()
        .map(vmgroup_operator::metrics::Described::name)
        .filter(|it| it.ends_with("_refused"))
        .collect();
    assert!(names.len() >= 2, "{names:?}");
    for name in names {
        for (file, text) in [("rules.yaml", RULES), ("dashboard.json", DASHBOARD)] {
            assert!(text.contains(&format!("max({name}{{")), "deploy/monitoring/{file} does not ask for {name}");
        }
    }
}

/// Every panel of the dashboard shows what there is.
#[tokio::test(start_paused = true)]
async fn the_dashboard_shows_what_there_is() {
    let (series, _) = a_day().await;
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut wrong = Vec::new();
    let mut shown = 0;
    let mut ids = BTreeSet::new();
    let annotations = dashboard["annotations"]["list"].as_array().unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{} has another's id", panel["title"]);
        for target in panel["targets"].as_array().into_iter().flatten() {
            shown += 1;
            let legend = target["legendFormat"].as_str().unwrap();
            wrong.extend(faults(&series, target["expr"].as_str().unwrap(), &[legend]));
        }
    }
    for annotation in annotations {
        let title = annotation["titleFormat"].as_str().unwrap();
        wrong.extend(faults(&series, annotation["expr"].as_str().unwrap(), &[title]));
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let Some(asked) = variable["query"].as_str().and_then(|query| query.strip_prefix("label_values(")) else {
            continue;
        };
        let metric = asked.split(',').next().unwrap();
        assert!(series.contains_key(metric), "there is no metric {metric}");
    }
    assert!(shown > 40);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The check itself sees what is wrong.
#[test]
fn mistakes_are_found() {
    let series = samples("a_total{kind=\"clone\"} 1\nb 2\n");
    for (expression, shown, mistake) in [
        (r#"sum(rate(a_totl{job="x"}[5m]))"#, "", "no metric a_totl"),
        (r#"a_total{job="x",knd="clone"}"#, "", "no label knd"),
        (r#"a_total{job="x",kind="clown"}"#, "", "never clown"),
        (r#"a_total{job="x",kind=~"clone|clown"}"#, "", "never clown"),
        (r#"sum by (state) (a_total{job="x"})"#, "", "grouped by state"),
        (r#"sum(a_total{job="x"})"#, "{{kind}}", "shows kind"),
        ("b", "", "no job"),
        (r#"sum(b{job="x"}"#, "", "sum"),
    ] {
        let found = faults(&series, expression, &[shown]);
        assert!(found.iter().any(|fault| fault.contains(mistake)), "{expression}: {found:?}");
    }
    assert_eq!(faults(&series, r#"sum by (kind) (a_total{job="x"}) / 2"#, &["{{kind}}"]), Vec::<String>::new());
}

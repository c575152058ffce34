//! The page of a replay, in a real browser, as wide as a phone.

#![allow(clippy::expect_used, reason = "helpers of a test, outside of #[test]")]
use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use vmgroup_policy::generate::{self, Size};
use vmgroup_policy::{Host, Kind, Limits, Policy, shipped};
use vmgroup_records::{Made, Record, Replay, Replayed, Role, html};

/// What browsers are called.
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// As wide as a small phone.
const WIDTH: u32 = 360;

/// Has the page tell how wide it is, what of it is open, and how many sides stand
/// beside or below each other.
const MEASURE: &str = "<script>
const box = (element) => element.getBoundingClientRect();
const sides = [...document.querySelectorAll('details[open] section')].map(box);
parent.postMessage([document.documentElement.scrollWidth, innerWidth,
  document.querySelectorAll('details').length, sides.length,
  sides.filter((side) => side.width > 0 && side.height > 0 && side.right <= innerWidth).length].join(' '), '*');
</script>";

fn ordered(config: serde_json::Value) -> Arc<Policy> {
    let host = Host::new(Limits::default()).expect("a host");
    let source = vmgroup_policy::Source { config, ..shipped::find("ordered").expect("it is shipped") };
    host.check(Kind::Scaling, &source).expect("it passes").policy
}

/// Twelve decisions, with names as long as they may be.
fn replayed(policy: &Policy) -> Replayed {
    let newest = ordered(serde_json::json!({}));
    let record = |number: u32| {
        let mut question = generate::sample(Kind::Scaling, Size::of(10 + number));
        if let vmgroup_policy::Question::Scaling(request) = &mut question {
            for member in &mut request.members {
                member.name = format!("{:x<80}", member.name);
            }
        }
        let tried = newest.answer(&question);
        let made = Made { at_ms: 1_767_225_600_000, role: Role::InForce, micros: 100 };
        Record::new(&newest, question, tried, made, u64::from(number))
    };
    let records: Vec<Record> = (1..=12).map(record).collect();
    Replay::new(policy, NonZero::<usize>::MIN).over(&records)
}

async fn browse(browser: &str, folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=5000"])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .args(arguments)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(120), output).await.expect("the browser ends");
    String::from_utf8_lossy(&output.expect("the browser starts").stdout).into_owned()
}

#[tokio::test]
async fn the_page_of_a_replay_is_readable_on_a_phone() {
    if !crate::wanted("the_page_of_a_replay_is_readable_on_a_phone") {
        return;
    }
    let found = BROWSERS.into_iter().find(|name| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(name).is_file())
    });
    let Some(browser) = found else {
        println!("no browser is here: the page of a replay was not looked at (apt-get install chromium)");
        return;
    };
    let policy = ordered(serde_json::json!({ "order": "oldest" }));
    let replayed = replayed(&policy);
    assert_eq!(replayed.mattering(), 12);
    let mut page = String::new();
    html::report(&mut page, &replayed, &policy, |ms| format!("{ms} ms")).expect("a page");
    for outside in ["http:", "https:", "src=", "<link", "@import", "url("] {
        assert!(!page.contains(outside), "the page needs something from outside: {outside}");
    }

    let folder = std::env::temp_dir().join(format!("vmgroup-page-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("page.html"), page.replace("</body>", &format!("{MEASURE}</body>"))).expect("a page");
    let outer = folder.join("outer.html");
    let frame = format!(
        "<!doctype html><title>waiting</title><script>onmessage = (e) => document.title = e.data</script><iframe width={WIDTH} height=800 style=\"border:0\" src=page.html></iframe>"
    );
    std::fs::write(&outer, frame).expect("a page");
    let url = format!("file://{}", outer.display());
    let shown = browse(browser, &folder, &["--dump-dom", &url]).await;
    let title = shown.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>")).map(|(title, _)| title);
    let figures: Vec<u32> =
        title.unwrap_or_default().split(' ').map(|figure| figure.parse().expect("figures")).collect();
    let [wide, window, details, sides, visible] = figures[..] else { panic!("{shown}") };
    assert_eq!(window, WIDTH);
    assert!(wide <= WIDTH, "one has to scroll sideways: {wide} of {WIDTH}");
    assert_eq!((details, sides, visible), (12, 24, 24), "each difference is open, with both sides in sight");
    let _ = std::fs::remove_dir_all(&folder);
}

//! Decisions of real policies, kept, read again and replayed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::json;
use vmgroup_policy::wit::scaling;
use vmgroup_policy::wit::types::{Context, Group, Inventory, Member, PowerState, Purpose};
use vmgroup_policy::{Host, Kind, Limits, Policy, Question, Source};
use vmgroup_records::{
    Entry, FORMAT, FileSettings, Filter, FormatError, Made, Outcome, ReadError, Record, Recorder, Replay, Role,
    Settings, Side, Verdict, html, lines, read,
};

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("vmgroup-records-{}-{number}", std::process::id())))
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

static HOST: LazyLock<Host> = LazyLock::new(new_host);

fn new_host() -> Host {
    Host::new(Limits::default()).unwrap()
}

fn shipped(host: &Host, kind: Kind, name: &str, config: serde_json::Value) -> Arc<Policy> {
    let source = Source { config, ..vmgroup_policy::shipped::find(name).unwrap() };
    host.check(kind, &source).unwrap().policy
}

fn ordered(order: &str) -> Arc<Policy> {
    shipped(&HOST, Kind::Scaling, "ordered", json!({ "order": order }))
}

/// Who of `members`, made one after the other, has to leave.
fn question(members: u32, count: u32) -> Question {
    let member = |number: u32| Member {
        name: format!("web-{number}"),
        uuid: format!("00000000-0000-0000-0000-{number:012}"),
        created_at: Some(u64::from(number)),
        power: PowerState::PoweredOn,
        host: None,
        datastore: None,
        cpu_used_mhz: None,
        memory_used_mib: None,
        ready: true,
        protected: false,
        attributes: Vec::new(),
    };
    Question::Scaling(scaling::Request {
        context: Context {
            now: 1_000_000,
            utc_offset_minutes: None,
            seed: 7,
            attempt: 0,
            purpose: Purpose::ScaleIn,
            config: String::new(),
            group: Group {
                namespace: "shop".to_owned(),
                name: "web".to_owned(),
                uid: "uid".to_owned(),
                labels: Vec::new(),
                template: "ubuntu".to_owned(),
                cpus: 1,
                memory_mib: 1024,
                replicas: members - count.min(members),
                attributes: Vec::new(),
            },
        },
        count,
        members: (1..=members).map(member).collect(),
        inventory: Inventory { clusters: Vec::new(), hosts: Vec::new(), datastores: Vec::new() },
    })
}

fn decide(policy: &Arc<Policy>, question: Question) -> Entry {
    let tried = policy.answer(&question);
    let made = Made { at_ms: 1_700_000_000_000, role: Role::InForce, micros: 250 };
    Entry { policy: policy.clone(), question: Arc::new(question), tried, made }
}

fn keep(memory: usize, folder: Option<&Path>, entries: impl IntoIterator<Item = Entry>) -> Recorder {
    let files = folder.map(|folder| FileSettings { folder: folder.to_owned(), file_bytes: 2_000, files: 3 });
    let recorder = Recorder::start(Settings { memory, files }).unwrap();
    for entry in entries {
        recorder.record(entry);
        recorder.flush(Duration::from_secs(60));
    }
    recorder
}

#[test]
fn a_record_says_all_that_a_decision_was_made_of() {
    let policy = ordered("newest");
    let recorder = keep(1 << 20, None, [decide(&policy, question(3, 1))]);
    let record = recorder.get(1).unwrap();
    assert_eq!(record.policy.digest, policy.digest().to_string());
    assert_eq!(record.question.context().config, policy.config_text(), "as the policy saw it");
    assert!(record.fuel > 0);
    let Outcome::Answered(answer) = &record.outcome else { panic!("{:?}", record.outcome) };
    assert_eq!(answer.lines(&record.question)[0].subject, "web-3");
    // Canonical: what is read and written again is the same bytes.
    assert_eq!(Record::from_line(&record.to_line()).unwrap(), record);
    let [summary] = &recorder.list(&Filter::default())[..] else { panic!() };
    assert_eq!((summary.group.as_str(), summary.kind.as_str()), ("shop/web", "scaling"));
    assert!(summary.text.starts_with("web-3: "), "{}", summary.text);
}

#[test]
fn what_gets_no_answer_is_recorded_too() {
    let policy = ordered("newest");
    // Nobody can choose three of two.
    let recorder = keep(1 << 20, None, [decide(&policy, question(2, 3))]);
    let record = recorder.get(1).unwrap();
    assert!(matches!(&record.outcome, Outcome::Failed { reason, .. } if reason == "PolicyUnsatisfiable"), "{record:?}");
    assert!(record.fuel > 0, "it cost something");
}

#[test]
fn files_hold_the_same_as_memory_and_are_bounded() {
    let (folder, policy) = (Folder::new(), ordered("oldest"));
    let recorder = keep(1 << 20, Some(&folder.0), (5..65).map(|members| decide(&policy, question(members, 2))));
    let files = folder.files();
    assert_eq!(files.len(), 3, "{files:?}");
    let on_disk = read(&folder.0).unwrap();
    assert!(on_disk.len() > 3 && on_disk.len() < 60, "the oldest are gone: {}", on_disk.len());
    assert_eq!(on_disk.last().unwrap(), &recorder.get(60).unwrap());
    // An export is such a file.
    let export = folder.0.join("export.jsonl.zst");
    std::fs::write(&export, recorder.export(&Filter { limit: Some(10), ..Filter::default() })).unwrap();
    let exported = read(&export).unwrap();
    assert_eq!(exported.iter().map(|record| record.number).collect::<Vec<_>>(), (51..=60).collect::<Vec<_>>());
}

#[test]
fn a_restart_goes_on_behind_what_is_there_even_if_it_was_cut() {
    let (folder, policy) = (Folder::new(), ordered("oldest"));
    drop(keep(1 << 20, Some(&folder.0), [5, 6].map(|members| decide(&policy, question(members, 1)))));
    let [file] = &folder.files()[..] else { panic!() };
    let bytes = std::fs::read(file).unwrap();
    std::fs::write(file, &bytes[..bytes.len() - 7]).unwrap();
    keep(1 << 20, Some(&folder.0), [decide(&policy, question(7, 1))]);
    let members: Vec<_> = read(&folder.0).unwrap().iter().map(|record| record.question.members()).collect();
    assert_eq!(members, [5, 7], "the cut one is left out, and nothing else is lost");
}

#[test]
fn a_disk_that_fails_costs_records_and_nothing_else() {
    let (folder, policy) = (Folder::new(), ordered("oldest"));
    let settings = FileSettings { folder: folder.0.clone(), file_bytes: 1, files: 3 };
    let recorder = Recorder::start(Settings { memory: 1 << 20, files: Some(settings) }).unwrap();
    // The folder goes away, so that no next file can be made.
    std::fs::remove_dir_all(&folder.0).unwrap();
    recorder.record(decide(&policy, question(3, 1)));
    recorder.flush(Duration::from_secs(60));
    let standing = recorder.standing();
    assert_eq!((standing.kept, standing.unwritten, standing.dropped), (1, 1, 0));
    std::fs::create_dir_all(&folder.0).unwrap();
    recorder.record(decide(&policy, question(4, 1)));
    recorder.flush(Duration::from_secs(60));
    assert_eq!(read(&folder.0).unwrap().len(), 1, "it goes on when the disk does");
}

#[test]
fn a_folder_that_cannot_be_had_is_said_at_the_start() {
    let folder = Folder::new();
    std::fs::write(&folder.0, "a file").unwrap();
    let settings = FileSettings { folder: folder.0.clone(), file_bytes: 1, files: 1 };
    let error = Recorder::start(Settings { memory: 1, files: Some(settings) }).unwrap_err();
    std::fs::remove_file(&folder.0).unwrap();
    assert!(error.to_string().contains("make it a folder"), "{error}");
}

#[test]
fn nothing_is_kept_where_nobody_wants_it() {
    let recorder = Recorder::off();
    recorder.record(decide(&ordered("oldest"), question(3, 1)));
    assert!(recorder.list(&Filter::default()).is_empty());
    assert_eq!(recorder.standing().dropped, 0);
}

fn records(policy: &Arc<Policy>) -> Vec<Record> {
    let questions = [question(3, 1), question(1, 1), question(2, 3), question(9, 4)];
    let recorder = keep(1 << 20, None, questions.map(|question| decide(policy, question)));
    (1..=4).map(|number| recorder.get(number).unwrap()).collect()
}

#[test]
fn the_same_policy_gives_the_same_answers() {
    let records = records(&ordered("newest"));
    // Compiled anew, as on another machine.
    let policy = shipped(&new_host(), Kind::Scaling, "ordered", json!({ "order": "newest" }));
    let replayed = Replay::new(&policy, NonZero::new(2).unwrap()).over(&records);
    assert_eq!((replayed.asked, replayed.count(Verdict::Same), replayed.mattering()), (4, 3, 0));
    assert_eq!(replayed.count(Verdict::NeitherAnswers), 1);
}

#[test]
fn another_policy_is_shown_where_it_differs() {
    let records = records(&ordered("newest"));
    let policy = ordered("oldest");
    let replayed = Replay::new(&policy, NonZero::new(3).unwrap()).over(&records);
    assert_eq!(replayed.count(Verdict::Differs), 2, "of one member there is one choice");
    let first = &replayed.differences[0];
    let Side::Answered(now) = &first.now else { panic!() };
    assert_eq!(now[0].subject, "web-1");
    let naming = shipped(&HOST, Kind::Naming, "random-suffix", json!({}));
    let other = Replay::new(&naming, NonZero::<usize>::MIN).over(&records);
    assert_eq!((other.asked, other.left_out), (0, 4));
}

/// However many ask them, as they are read: the same, in the same order.
#[test]
fn a_file_is_replayed_without_being_held_in_memory() {
    let (folder, policy) = (Folder::new(), ordered("newest"));
    let recorder = keep(1 << 20, None, (1..150).map(|members| decide(&policy, question(members, 1))));
    std::fs::create_dir_all(&folder.0).unwrap();
    let file = folder.0.join("export.jsonl.zst");
    std::fs::write(&file, recorder.export(&Filter::default())).unwrap();
    let oldest = ordered("oldest");
    let whole = Replay::new(&oldest, NonZero::<usize>::MIN).over(&read(&file).unwrap());
    assert_eq!((whole.asked, whole.count(Verdict::Differs), whole.differences.len()), (149, 148, 149));
    for threads in [1, 4] {
        let replay = Replay::new(&oldest, NonZero::new(threads).unwrap());
        assert_eq!(replay.over_lines(lines(&file).unwrap()).unwrap(), whole, "{threads}");
    }
    // A line in the middle that is none ends it, and is named, however many follow.
    let mut text: Vec<Vec<u8>> = read(&file).unwrap().iter().map(Record::to_line).collect();
    text[40] = b"nonsense\n".to_vec();
    let broken = folder.0.join("broken.jsonl");
    std::fs::write(&broken, text.concat()).unwrap();
    for threads in [1, 4] {
        let replay = Replay::new(&oldest, NonZero::new(threads).unwrap());
        let error = replay.over_lines(lines(&broken).unwrap()).unwrap_err();
        assert!(matches!(error, ReadError::Line { line: 41, .. }), "{error}");
    }
}

#[test]
fn the_page_has_both_sides_and_no_strangers_markup() {
    let policy = ordered("newest");
    let mut hostile = question(3, 1);
    let Question::Scaling(request) = &mut hostile else { panic!() };
    request.members[0].name = "<script>alert(1)</script>".to_owned();
    let recorder = keep(1 << 20, None, [decide(&policy, hostile)]);
    let other = ordered("oldest");
    let replayed = Replay::new(&other, NonZero::<usize>::MIN).over(&[recorder.get(1).unwrap()]);
    let mut page = String::new();
    html::report(&mut page, &replayed, &other, |ms| format!("{ms} ms")).unwrap();
    assert!(page.contains("1 of 1 decisions would have gone another way"), "{page}");
    assert!(page.contains("web-3") && page.contains("&lt;script&gt;alert(1)"), "{page}");
    assert!(!page.contains("<script>") && !page.contains("http"), "nothing foreign, nothing fetched");
}

#[test]
fn what_is_no_record_is_refused_with_its_line() {
    let folder = Folder::new();
    std::fs::create_dir_all(&folder.0).unwrap();
    assert!(matches!(read(&folder.0), Err(ReadError::Empty(_))));
    let file = folder.0.join("decisions-00000001.jsonl.zst");
    let line = records(&ordered("newest")).remove(0).to_line();
    std::fs::write(&file, [&line[..], b"{\"format\":1}\n"].concat()).unwrap();
    let error = read(&folder.0).unwrap_err();
    assert!(matches!(error, ReadError::Line { line: 2, .. }), "{error}");
    let newer = String::from_utf8(line).unwrap().replacen(&format!("\"format\":{FORMAT}"), "\"format\":99", 1);
    let error = Record::from_line(newer.as_bytes()).unwrap_err();
    assert!(
        matches!(error, FormatError::Newer { found: 99 }) && error.to_string().contains(&FORMAT.to_string()),
        "{error}"
    );
}

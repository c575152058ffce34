//! Makes plugins byte by byte, good and bad: a core module in WebAssembly text
//! with its answers laid out in memory by hand (the canonical ABI), wrapped into
//! a component by wit-component, as any toolchain does it.

use bytes::Bytes;
use vmgroup_policy::{Kind, Source};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The attempt at which a made plugin does what it was made for. Before that it
/// refuses, and so passes the self-test.
pub const NOW_BE_BAD: u32 = 666;

/// The time at which the self-test asks, 2026-01-05T10:00:00Z, in seconds since 1970.
pub const SELF_TEST: u64 = 1_767_607_200;

/// Where the static data of a made plugin begins, and where its heap does.
const DATA: u32 = 1024;
const HEAP: u32 = 4 << 20;
/// Never written to: text of as many NULs as one likes, up to a mebibyte.
const ZEROS: u32 = 5 << 20;

/// When a plugin does what it was made for; it refuses otherwise.
enum Bad {
    /// At the attempt [`NOW_BE_BAD`].
    WhenTold,
    Always,
    /// Before this time, in seconds since 1970.
    Before(u64),
    /// From then on.
    Since(u64),
}

/// A plugin to be made.
pub struct Made {
    kind: Kind,
    image: Vec<u8>,
    describe: String,
    validate: String,
    at_start: String,
    decide: String,
    locals: String,
    bad: Bad,
    imports_log: bool,
    memory_pages: u32,
}

impl Made {
    /// A plugin that describes itself, accepts any configuration and refuses
    /// every question.
    pub fn new(kind: Kind) -> Self {
        let mut made = Self {
            kind,
            image: Vec::new(),
            describe: String::new(),
            validate: String::new(),
            at_start: String::new(),
            decide: "unreachable".into(),
            locals: String::new(),
            bad: Bad::WhenTold,
            imports_log: true,
            memory_pages: 96,
        };
        made.describe("made", None);
        let accepted = made.put(&[0; 12]);
        made.validate = format!("i32.const {accepted}");
        made
    }

    pub fn describe(&mut self, name: &str, schema: Option<&str>) {
        self.describe_with(name, schema, &[]);
    }

    /// Says that it does not hang on the order of tables.
    pub fn order_free(mut self) -> Self {
        let kind = self.kind.to_string();
        self.describe_with("made", None, &[("order-free", &kind)]);
        self
    }

    fn describe_with(&mut self, name: &str, schema: Option<&str>, attributes: &[(&str, &str)]) {
        let mut list = Vec::new();
        for (key, value) in attributes {
            for text in [key, value] {
                let (ptr, len) = self.text(text);
                words(&mut list, &[ptr, len]);
            }
        }
        let list = self.put(&list);
        let count = u32::try_from(attributes.len()).unwrap();
        let mut record = Vec::new();
        for text in [name, "1.0.0", "Made by hand"] {
            let (ptr, len) = self.text(text);
            words(&mut record, &[ptr, len]);
        }
        let (ptr, len) = schema.map_or((0, 0), |schema| self.text(schema));
        words(&mut record, &[u32::from(schema.is_some()), ptr, len, list, count]);
        let record = self.put(&record);
        self.describe = format!("i32.const {record}");
    }

    /// Refuses every configuration with these mistakes.
    pub fn config_mistakes(mut self, mistakes: &[(&str, &str)]) -> Self {
        let mut list = Vec::new();
        for (path, message) in mistakes {
            for text in [path, message] {
                let (ptr, len) = self.text(text);
                words(&mut list, &[ptr, len]);
            }
        }
        let list = self.put(&list);
        let mut verdict = Vec::new();
        words(&mut verdict, &[1, list, u32::try_from(mistakes.len()).unwrap()]);
        let verdict = self.put(&verdict);
        self.validate = format!("i32.const {verdict}");
        self
    }

    /// Does this (WebAssembly text that leaves a pointer) when it is asked.
    pub fn decides(mut self, text: &str) -> Self {
        text.clone_into(&mut self.decide);
        self
    }

    /// Does something else with what it was going to do.
    pub fn but(mut self, change: impl FnOnce(&str) -> String) -> Self {
        self.decide = change(&self.decide);
        self
    }

    /// Is bad in the self-test already.
    pub fn bad_from_the_start(mut self) -> Self {
        self.bad = Bad::Always;
        self
    }

    /// Is bad before this time, by the question's clock. With one before
    /// [`SELF_TEST`] it passes that.
    pub fn bad_before(mut self, seconds: u64) -> Self {
        self.bad = Bad::Before(seconds);
        self
    }

    /// Is bad from this time on, by the question's clock. With one after
    /// [`SELF_TEST`] it passes that.
    pub fn bad_since(mut self, seconds: u64) -> Self {
        self.bad = Bad::Since(seconds);
        self
    }

    pub fn when_instantiated(mut self, text: &str) -> Self {
        text.clone_into(&mut self.at_start);
        self
    }

    pub fn memory_pages(mut self, pages: u32) -> Self {
        self.memory_pages = pages;
        self
    }

    pub fn without_log(mut self) -> Self {
        self.imports_log = false;
        self
    }

    /// Answers with these names.
    pub fn names(mut self, names: &[&str], everywhere: bool) -> Self {
        let mut list = Vec::new();
        for name in names {
            let (name, len) = self.text(name);
            let (reason, reason_len) = self.text("because\nof \u{1b}[31mthis");
            words(&mut list, &[name, len, reason, reason_len]);
        }
        let list = self.put(&list);
        let count = u32::try_from(names.len()).unwrap();
        self.answers(&[0, list, count, u32::from(everywhere)])
    }

    /// Answers with these victims.
    pub fn victims(mut self, victims: &[u32]) -> Self {
        let mut list = Vec::new();
        for victim in victims {
            let (reason, len) = self.text("idle for longest");
            words(&mut list, &[*victim, reason, len]);
        }
        let list = self.put(&list);
        let count = u32::try_from(victims.len()).unwrap();
        self.answers(&[0, list, count, 0])
    }

    /// Answers with these places: cluster, host, datastore.
    pub fn places(mut self, places: &[[Option<u32>; 3]]) -> Self {
        let mut list = Vec::new();
        for place in places {
            for index in place {
                words(&mut list, &[u32::from(index.is_some()), index.unwrap_or(0)]);
            }
            let (reason, len) = self.text("most room");
            words(&mut list, &[reason, len]);
        }
        let list = self.put(&list);
        let count = u32::try_from(places.len()).unwrap();
        self.answers(&[0, list, count, 0])
    }

    /// A good one: it takes the first members, or leaves places to others, and gives
    /// its configuration as the reason for each, so that answers tell of whom they are.
    pub fn gives_its_config_as_reason(mut self) -> Self {
        // Offsets in the request, and in an entry of the answer.
        let (count, entry, reason) = match self.kind {
            Kind::Placement => (148, 32, 24),
            Kind::Scaling => (112, 12, 4),
            Kind::Naming => unreachable!("a name tells by itself"),
        };
        let list = self.put(&vec![0; entry * 64]);
        let number = if self.kind == Kind::Scaling { "(i32.store (local.get $at) (local.get $n))" } else { "" };
        let length = reason + 4;
        let mut answer = Vec::new();
        words(&mut answer, &[0, list, 0, 0]);
        let answer = self.put(&answer);
        self.locals = "(local $at i32)".into();
        self.decide = format!(
            "(local.set $n (i32.load offset={count} (local.get $request)))
             (i32.store offset=8 (i32.const {answer}) (local.get $n))
             (block $done (loop $next
               (br_if $done (i32.eqz (local.get $n)))
               (local.set $n (i32.sub (local.get $n) (i32.const 1)))
               (local.set $at (i32.add (i32.const {list}) (i32.mul (local.get $n) (i32.const {entry}))))
               {number}
               (i32.store offset={reason} (local.get $at) (i32.load offset=32 (local.get $request)))
               (i32.store offset={length} (local.get $at) (i32.load offset=36 (local.get $request)))
               (br $next)))
             i32.const {answer}"
        );
        self
    }

    /// Answers with `count` entries that all share one reason of `bytes` bytes:
    /// little memory, a large answer.
    pub fn one_reason_many_times(mut self, count: u32, bytes: u32) -> Self {
        let mut list = Vec::new();
        for index in 0..count {
            words(&mut list, &[index, ZEROS, bytes]);
        }
        let list = self.put(&list);
        self.answers(&[0, list, count, 0])
    }

    /// Answers with one victim whose reason is these bytes.
    pub fn reason(mut self, reason: &[u8]) -> Self {
        let text = self.put(reason);
        let mut list = Vec::new();
        words(&mut list, &[0, text, u32::try_from(reason.len()).unwrap()]);
        let list = self.put(&list);
        self.answers(&[0, list, 1, 0])
    }

    /// Logs a line 5,000 times before it answers.
    pub fn floods_the_log(mut self) -> Self {
        self.decide = format!(
            "(local.set $n (i32.const 5000))
             (loop $l
               (call $log (i32.const 1) (i32.const 1024) (i32.const 4))
               (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
             {}",
            self.decide
        );
        self
    }

    /// Answers with these words in memory.
    pub fn answers(mut self, answer: &[u32]) -> Self {
        let mut bytes = Vec::new();
        words(&mut bytes, answer);
        let answer = self.put(&bytes);
        self.decide = format!("i32.const {answer}");
        self
    }

    /// Logs `text` at level error, then traps: what a panic looks like.
    pub fn panics(mut self, text: &str) -> Self {
        let (ptr, len) = self.text(text);
        self.decide = format!(
            "(call $log (i32.const 2) (i32.const {ptr}) (i32.const 4))
             (call $log (i32.const 4) (i32.const {ptr}) (i32.const {len})) unreachable"
        );
        self
    }

    fn text(&mut self, text: &str) -> (u32, u32) {
        (self.put(text.as_bytes()), u32::try_from(text.len()).unwrap())
    }

    fn put(&mut self, bytes: &[u8]) -> u32 {
        while !self.image.len().is_multiple_of(8) {
            self.image.push(0);
        }
        let at = DATA + u32::try_from(self.image.len()).unwrap();
        self.image.extend_from_slice(bytes);
        assert!(at < HEAP, "the static data of a made plugin runs into its heap");
        at
    }

    /// The core module in text.
    fn core(&self, version: &str) -> String {
        let mut data = String::new();
        for byte in &self.image {
            use std::fmt::Write as _;
            write!(data, "\\{byte:02x}").unwrap();
        }
        let (kind, function) = match self.kind {
            Kind::Naming => ("naming", "name"),
            Kind::Placement => ("placement", "assign"),
            Kind::Scaling => ("scaling", "choose"),
        };
        let log = if self.imports_log {
            format!(r#"(import "vmgroup:policy/log@{version}" "log" (func $log (param i32 i32 i32)))"#)
        } else {
            String::new()
        };
        // `result<_, refusal>`: err, then `other` with an empty text.
        let refusal = 512;
        let bad = match self.bad {
            Bad::Always => "(i32.const 1)".to_owned(),
            Bad::Before(seconds) => format!("(i64.lt_u (i64.load (local.get $request)) (i64.const {seconds}))"),
            Bad::Since(seconds) => format!("(i64.ge_u (i64.load (local.get $request)) (i64.const {seconds}))"),
            Bad::WhenTold => format!("(i32.eq (i32.load offset=24 (local.get $request)) (i32.const {NOW_BE_BAD}))"),
        };
        format!(
            r#"(module
              {log}
              (memory (export "memory") {pages})
              (global $bump (mut i32) (i32.const {HEAP}))
              (data (i32.const {refusal}) "\01\00\00\00\03\00\00\00\00\04\00\00\00\00\00\00")
              (data (i32.const {DATA}) "{data}")
              (func $start {at_start})
              (start $start)
              (func $again (param i32) (result i32) (i32.add (i32.const 1) (call $again (local.get 0))))
              (func (export "cabi_realloc") (param $old i32) (param i32) (param $align i32) (param $size i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and
                  (i32.add (global.get $bump) (i32.sub (local.get $align) (i32.const 1)))
                  (i32.sub (i32.const 0) (local.get $align))))
                (global.set $bump (i32.add (local.get $at) (local.get $size)))
                (block $enough (loop $more
                  (br_if $enough (i32.le_u (global.get $bump) (i32.mul (memory.size) (i32.const 65536))))
                  (br_if $enough (i32.eq (memory.grow (i32.const 1)) (i32.const -1)))
                  (br $more)))
                (local.get $at))
              (func (export "vmgroup:policy/lifecycle@{version}#describe") (result i32) {describe})
              (func (export "vmgroup:policy/lifecycle@{version}#validate-config") (param $kind i32) (param i32 i32) (result i32) {validate})
              (func (export "vmgroup:policy/{kind}@{version}#{function}") (param $request i32) (result i32) (local $n i32) {locals}
                (if (result i32) {bad}
                  (then {decide})
                  (else i32.const {refusal}))))"#,
            pages = self.memory_pages,
            at_start = self.at_start,
            describe = self.describe,
            validate = self.validate,
            locals = self.locals,
            decide = self.decide,
        )
    }

    /// The component.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_for("0.2.0", |contract| contract)
    }

    /// The component, made for a changed contract of another version.
    pub fn bytes_for(&self, version: &str, change: impl Fn(String) -> String) -> Vec<u8> {
        let mut module = wat::parse_str(self.core(version)).unwrap();
        let contract = change(contract()).replace("@0.2.0", &format!("@{version}"));
        let mut resolve = Resolve::default();
        let package = resolve.push_str("contract.wit", &contract).unwrap();
        let world = resolve.select_world(&[package], Some(&format!("{}-policy", self.kind))).unwrap();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
    }

    pub fn source(&self) -> Source {
        source("made.wasm", self.bytes())
    }
}

/// The contract in one text.
fn contract() -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit/0.2");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut whole = String::from("package vmgroup:policy@0.2.0;\n");
    for file in files {
        for line in std::fs::read_to_string(file).unwrap().lines() {
            // The version gates say 0.2.0 and would gate out nothing.
            if !line.starts_with("package ") && !line.starts_with("@since") {
                whole.push_str(line);
                whole.push('\n');
            }
        }
    }
    whole
}

pub fn source(name: &str, bytes: Vec<u8>) -> Source {
    Source { name: name.into(), bytes: Bytes::from(bytes), config: serde_json::json!({}) }
}

fn words(bytes: &mut Vec<u8>, words: &[u32]) {
    for word in words {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
}

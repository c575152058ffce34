//! The mutants: known bugs, each written down as what to put where, and the
//! property that has to catch it. `host/e2e/mutants.yaml` is the list; `make
//! mutants` plants them into a copy of the tree and tries each.
//!
//! All of them are planted at once, each as one branch of an expression that a
//! variable of the environment chooses, so that the copy is built once:
//! `(if crate::planted("name") { plant } else { find })`. So what is found has to
//! be an expression. Production code knows nothing of this.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::blind;
use crate::scenarios;
use crate::sim::SimWorld;
use crate::soak;
use crate::soak::script::Script;

/// Where the list is, below the root of the workspace.
pub const LIST: &str = "host/e2e/mutants.yaml";

/// The environment variable with the name of the mutant that is to live.
pub const PLANTED: &str = "VMGROUP_PLANTED";

/// What is put at the end of each crate that has a mutant.
const SWITCH: &str = "
/// Whether this mutant is to live. Only in the copy that `make mutants` makes.
pub(crate) fn planted(name: &str) -> bool {
    static NAME: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| std::env::var(\"VMGROUP_PLANTED\").unwrap_or_default());
    *NAME == name
}
";

/// A known bug.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mutant {
    /// Its name, unique in the list.
    pub name: String,
    /// What is wrong then, in a line.
    pub bug: String,
    /// The properties of which one has to catch it.
    pub property: Vec<String>,
    /// What tries it.
    pub tried: Tried,
    /// Where it is.
    pub edits: Vec<Edit>,
}

/// One place of a mutant.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Edit {
    /// Below the root of the workspace.
    pub file: PathBuf,
    /// An expression that occurs in it exactly once; white space does not count.
    pub find: String,
    /// The expression that is there instead.
    pub plant: String,
}

/// What tries a mutant.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Tried {
    /// Random runs, in the order of their seeds.
    Soak {
        /// Only those whose workload and faults have all of these words.
        #[serde(default)]
        with: Vec<String>,
        /// How many at most.
        runs: u64,
    },
    /// A scenario in the simulated world, by its name.
    Scenario(String),
}

/// Why the list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MutantError {
    /// A file cannot be read or written.
    #[error("{0}")]
    File(PathBuf, #[source] std::io::Error),
    /// The list is no list of mutants.
    #[error("{LIST} is not a list of mutants")]
    List(#[source] Box<serde_saphyr::Error>),
    /// What is to be found is not there, or more than once.
    #[error("mutant {name}: {file} has {count} times what is to be found there once:\n{find}")]
    Place {
        /// The mutant.
        name: String,
        /// The file.
        file: PathBuf,
        /// How often it occurs.
        count: usize,
        /// What was looked for.
        find: String,
    },
    /// What is to be found, or to be put there, cannot be an expression.
    #[error("mutant {0}: no expression, as its brackets do not match:\n{1}")]
    NoExpression(String, String),
    /// Two mutants want to be in one place.
    #[error("mutants {0} and {1} overlap")]
    Overlap(String, String),
    /// A file outside of a crate's `src`.
    #[error("{0} is not in the src of a crate")]
    NoCrate(PathBuf),
}

fn read(path: &Path) -> Result<String, MutantError> {
    std::fs::read_to_string(path).map_err(|error| MutantError::File(path.to_owned(), error))
}

/// The list of the workspace with this root.
pub fn list(root: &Path) -> Result<Vec<Mutant>, MutantError> {
    serde_saphyr::from_str(&read(&root.join(LIST))?).map_err(|error| MutantError::List(Box::new(error)))
}

/// Where a piece of code occurs in a text, whatever its white space, in bytes.
fn places(text: &str, find: &str) -> Vec<(usize, usize)> {
    let letters: Vec<(usize, char)> = text.char_indices().filter(|(_, c)| !c.is_whitespace()).collect();
    let wanted: Vec<char> = find.chars().filter(|c| !c.is_whitespace()).collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    letters
        .windows(wanted.len())
        .filter(|window| window.iter().map(|(_, c)| c).eq(&wanted))
        .filter_map(|window| {
            let ((from, _), (last, c)) = (window.first()?, window.last()?);
            Some((*from, last + c.len_utf8()))
        })
        .collect()
}

/// Whether each bracket has its counterpart; those in literals do not come alone either.
fn is_balanced(code: &str) -> bool {
    let mut open = Vec::new();
    code.chars().all(|c| match c {
        '(' => {
            open.push(')');
            true
        }
        '[' => {
            open.push(']');
            true
        }
        '{' => {
            open.push('}');
            true
        }
        ')' | ']' | '}' => open.pop() == Some(c),
        _ => true,
    }) && open.is_empty()
}

/// The files of the workspace with this root that mutants live in, by path, with
/// all of these in them.
pub fn planted(root: &Path, mutants: &[Mutant]) -> Result<BTreeMap<PathBuf, String>, MutantError> {
    type Plants<'a> = BTreeMap<(usize, usize), Vec<(&'a str, &'a str)>>;
    let mut files: BTreeMap<PathBuf, (String, Plants<'_>)> = BTreeMap::new();
    for mutant in mutants {
        for edit in &mutant.edits {
            if let Some(code) = [&edit.find, &edit.plant].into_iter().find(|code| !is_balanced(code)) {
                return Err(MutantError::NoExpression(mutant.name.clone(), code.clone()));
            }
            if !files.contains_key(&edit.file) {
                files.insert(edit.file.clone(), (read(&root.join(&edit.file))?, BTreeMap::new()));
            }
            let Some((text, plants)) = files.get_mut(&edit.file) else { continue };
            let [place] = places(text, &edit.find)[..] else {
                return Err(MutantError::Place {
                    name: mutant.name.clone(),
                    file: edit.file.clone(),
                    count: places(text, &edit.find).len(),
                    find: edit.find.clone(),
                });
            };
            if let Some((_, others)) =
                plants.iter().find(|(other, _)| **other != place && other.0 < place.1 && place.0 < other.1)
            {
                return Err(MutantError::Overlap(mutant.name.clone(), others[0].0.to_owned()));
            }
            plants.entry(place).or_default().push((&mutant.name, &edit.plant));
        }
    }
    let mut crates: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut done = BTreeMap::new();
    for (file, (mut text, plants)) in files {
        for ((from, to), branches) in plants.into_iter().rev() {
            let mut code = String::from("(");
            for (name, plant) in branches {
                let _ = write!(code, "if crate::planted({name:?}) {{ {plant} }} else ");
            }
            let _ = write!(code, "{{ {} }})", &text[from..to]);
            text.replace_range(from..to, &code);
        }
        let source = file.ancestors().find(|above| above.ends_with("src"));
        let library = source.ok_or_else(|| MutantError::NoCrate(file.clone()))?.join("lib.rs");
        if !crates.contains_key(&library) {
            crates.insert(library.clone(), read(&root.join(&library))?);
        }
        done.insert(file, text);
    }
    for (library, text) in crates {
        done.entry(library).or_insert(text).push_str(SWITCH);
    }
    Ok(done)
}

/// What came of trying a mutant.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
pub struct Trial {
    /// The property that did not hold, or the scenario that failed; nothing if
    /// nobody noticed.
    pub caught: Option<String>,
    /// What was seen.
    pub text: String,
    /// How many runs it took.
    pub runs: u64,
    /// The seed of the run that showed it.
    pub seed: Option<u64>,
}

impl Tried {
    /// Tries whatever is planted in this program.
    pub fn go(&self) -> Trial {
        match self {
            Self::Soak { with, runs } => soak_until(with, *runs),
            Self::Scenario(name) => {
                let (caught, text) = match scenario(name) {
                    Ok(()) => (None, String::new()),
                    Err(text) => (Some(name.clone()), text),
                };
                Trial { caught, text, runs: 1, seed: None }
            }
        }
    }
}

fn soak_until(with: &[String], most: u64) -> Trial {
    let mut runs = 0;
    for seed in 0_u64.. {
        if runs == most {
            break;
        }
        let title = Script::of(seed).title();
        if !with.iter().all(|word| title.contains(word.as_str())) {
            continue;
        }
        runs += 1;
        let (caught, text) = match std::panic::catch_unwind(|| soak::run(seed, false)) {
            Ok(report) => match report.violation {
                Some(violation) => (violation.property.to_owned(), violation.text),
                None => continue,
            },
            Err(panic) => ("panic".to_owned(), panic_text(&*panic)),
        };
        return Trial { caught: Some(caught), text, runs, seed: Some(seed) };
    }
    Trial { caught: None, text: String::new(), runs, seed: None }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

/// A scenario of the simulated world alone.
const BLIND: &str = "a_vanished_machines_name_is_free_at_once";

macro_rules! by_name {
    ($($name:ident),* $(,)?) => {
        /// Tells a scenario in the simulated world.
        fn scenario(name: &str) -> Result<(), String> {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match name {
                $(stringify!($name) => runtime.block_on(scenarios::$name::<SimWorld>()),)*
                BLIND => runtime.block_on(blind::a_vanished_machines_name_is_free_at_once()),
                _ => panic!("there is no scenario {name}"),
            }))
            .map_err(|panic| panic_text(&*panic))
        }

        /// The names of all scenarios.
        pub const SCENARIOS: &[&str] = &[$(stringify!($name),)* BLIND];
    };
}

crate::every_scenario!(by_name);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_found_however_it_is_laid_out() {
        let text = "let a = one\n    .two(3)\n    .four();";
        assert_eq!(places(text, "one.two(3).four()"), [(8, text.len() - 1)]);
        assert_eq!(places("aXa", "a"), [(0, 1), (2, 3)]);
        assert_eq!(places("a", "b"), []);
    }
}

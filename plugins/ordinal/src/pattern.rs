//! The pattern: read once, filled for a group, then a name for any number and the
//! number of any name. Knows nothing of who has which name.

use serde::Deserialize;
use vmgroup_policy_sdk::types::{Group, Refusal};
use vmgroup_policy_sdk::{ConfigSchema, name_length};

/// A number has at most so many digits.
const DIGITS: usize = 20;

/// What a name is made of: text and placeholders, `{ordinal}` exactly once.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ConfigSchema)]
#[serde(try_from = "String")]
pub struct Pattern {
    before: Vec<Part>,
    after: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Namespace,
    Group,
    Template,
    Label(String),
}

impl Default for Pattern {
    /// `{group}-{ordinal}`.
    fn default() -> Self {
        Self { before: vec![Part::Group, Part::Text("-".to_owned())], after: Vec::new() }
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(pattern: String) -> Result<Self, String> {
        if pattern.trim() != pattern {
            return Err(format!("`{pattern}` has a blank at an end, which no name may have"));
        }
        let mut sides = vec![Vec::new()];
        let mut rest = pattern.as_str();
        while !rest.is_empty() {
            let (text, placeholder) = rest.split_once('{').map_or((rest, None), |(text, after)| (text, Some(after)));
            if text.contains(['}', '\n', '\r', '\t', '\0']) {
                return Err(format!("`{text}` cannot be part of a name"));
            }
            let side = sides.last_mut().ok_or("empty")?;
            if !text.is_empty() {
                side.push(Part::Text(text.to_owned()));
            }
            let Some(after) = placeholder else { break };
            let Some((name, after)) = after.split_once('}') else {
                return Err(format!("no }} closes `{{{after}`"));
            };
            rest = after;
            match name {
                "ordinal" => sides.push(Vec::new()),
                "namespace" => side.push(Part::Namespace),
                "group" => side.push(Part::Group),
                "template" => side.push(Part::Template),
                _ => match name.strip_prefix("label:").filter(|key| !key.is_empty()) {
                    Some(key) => side.push(Part::Label(key.to_owned())),
                    None => {
                        return Err(format!(
                            "unknown placeholder `{{{name}}}`, expected one of {{namespace}}, \
                             {{group}}, {{template}}, {{ordinal}}, {{label:KEY}}"
                        ));
                    }
                },
            }
        }
        match <[Vec<Part>; 2]>::try_from(sides) {
            Ok([before, after]) => Ok(Self { before, after }),
            Err(_) => Err(format!("`{pattern}` must have {{ordinal}} exactly once")),
        }
    }
}

impl Pattern {
    /// The scheme of one group's names.
    pub fn fill(&self, group: &Group, width: usize, limit: usize) -> Result<Scheme, Refusal> {
        let fixed = Fixed::new(&self.before, &self.after, group)?;
        let sides = (0..=DIGITS).map(|digits| fixed.sides(&group.name, digits.max(width), limit)).collect();
        Ok(Scheme { sides, width, limit })
    }
}

/// A pattern with all filled in but the group's name and the number.
struct Fixed {
    before: Vec<Option<String>>,
    after: Vec<Option<String>>,
}

impl Fixed {
    fn new(before: &[Part], after: &[Part], group: &Group) -> Result<Self, Refusal> {
        let fill = |parts: &[Part]| -> Result<Vec<Option<String>>, Refusal> {
            let filled = parts.iter().map(|part| match part {
                Part::Text(text) => Ok(Some(text.clone())),
                Part::Namespace => Ok(Some(group.namespace.clone())),
                // It may be an inventory path; no name has one in it.
                Part::Template => {
                    let name = group.template.rsplit('/').next();
                    Ok(Some(name.unwrap_or_default().to_owned()))
                }
                Part::Group => Ok(None),
                Part::Label(key) => match group.label(key) {
                    Some(value) => Ok(Some(value.to_owned())),
                    None => Err(Refusal::Config(format!("the group has no label `{key}`, which the pattern asks for"))),
                },
            });
            filled.collect()
        };
        Ok(Self { before: fill(before)?, after: fill(after)? })
    }

    fn parts(&self) -> impl Iterator<Item = &Option<String>> {
        self.before.iter().chain(&self.after)
    }

    /// What stands around a number of so many digits. The group is shortened to
    /// what is left for it.
    fn sides(&self, group: &str, digits: usize, limit: usize) -> Sides {
        let times = self.parts().filter(|part| part.is_none()).count();
        let others: usize = self.parts().flatten().map(|text| name_length(text)).sum();
        let share = limit.saturating_sub(others + digits).checked_div(times);
        let kept = share.map_or(group, |share| shorten(group, share));
        let join =
            |parts: &[Option<String>]| -> String { parts.iter().map(|part| part.as_deref().unwrap_or(kept)).collect() };
        Sides {
            before: join(&self.before),
            after: join(&self.after),
            shortened: (kept != group).then(|| kept.to_owned()),
            has_group: times > 0,
        }
    }
}

/// At least one character stays, for whoever reads it.
fn shorten(group: &str, room: usize) -> &str {
    let end = group.char_indices().nth(room.max(1)).map_or(group.len(), |(end, _)| end);
    if end == group.len() { group } else { group[..end].trim_end_matches(['-', '.']) }
}

#[derive(Clone, Debug)]
struct Sides {
    before: String,
    after: String,
    shortened: Option<String>,
    has_group: bool,
}

/// The names of one group.
#[derive(Clone, Debug)]
pub struct Scheme {
    /// By the number of digits of the number.
    sides: Vec<Sides>,
    width: usize,
    limit: usize,
}

/// A name, and what its group was shortened to if it was.
pub struct Name {
    /// The name.
    pub text: String,
    /// What is left of the group's name.
    pub shortened: Option<String>,
}

impl Scheme {
    /// The name for a number.
    pub fn name(&self, ordinal: u64) -> Result<Name, Refusal> {
        let number = ordinal.to_string();
        let Some(sides) = self.sides.get(number.len()) else {
            return Err(Refusal::Other(format!("{number} has too many digits")));
        };
        let text = format!("{}{ordinal:0>2$}{}", sides.before, sides.after, self.width);
        let length = name_length(&text);
        if length > self.limit {
            let shorter = if sides.has_group {
                "even with its group shortened"
            } else {
                "and the pattern has no `{group}` to shorten"
            };
            return Err(Refusal::Unsatisfiable(format!(
                "`{text}` has {length} characters, {} are allowed {shorter}: shorten the pattern \
                 or raise `maxLength`",
                self.limit
            )));
        }
        Ok(Name { text, shortened: sides.shortened.clone() })
    }

    /// The number of a name, if it is one of this scheme's.
    pub fn ordinal_of(&self, name: &str) -> Option<u64> {
        self.sides.iter().enumerate().skip(1).find_map(|(digits, sides)| {
            let inner = name.strip_prefix(&*sides.before)?.strip_suffix(&*sides.after)?;
            if inner.len() != digits.max(self.width) || !inner.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let ordinal: u64 = inner.parse().ok()?;
            (ordinal.to_string().len() == digits).then_some(ordinal)
        })
    }
}

//! Bad plugins by chance: good ones changed here and there, and answers made up. The
//! same dice give the same plugins.

use rand_chacha::ChaCha8Rng;
use rand_core::RngCore as _;
use vmgroup_policy::Kind;
use wasmparser::{Parser, Payload};

use crate::made::{Made, SELF_TEST};

/// One of these.
pub fn pick<'a, T>(dice: &mut ChaCha8Rng, among: &'a [T]) -> &'a T {
    &among[below(dice, among.len())]
}

/// A number below this one.
pub fn below(dice: &mut ChaCha8Rng, end: usize) -> usize {
    usize::try_from(dice.next_u32()).unwrap() % end
}

/// A good component with some bytes flipped.
pub fn flipped(good: &[u8], dice: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..=below(dice, 4) {
        let at = below(dice, bytes.len());
        bytes[at] ^= 1 << below(dice, 8);
    }
    bytes
}

/// A good component without one of its outermost sections, or with only a part of it.
pub fn cut(good: &[u8], dice: &mut ChaCha8Rng) -> Vec<u8> {
    let mut sections = Vec::new();
    let mut at = 8;
    while at < good.len() {
        let begin = at;
        at += 1;
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = usize::from(good[at]);
            at += 1;
            length |= (byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        at += length;
        sections.push(begin..at);
    }
    let section = pick(dice, &sections).clone();
    let kept = if dice.next_u32().is_multiple_of(2) { 0 } else { below(dice, section.len()) };
    [&good[..section.start + kept], &good[section.end..]].concat()
}

/// A good component with up to three instructions changed into others of the same
/// types, so that it is still valid: another operator, number or place in memory.
pub fn twisted(good: &[u8], dice: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = good.to_vec();
    let sites = sites(good);
    for _ in 0..=below(dice, 3) {
        let site = pick(dice, &sites);
        bytes[site.at] = match &site.others {
            Others::Operators(from, to) => from + u8::try_from(below(dice, usize::from(to - from) + 1)).unwrap(),
            // One byte of LEB128.
            Others::Numbers => u8::try_from(below(dice, 0x80)).unwrap(),
        };
    }
    bytes
}

struct Site {
    at: usize,
    others: Others,
}

enum Others {
    /// Any of these opcodes.
    Operators(u8, u8),
    Numbers,
}

/// Comparisons and arithmetic of i32 and i64.
const FAMILIES: [(u8, u8); 4] = [(0x46, 0x4f), (0x51, 0x5a), (0x6a, 0x78), (0x7c, 0x8a)];

fn sites(component: &[u8]) -> Vec<Site> {
    let mut sites = Vec::new();
    for payload in Parser::new(0).parse_all(component) {
        let Payload::CodeSectionEntry(body) = payload.unwrap() else { continue };
        let mut operators = body.get_operators_reader().unwrap();
        while !operators.eof() {
            let at = operators.original_position();
            operators.read().unwrap();
            let opcode = component[at];
            let number = match opcode {
                0x41 | 0x42 => Some(at + 1),
                // Loads and stores: alignment, then the offset.
                0x28..=0x3e => Some(at + 2),
                _ => None,
            };
            if let Some((from, to)) = FAMILIES.into_iter().find(|(from, to)| (*from..=*to).contains(&opcode)) {
                sites.push(Site { at, others: Others::Operators(from, to) });
            } else if let Some(at) = number.filter(|at| component[*at] < 0x80) {
                sites.push(Site { at, others: Others::Numbers });
            }
        }
    }
    sites
}

/// A plugin that passes its checks and then gives an answer to no question: names that cannot be, places and
/// members that are not there, memory that is not its own, crashes, loops.
pub fn made_up(kind: Kind, dice: &mut ChaCha8Rng) -> Made {
    let made = Made::new(kind).bad_since(SELF_TEST + 1);
    match below(dice, 6) {
        0 => made.answers(&words(dice)),
        1 => made.decides(&format!("i32.const {}", dice.next_u32().cast_signed())),
        2 => made.panics("made to crash"),
        3 => made.decides("(loop $l (br $l)) unreachable"),
        _ => match kind {
            Kind::Naming => {
                let names: Vec<&str> = (0..below(dice, 4)).map(|_| *pick(dice, &NO_NAMES)).collect();
                made.names(&names, dice.next_u32().is_multiple_of(2))
            }
            Kind::Placement => {
                let places: Vec<[Option<u32>; 3]> =
                    (0..=below(dice, 3)).map(|_| [(); 3].map(|()| Some(*pick(dice, &NO_INDICES)))).collect();
                made.places(&places)
            }
            Kind::Scaling => {
                let victims: Vec<u32> = (0..below(dice, 4)).map(|_| *pick(dice, &NO_INDICES)).collect();
                made.victims(&victims)
            }
        },
    }
}

const NO_NAMES: [&str; 7] = [
    "",
    " ",
    " web",
    "a\nb",
    "\u{202e}web",
    "web\u{0}",
    "a-name-that-goes-on-for-longer-than-any-name-may-in-vcenter-which-is-eighty-characters",
];
const NO_INDICES: [u32; 4] = [1_000, 0x7fff_ffff, 0xffff_fffe, u32::MAX];

/// Four words as they might stand where an answer is expected; no empty answer.
fn words(dice: &mut ChaCha8Rng) -> [u32; 4] {
    let discriminant = *pick(dice, &[0, 0, 0, 2, 255]);
    let pointer = *pick(dice, &[0, 8, 1_024, 0x00ff_fff8, 0x7fff_fff8, u32::MAX]);
    let count = *pick(dice, &[1_000, 100_000, 0x0fff_ffff, u32::MAX]);
    [discriminant, pointer, count, dice.next_u32()]
}

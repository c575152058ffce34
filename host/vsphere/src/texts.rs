//! Texts that many machines have in common (references, keys, marks), kept once. There
//! are tens of thousands of machines in the inventory, and few hosts and groups.

use std::collections::HashSet;
use std::sync::Arc;

/// What nobody has any more is thrown out when there are this many more, at first.
const SLACK: usize = 256;

/// What is one.
pub(crate) trait Text {
    fn text(&mut self) -> &mut Arc<str>;
}

impl Text for Arc<str> {
    fn text(&mut self) -> &mut Arc<str> {
        self
    }
}

#[derive(Default)]
pub(crate) struct Texts {
    known: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Texts {
    /// Takes the known one in the place of an equal one.
    pub(crate) fn share(&mut self, text: &mut impl Text) {
        let text = text.text();
        if let Some(known) = self.known.get(text) {
            *text = known.clone();
            return;
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|text| Arc::strong_count(text) > 1);
            self.sweep_at = 2 * self.known.len() + SLACK;
        }
        self.known.insert(text.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_become_one_and_what_nobody_has_does_not_stay() {
        let mut texts = Texts::default();
        let (mut one, mut two): (Arc<str>, Arc<str>) = ("host-1".into(), "host-1".into());
        texts.share(&mut one);
        texts.share(&mut two);
        assert!(Arc::ptr_eq(&one, &two));
        for number in 0..10 * SLACK {
            texts.share(&mut Arc::<str>::from(format!("gone-{number}")));
        }
        assert!(texts.known.len() <= 2 * SLACK + 2, "{}", texts.known.len());
        let mut three: Arc<str> = "host-1".into();
        texts.share(&mut three);
        assert!(Arc::ptr_eq(&one, &three), "who is there stays");
    }
}

//! Words that come out of a plugin, made fit to be shown: they end up in
//! events, conditions and terminals, whatever the plugin has put into them.

/// The longest reason kept, in characters. It fits an event (1,024 bytes) with
/// the sentence around it.
pub const REASON_CHARS: usize = 256;

/// The longest message of a refusal or a panic kept, in characters.
pub const MESSAGE_CHARS: usize = 512;

/// `text` on one line: control characters and runs of blanks become one blank,
/// what is longer than `limit` characters is cut and ends in `…`.
pub(crate) fn tidy(text: &str, limit: usize) -> String {
    let mut tidied = String::new();
    let mut length = 0;
    let mut blank = false;
    for c in text.chars() {
        if c.is_whitespace() || c.is_control() || is_invisible(c) {
            blank = !tidied.is_empty();
            continue;
        }
        let wanted = 1 + usize::from(blank);
        if length + wanted > limit.saturating_sub(1) {
            tidied.push('…');
            return tidied;
        }
        if blank {
            tidied.push(' ');
            blank = false;
        }
        tidied.push(c);
        length += wanted;
    }
    tidied
}

/// A name in quotes, short enough for a message.
pub(crate) fn quoted(name: &str) -> String {
    const SHOWN: usize = 80;
    let shown: String = name.chars().take(SHOWN).collect();
    if shown.len() < name.len() { format!("{shown:?}…") } else { format!("{shown:?}") }
}

/// Marks that change the direction or the order of the text around them, or
/// are not to be seen at all: no control characters by Unicode's category, yet
/// two names that differ in nothing else look the same.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{00ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_becomes_one_short_line() {
        assert_eq!(tidy("  idle\n\tfor \u{1b}[31mlongest ", 100), "idle for [31mlongest");
        assert_eq!(tidy("abcdef", 4), "abc…");
        assert_eq!(tidy("abc", 4), "abc");
        assert_eq!(tidy("\u{202e}", 4), "");
    }

    #[test]
    fn a_name_of_a_megabyte_is_quoted_in_brief() {
        assert!(quoted(&"x".repeat(1 << 20)).len() < 100);
        assert_eq!(quoted("a\nb"), "\"a\\nb\"");
    }
}

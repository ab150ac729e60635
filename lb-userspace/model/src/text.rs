//! Text from outside (output of checks, responses of receivers, names that a process gives itself),
//! made safe for logs and terminals; and long numbers.

use std::borrow::Cow;

/// A number with commas between thousands: `1,234,567`.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Whether a character can move the cursor, change colours or titles, or reorder what is displayed:
/// control characters, including the 8-bit ones, line separators, and the format characters of
/// bidirectional text.
#[must_use]
pub fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns a text with each control character ([`is_control`]) replaced by its escape in JSON, as in
/// `\u001b`, so that JSON stays JSON.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    printable_with(text, |_| false)
}

/// As [`printable`], except that some characters are kept.
#[must_use]
pub fn printable_with(text: &str, is_kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(|c| is_control(c) && !is_kept(c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if !is_control(c) || is_kept(c) => out.push(c),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    Cow::Owned(out)
}

/// Returns the beginning of a text, printable; an ellipsis marks what is left out after `most`
/// characters.
#[must_use]
pub fn excerpt(text: &str, most: usize) -> String {
    let mut short: String = printable(text).chars().take(most + 1).collect();
    if let Some((cut, _)) = short.char_indices().nth(most) {
        short.truncate(cut);
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_controls_a_terminal_and_nothing_else() {
        let hostile = "\x1b[31mred\x07 \u{9b}0m \u{202e}txt \r\n\0\x7f";
        let shown = "\\u001b[31mred\\u0007 \\u009b0m \\u202etxt \\r\\n\\u0000\\u007f";
        assert_eq!(printable(hostile), shown);
        let plain = "connection refused by [2001:db8::1]:443 – ä → 中";
        assert!(matches!(printable(plain), Cow::Borrowed(text) if text == plain));
    }

    #[test]
    fn an_excerpt_is_bounded() {
        assert_eq!(excerpt("abc", 3), "abc");
        assert_eq!(excerpt("abcd", 3), "abc…");
        assert_eq!(excerpt(&"\x1b".repeat(10_000), 8), "\\u001b\\u…");
    }
}

//! Masks secrets in configuration texts before anyone else sees them.
//!
//! One rule finds them for every output:
//!
//! - the value of each key in [`KEYS`], in whatever table and however it is written;
//! - every run of at least [`SEED_DIGITS`] hex digits, wherever it stands, in comments for instance;
//! - where the text is not valid TOML, and in drawings of its lines: everything that may be the value
//!   of such a key, and shorter runs of hex digits after the key.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

/// Keys whose values are secret.
const KEYS: [&str; 2] = ["hash_seed", "webhook_secret"];
/// What stands for a secret.
const MASK: &str = "********";
/// What stands for a secret that differs from the one it is compared with.
const OTHER_MASK: &str = "******** (another secret)";
/// Hex digits in a row that may be most of a seed, which has 32.
const SEED_DIGITS: usize = 24;
/// Hex digits in a row that may be part of a seed, on a line that has a secret key.
const PART_DIGITS: usize = 8;

/// Returns a text for display, with each secret replaced by a mask.
#[must_use]
pub fn mask(text: &str) -> String {
    replace(text, MASK)
}

/// Returns two texts for a diff, masked. The diff shows whether the seed differs.
#[must_use]
pub fn mask_pair(old: &str, new: &str) -> (String, String) {
    let seeds = seed(old).zip(seed(new));
    let differs = seeds.is_some_and(|((_, a), (_, b))| !a.eq_ignore_ascii_case(&b));
    (
        mask(old),
        replace(new, if differs { OTHER_MASK } else { MASK }),
    )
}

/// Returns a text with each secret replaced by as many stars, for drawings of its lines: everything
/// else keeps its place.
#[must_use]
pub fn star(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut end = 0;
    for span in spans(text, true) {
        out.push_str(&text[end..span.start]);
        for c in text[span.clone()].chars() {
            match c {
                '"' | '\'' | ' ' | '\t' | '\r' | '\n' => out.push(c),
                _ => out.extend(std::iter::repeat_n('*', c.len_utf8())),
            }
        }
        end = span.end;
    }
    out + &text[end..]
}

/// Returns a text that was shown masked with the seed of the running configuration put back; a text
/// with a seed of its own as it is.
#[must_use]
pub fn restore(text: &str, running: &str) -> String {
    match (seed(text), seed(running)) {
        (Some((span, shown)), Some((seed, _)))
            if !shown.is_empty() && shown.chars().all(|c| c == '*') =>
        {
            let (before, after) = (&text[..span.start], &text[span.end..]);
            format!("{before}{}{after}", &running[seed])
        }
        _ => text.to_owned(),
    }
}

/// Returns where `node.hash_seed` is in a valid text, and its value.
fn seed(text: &str) -> Option<(Range<usize>, String)> {
    let document = DeTable::parse(text).ok()?;
    let node = document.get_ref().get("node")?;
    let seed = node.get_ref().as_table()?.get("hash_seed")?;
    Some((seed.span(), seed.get_ref().as_str()?.to_owned()))
}

fn replace(text: &str, mask: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut end = 0;
    for span in spans(text, false) {
        out.push_str(&text[end..span.start]);
        match text[span.clone()].starts_with(['"', '\'']) {
            true => out.extend(["\"", mask, "\""]),
            false => out.push_str(MASK),
        }
        end = span.end;
    }
    out + &text[end..]
}

/// Returns where the secrets of a text are, in order and apart from each other.
fn spans(text: &str, is_drawn: bool) -> Vec<Range<usize>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut found = Vec::new();
    for (key, value) in document.get_ref() {
        values(is_secret(key), value, &mut found);
    }
    runs(text, 0..text.len(), SEED_DIGITS, &mut found);
    if is_drawn || !errors.is_empty() {
        unparsed(text, &mut found);
    }
    found.sort_by_key(|span| span.start);
    let mut apart: Vec<Range<usize>> = Vec::with_capacity(found.len());
    for span in found {
        match apart.last_mut() {
            Some(last) if span.start < last.end => last.end = last.end.max(span.end),
            _ => apart.push(span),
        }
    }
    apart
}

fn is_secret(key: &Spanned<DeString<'_>>) -> bool {
    KEYS.contains(&key.get_ref().as_ref())
}

/// Finds strings and numbers under secret keys.
fn values(secret: bool, value: &Spanned<DeValue<'_>>, found: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::Table(table) => {
            for (key, value) in table {
                values(secret || is_secret(key), value, found);
            }
        }
        DeValue::Array(array) => array.iter().for_each(|value| values(secret, value, found)),
        _ if secret => found.push(value.span()),
        _ => {}
    }
}

/// Finds runs of at least `least` hex digits.
fn runs(text: &str, within: Range<usize>, least: usize, found: &mut Vec<Range<usize>>) {
    let mut at = within.start;
    for piece in text[within].split_inclusive(|c: char| !c.is_ascii_hexdigit()) {
        let digits = piece.bytes().take_while(u8::is_ascii_hexdigit).count();
        if digits >= least {
            found.push(at..at + digits);
        }
        at += piece.len();
    }
}

/// Finds what may be the values of secret keys, without regard to the syntax around them.
fn unparsed(text: &str, found: &mut Vec<Range<usize>>) {
    let ends = |key: &'static str| text.match_indices(key).map(|(at, key)| at + key.len());
    let mut ends: Vec<usize> = KEYS.into_iter().flat_map(ends).collect();
    ends.sort_unstable();
    // Each line and each value once: a hostile text may have a key in every place.
    let (mut line_end, mut value_end) = (0, 0);
    for at in ends {
        if at >= line_end {
            line_end = text[at..].find('\n').map_or(text.len(), |line| at + line);
            runs(text, at..line_end, PART_DIGITS, found);
        }
        if at >= value_end
            && let Some(value) = value_after(text, at)
        {
            value_end = value.end;
            found.push(value);
        }
    }
}

/// Returns what may be the value of a key that ends at `at`.
fn value_after(text: &str, at: usize) -> Option<Range<usize>> {
    let equals = text[at..].trim_start_matches(['"', '\'', ' ', '\t']);
    let value = equals.strip_prefix('=')?.trim_start_matches([' ', '\t']);
    let start = text.len() - value.len();
    let bare = value.find(['\n', ',', '}', '#']).unwrap_or(value.len());
    let length = value[..bare.max(delimited(value))].trim_end().len();
    (length > 0).then_some(start..start + length)
}

/// Returns the length of the string or array that a text begins with. Without its end it goes on to the
/// end of the line or, if it may have several lines, of the text.
fn delimited(value: &str) -> usize {
    let end = |open: usize, close: &str| {
        let end = value[open..].find(close);
        end.map_or(value.len(), |end| open + end + close.len())
    };
    match value.as_bytes() {
        [b'"', b'"', b'"', ..] => end(3, "\"\"\""),
        [b'\'', b'\'', b'\'', ..] => end(3, "'''"),
        [b'[', ..] => end(1, "]"),
        [quote @ (b'"' | b'\''), ..] => {
            let end = value[1..].find([char::from(*quote), '\n']);
            end.map_or(value.len(), |end| 1 + end + 1)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEED: &str = "000102030405060708090a0b0c0d0e0f";

    /// Texts that hold the seed, some in two halves.
    fn texts_with_the_seed() -> Vec<String> {
        let (high, low) = SEED.split_at(16);
        vec![
            format!("[node]\nhash_seed = \"{SEED}\" # mine\nport = 443\n"),
            format!("[node]\nhash_seed='{SEED}'\n"),
            format!("node.hash_seed = \"{SEED}\"\n"),
            format!("node = {{ hash_seed = \"{SEED}\" }}\n"),
            format!("node = {{ hash_seed = \"{high}\", x = 1, webhook_secret = \"{low}\" }}\n"),
            format!("\"node\".\"hash\\u005fseed\" = \"{SEED}\"\n"),
            format!("\"node\".'hash_seed' = \"{high}\"\n# hash_seed = \"{SEED}\"\n"),
            format!("[node]\nhash_seed = \"\"\"\n{SEED}\"\"\"\n"),
            format!("[node]\nhash_seed = \"\"\"{high}\\\n  {low}\"\"\"\n"),
            format!("[node]\nhash_seed = '''\n{high}\n{low}'''\n"),
            format!("[node]\nhash_seed = [\"{high}\", \"{low}\"]\n"),
            format!("[node]\nhash_seed = [\n  \"{high}\",\n  \"{low}\",\n]\n"),
            format!("[[node]]\nhash_seed = \"{high}\"\n[[node]]\nhash_seed = \"{low}\"\n"),
            format!("[node.hash_seed]\na = \"{high}\"\nb = \"{low}\"\n"),
            format!("[vip.alerts]\nwebhook_secret = \"{high}\"\nhash_seed = \"{low}\"\n"),
            format!("# old: {SEED}\n[node]\n"),
            format!("[node]\nhash_sed = \"{SEED}\"\n"),
            // Not TOML.
            format!("not toml = = {SEED}"),
            format!("[node\nhash_seed = \"{high}\"\nhash_seed = \"{low}\"\n"),
            format!("[node]\nhash_seed = \"{SEED}00\" x\n"),
            format!("[node]\nhash_seed = \"{high}, {low}\n"),
            format!("[node]\nhash_seed = {high} {low}\n"),
            format!("[node]\nhash_seed = \"\"\"{high}\\\n  {low}\"\"\"\nx = = 1\n"),
            format!("[node]\nhash_seed = \"\"\"{high}\\\n  {low}\n"),
            format!("[node]\nhash_seed = [\"{high}\",\n\"{low}\"]\nx = = 1\n"),
            format!("[node]\nhash_seed: {high}, {low}\n"),
            format!("# hash_seed = \"{high}\"\n# webhook_secret = \"{low}\"\nx = = 1\n"),
        ]
    }

    fn shows_the_seed(text: &str) -> bool {
        let (high, low) = SEED.split_at(16);
        text.contains(high) || text.contains(low)
    }

    #[test]
    fn masks_the_seed_however_it_is_written() {
        for text in texts_with_the_seed() {
            let masked = mask(&text);
            assert!(!shows_the_seed(&masked), "{text}\n{masked}");
            assert!(masked.contains(MASK), "{masked}");
            let starred = star(&text);
            assert!(!shows_the_seed(&starred), "{text}\n{starred}");
            assert_eq!(starred.len(), text.len());
        }
    }

    #[test]
    fn masks_nothing_else_in_valid_texts() {
        for text in [
            "[node]\nhash_seed_file = \"seed\"\ninterfaces = [\"eth0\"]\n# 2001:db8::feed:cafe\n",
            "[node]\nhash_seed_file = \"/etc/seed-20240101\"\n",
            "[health]\ncommand = [\"check\", \"hash_seed = short\"]\n",
        ] {
            assert_eq!(mask(text), text);
        }
        let text = format!("[node]\nhash_seed = \"{SEED}\" # mine\nsample = 1024\n");
        let masked = "[node]\nhash_seed = \"********\" # mine\nsample = 1024\n";
        assert_eq!(mask(&text), masked);
    }

    #[test]
    fn stars_keep_everything_in_place() {
        let text =
            "[node]\nhash_seed_file = \"seed\"\nhash_seed = \"00ff\" # mine\nnode.hash_seed='é1'";
        let starred =
            "[node]\nhash_seed_file = \"seed\"\nhash_seed = \"****\" # mine\nnode.hash_seed='***'";
        assert_eq!(star(text), starred);
        assert_eq!(text.len(), starred.len());
        let text = format!("hash_sed = \"{SEED}\"\nport = 443");
        let starred = format!("hash_sed = \"{}\"\nport = 443", "*".repeat(32));
        assert_eq!(star(&text), starred);
    }

    #[test]
    fn a_diff_shows_whether_the_seed_differs() {
        let text = |seed: &str| format!("[node]\nhash_seed = \"{seed}\"\n");
        let (a, b) = mask_pair(&text(SEED), &text(&SEED.to_uppercase()));
        assert_eq!(a, b);
        let (a, b) = mask_pair(&text(SEED), &text(&SEED.replace('0', "f")));
        assert_ne!(a, b);
        assert!(!b.contains("f1f2"), "{b}");
    }

    #[test]
    fn a_masked_text_gets_its_seed_back() {
        let running = format!("[node]\nhash_seed = \"{SEED}\"\nsample = 1\n");
        let shown = mask(&running).replace("sample = 1", "sample = 2");
        assert!(!shown.contains("0001020304"), "{shown}");
        let back = running.replace("sample = 1", "sample = 2");
        assert_eq!(restore(&shown, &running), back);
        let other = running.replace("0001", "ffff");
        assert_eq!(restore(&other, &running), other, "keeps a seed of its own");
        assert_eq!(restore("no toml [", &running), "no toml [");
    }

    #[test]
    fn hostile_texts_take_linear_time() {
        for unit in [
            "hash_seed=[",
            "hash_seed=\"\"\"",
            "hash_seed=\"",
            "hash_seed ",
        ] {
            let text = unit.repeat(100_000);
            let begun = std::time::Instant::now();
            assert_eq!(star(&text).len(), text.len());
            assert!(begun.elapsed().as_secs() < 10, "{unit}");
        }
    }

    proptest! {
        #[test]
        fn texts_broken_anywhere_keep_their_places(
            text in prop::sample::select(texts_with_the_seed()),
            at in any::<prop::sample::Index>(),
            inserted in "[\\[\\]{}\"'=#,\\\\\n é]{0,3}",
        ) {
            let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            let at = ends[at.index(ends.len())];
            let broken = format!("{}{inserted}{}", &text[..at], &text[at..]);
            prop_assert_eq!(star(&broken).len(), broken.len());
            prop_assert!(!mask(&broken).contains(SEED));
        }
    }
}

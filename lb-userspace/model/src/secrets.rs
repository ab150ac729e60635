//! Masks secrets in configuration texts before anyone else sees them.
//!
//! One rule finds them for every output:
//!
//! - the value of each key in [`KEYS`], in whatever table and however it is written;
//! - user, path and query of each URL under a key in [`URL_KEYS`], also in comments: receivers have
//!   tokens there;
//! - every run of at least [`SEED_DIGITS`] hex digits, wherever it stands, in comments for instance;
//! - where the text is not valid TOML, and in drawings of its lines: everything that may be the value
//!   of such a key, and shorter runs of hex digits after the key.

use std::{collections::BTreeMap, ops::Range};

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

/// Keys whose values are secret.
const KEYS: [&str; 3] = ["hash_seed", "webhook_secret", "password"];
/// Keys whose values are URLs.
const URL_KEYS: [&str; 2] = ["webhook", "alertmanager"];
/// What stands for a secret.
pub(crate) const MASK: &str = "********";
/// What stands for a secret that differs from the one it is compared with.
const OTHER_MASK: &str = "******** (another secret)";
/// Hex digits in a row that may be most of a seed, which has 32.
const SEED_DIGITS: usize = 24;
/// Hex digits in a row that may be part of a seed, on a line that has a secret key.
const PART_DIGITS: usize = 8;

/// Returns a text for display, with each secret replaced by a mask.
#[must_use]
pub fn mask(text: &str) -> String {
    replace(text, |_, _| MASK)
}

/// Returns a URL for display, without user, path and query.
#[must_use]
pub fn mask_url(url: &str) -> String {
    let mut parts = Vec::new();
    url_parts(url, 0..url.len(), &mut parts);
    fill(url, &parts, |_, _| MASK)
}

/// Returns two texts for a diff, masked. The diff shows whether the seed or a URL differs.
#[must_use]
pub fn mask_pair(old: &str, new: &str) -> (String, String) {
    let seeds = seed(old).zip(seed(new));
    let differs = seeds.is_some_and(|((_, a), (_, b))| !a.eq_ignore_ascii_case(&b));
    let other = |kind, secret: &str| match kind {
        Secret::Value if differs => OTHER_MASK,
        Secret::Url if !old.contains(secret) => OTHER_MASK,
        _ => MASK,
    };
    (mask(old), replace(new, other))
}

/// Returns a text with each secret replaced by as many stars, for drawings of its lines: everything
/// else keeps its place.
#[must_use]
pub fn star(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut end = 0;
    for (span, _) in spans(text, true) {
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

/// Returns a text that was shown masked with the seed and the URLs of the running configuration put
/// back; those that are not masked as they are.
#[must_use]
pub fn restore(text: &str, running: &str) -> String {
    let mut masked: Vec<(Range<usize>, &str)> = Vec::new();
    if let (Some((span, shown)), Some((seed, _))) = (seed(text), seed(running))
        && !shown.is_empty()
        && shown.chars().all(|c| c == '*')
    {
        masked.push((span, &running[seed]));
    }
    // URLs that look the same when masked are known by their order, if all are there.
    let mut groups: BTreeMap<&str, Vec<Range<usize>>> = BTreeMap::new();
    for span in urls(text) {
        groups.entry(&text[span.clone()]).or_default().push(span);
    }
    let known: Vec<&str> = urls(running)
        .into_iter()
        .map(|span| &running[span])
        .collect();
    for (shown, spans) in groups.into_iter().filter(|(shown, _)| shown.contains(MASK)) {
        let like_it: Vec<&str> = known
            .iter()
            .copied()
            .filter(|url| mask_url(url) == shown)
            .collect();
        if like_it.len() == spans.len() {
            masked.extend(spans.into_iter().zip(like_it));
        }
    }
    masked.sort_by_key(|(span, _)| span.start);
    let mut out = String::with_capacity(text.len());
    let mut end = 0;
    for (span, value) in masked {
        out.extend([&text[end..span.start], value]);
        end = span.end;
    }
    out + &text[end..]
}

/// Returns where the URLs of a valid text are.
fn urls(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    if let Ok(document) = DeTable::parse(text) {
        for (key, value) in document.get_ref() {
            values(&URL_KEYS, false, (key, value), &mut found);
        }
    }
    found
}

/// Returns where `node.hash_seed` is in a valid text, and its value.
fn seed(text: &str) -> Option<(Range<usize>, String)> {
    let document = DeTable::parse(text).ok()?;
    let node = document.get_ref().get("node")?;
    let seed = node.get_ref().as_table()?.get("hash_seed")?;
    Some((seed.span(), seed.get_ref().as_str()?.to_owned()))
}

/// What a span is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Secret {
    Value,
    Url,
    Digits,
}

fn replace<'m>(text: &str, mask: impl Fn(Secret, &str) -> &'m str) -> String {
    fill(text, &spans(text, false), mask)
}

fn fill<'m>(
    text: &str,
    spans: &[(Range<usize>, Secret)],
    mask: impl Fn(Secret, &str) -> &'m str,
) -> String {
    let mut out = String::with_capacity(text.len());
    let mut end = 0;
    for (span, kind) in spans {
        out.push_str(&text[end..span.start]);
        let secret = &text[span.clone()];
        match secret.starts_with(['"', '\'']) {
            true => out.extend(["\"", mask(*kind, secret), "\""]),
            false => out.push_str(mask(*kind, secret)),
        }
        end = span.end;
    }
    out + &text[end..]
}

/// Returns where the secrets of a text are, in order and apart from each other.
fn spans(text: &str, is_drawn: bool) -> Vec<(Range<usize>, Secret)> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let (mut secrets, mut urls, mut digits) = (Vec::new(), Vec::new(), Vec::new());
    for item in document.get_ref() {
        values(&KEYS, false, item, &mut secrets);
        values(&URL_KEYS, false, item, &mut urls);
    }
    runs(text, 0..text.len(), SEED_DIGITS, &mut digits);
    if is_drawn || !errors.is_empty() {
        unparsed(text, &mut secrets);
    }
    let of_kind = |spans: Vec<_>, kind| spans.into_iter().map(move |span| (span, kind));
    let mut found: Vec<_> = of_kind(secrets, Secret::Value)
        .chain(of_kind(digits, Secret::Digits))
        .collect();
    for url in urls {
        url_parts(text, url, &mut found);
    }
    unparsed_urls(text, &mut found);
    found.sort_by_key(|(span, _)| span.start);
    let mut apart: Vec<(Range<usize>, Secret)> = Vec::with_capacity(found.len());
    for (span, kind) in found {
        match apart.last_mut() {
            Some((last, _)) if span.start < last.end => last.end = last.end.max(span.end),
            _ => apart.push((span, kind)),
        }
    }
    apart
}

/// Finds strings and numbers under some keys.
fn values(
    keys: &[&str],
    is_below: bool,
    (key, value): (&Spanned<DeString<'_>>, &Spanned<DeValue<'_>>),
    found: &mut Vec<Range<usize>>,
) {
    fn leaves(value: &Spanned<DeValue<'_>>, found: &mut impl FnMut(&Spanned<DeValue<'_>>)) {
        match value.get_ref() {
            DeValue::Array(array) => array.iter().for_each(|value| leaves(value, found)),
            _ => found(value),
        }
    }
    let is_below = is_below || keys.contains(&key.get_ref().as_ref());
    leaves(value, &mut |leaf| match leaf.get_ref() {
        DeValue::Table(table) => {
            for item in table {
                values(keys, is_below, item, found);
            }
        }
        _ if is_below => found.push(leaf.span()),
        _ => {}
    });
}

/// Finds the parts of URLs that may be secret: the user, and what follows the host. A string without
/// `://`, which escapes can hide, is secret as a whole.
fn url_parts(text: &str, within: Range<usize>, found: &mut Vec<(Range<usize>, Secret)>) {
    let start = within.start;
    let value = text[within.clone()].trim_end_matches(['"', '\'']);
    let Some(scheme) = value.find("://") else {
        return found.push((within, Secret::Value));
    };
    let host = scheme + 3;
    let end = value[host..].find(['/', '?', '#', '\\']);
    let end = end.map_or(value.len(), |end| host + end);
    if let Some(at) = value[host..end].rfind('@') {
        found.push((start + host..start + host + at, Secret::Url));
    }
    let path = end + usize::from(value[end..].starts_with('/'));
    if path < value.len() {
        found.push((start + path..start + value.len(), Secret::Url));
    }
}

/// Finds URLs that may belong to a key, without regard to the syntax around them.
fn unparsed_urls(text: &str, found: &mut Vec<(Range<usize>, Secret)>) {
    let ends = |key: &'static str| text.match_indices(key).map(|(at, key)| at + key.len());
    let mut ends: Vec<usize> = URL_KEYS.into_iter().flat_map(ends).collect();
    ends.sort_unstable();
    let mut done = 0;
    for at in ends.into_iter().filter(|at| !text[*at..].starts_with('_')) {
        if at < done {
            continue;
        }
        let value = value_after(text, at).map_or(at, |value| value.end);
        let rest = text[value..]
            .find('\n')
            .map_or(text.len(), |end| value + end);
        done = rest;
        for (scheme, _) in text[at..rest].match_indices("://") {
            let before = text[..at + scheme].trim_end_matches(|c: char| c.is_ascii_alphabetic());
            let begin = before.len();
            let url = &text[begin..rest];
            let stop = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',');
            let length = url.find(stop).unwrap_or(url.len());
            url_parts(text, begin..begin + length, found);
        }
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
mod tests;

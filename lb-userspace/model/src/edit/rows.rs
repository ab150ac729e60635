//! Arrays of inline tables: `backend = [{ … }, { … }]`, with the spaces and comments between them.
//!
//! Of the text between two entries, the rest of the line belongs to the first, and what follows to the
//! second.

use toml_edit::{Array, RawString, Value};

pub(super) fn raw(text: Option<&RawString>) -> String {
    text.and_then(RawString::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn prefix(value: &Value) -> String {
    raw(value.decor().prefix())
}

fn suffix(value: &Value) -> String {
    raw(value.decor().suffix())
}

/// The rest of a line, and the lines below.
fn split_line(text: &str) -> (&str, &str) {
    text.split_at(text.find('\n').unwrap_or(text.len()))
}

/// Prepares `value` to follow `last` in an inline table: moves the space before the closing brace
/// behind it.
pub(super) fn hand_over(last: &mut Value, value: &mut Value) {
    let behind = suffix(last);
    if behind.trim().is_empty() {
        last.decor_mut().set_suffix("");
        *value.decor_mut() = toml_edit::Decor::new(" ", behind);
    }
}

/// Moves the space before the closing brace from a removed value to the one that is `last` now.
pub(super) fn hand_back(removed: &Value, last: &mut Value) {
    if suffix(last).is_empty() {
        last.decor_mut().set_suffix(suffix(removed));
    }
}

/// Adds an entry at the end, in the style of the others.
pub(super) fn push(array: &mut Array, mut value: Value) {
    let has_comma = array.trailing_comma();
    let at_end = raw(Some(array.trailing()));
    let Some(last) = array.len().checked_sub(1).and_then(|at| array.get_mut(at)) else {
        array.push_formatted(value.decorated("", ""));
        return;
    };
    let tail = if has_comma { at_end } else { suffix(last) };
    let comment = tail.trim_end();
    let before = prefix(last);
    let indent = match before.rfind('\n') {
        Some(newline) => &before[newline..],
        None if comment.is_empty() => " ",
        None => "\n",
    };
    value.decor_mut().set_prefix(format!("{comment}{indent}"));
    let rest = &tail[comment.len()..];
    if !has_comma {
        last.decor_mut().set_suffix("");
        value.decor_mut().set_suffix(rest);
    }
    let rest = rest.to_owned();
    array.push_formatted(value);
    if has_comma {
        array.set_trailing(rest);
    }
}

/// Removes an entry with its comments.
pub(super) fn remove(array: &mut Array, at: usize) {
    let has_comma = array.trailing_comma();
    let is_last = at + 1 == array.len();
    let removed = array.remove(at);
    // The comment of the previous entry, and the text before the next one.
    let before = prefix(&removed);
    let (head, _) = split_line(&before);
    let joined = |behind: &str| {
        let (own, below) = split_line(behind);
        // Without a line end, everything is on one line and there are no comments.
        if below.is_empty() && !own.contains('#') {
            return head.to_owned() + own.trim_start();
        }
        format!("{head}{below}")
    };
    if !is_last {
        if let Some(next) = array.get_mut(at) {
            let text = joined(&prefix(next));
            next.decor_mut().set_prefix(text);
        }
    } else if has_comma {
        let text = joined(&raw(Some(array.trailing())));
        array.set_trailing(text);
    } else if let Some(last) = at.checked_sub(1).and_then(|at| array.get_mut(at)) {
        let text = suffix(last) + &joined(&suffix(&removed));
        last.decor_mut().set_suffix(text);
    }
}

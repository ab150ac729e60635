//! Line ends: a file with Windows line ends keeps them.

use similar::{ChangeTag, TextDiff};

/// Replaces all line ends by `\n`.
pub(super) fn with_newlines(text: &str) -> String {
    text.replace("\r\n", "\n")
}

/// Gives `edited`, which was made from `plain`, the line ends of `text`: unchanged lines keep theirs,
/// new lines get those of the majority.
pub(super) fn with_line_ends_of(text: &str, plain: &str, edited: &str) -> String {
    let windows = text.matches("\r\n").count();
    if windows == 0 {
        return edited.to_owned();
    }
    let mostly_windows = windows * 2 > text.matches('\n').count();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut out = String::with_capacity(edited.len() + lines.len());
    for change in TextDiff::from_lines(plain, edited).iter_all_changes() {
        let kept = change.old_index().and_then(|line| lines.get(line));
        match (change.tag(), kept) {
            (ChangeTag::Delete, _) => {}
            (ChangeTag::Equal, Some(line)) => out.push_str(line),
            (ChangeTag::Equal | ChangeTag::Insert, _) => {
                let line = change.value();
                match line.strip_suffix('\n') {
                    Some(line) if mostly_windows => {
                        out.push_str(line);
                        out.push_str("\r\n");
                    }
                    _ => out.push_str(line),
                }
            }
        }
    }
    out
}

//! What is wrong with a file, and how it is drawn.

use std::{cell::RefCell, fmt, ops::Range};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, with the key.
    pub title: String,
    /// What is wrong at the place itself.
    pub label: String,
    /// What would be right.
    pub help: String,
    /// Where, in bytes of the file; `None` when the file can't be read at all.
    pub span: Option<Range<usize>>,
    /// Another place that has to do with it, and what.
    pub related: Option<(Range<usize>, String)>,
    /// A key that is not there. Not worth saying where a part of the file was not understood.
    pub(super) is_missing: bool,
}

impl Problem {
    pub(super) fn new(
        span: Range<usize>,
        title: impl Into<String>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            title: title.into(),
            label: label.into(),
            help: help.into(),
            span: Some(span),
            related: None,
            is_missing: false,
        }
    }

    pub(super) fn related(self, span: Range<usize>, label: impl Into<String>) -> Self {
        Self {
            related: Some((span, label.into())),
            ..self
        }
    }
}

/// Problems as they are found.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub(super) fn add(&self, problem: Problem) {
        self.0.borrow_mut().push(problem);
    }

    pub(super) fn into_vec(self) -> Vec<Problem> {
        self.0.into_inner()
    }
}

/// All that is wrong with a file, in the order of the file; at least one problem.
///
/// `Display` draws everything without colours; the value of `hash_seed` is never shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    file: String,
    text: String,
    problems: Vec<Problem>,
}

impl std::error::Error for ConfigErrors {}

impl ConfigErrors {
    pub(super) fn new(file: &str, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|p| {
            p.span
                .as_ref()
                .map_or((0, 0), |span| (span.start, span.end))
        });
        problems.dedup();
        Self {
            file: file.to_owned(),
            text: without_secrets(text),
            problems,
        }
    }

    pub(super) fn unreadable(file: &str, title: String, help: &str) -> Self {
        let problem = Problem {
            span: None,
            ..Problem::new(0..0, title, String::new(), help)
        };
        Self {
            file: file.to_owned(),
            text: String::new(),
            problems: vec![problem],
        }
    }

    /// The number of problems.
    #[expect(clippy::len_without_is_empty, reason = "there is always at least one")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.problems.len()
    }

    /// The file's name, as it was given.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The problems.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Line and column (in characters) of a problem, both from 1.
    #[must_use]
    pub fn position(&self, problem: &Problem) -> Option<(usize, usize)> {
        let before = self.text.get(..problem.span.as_ref()?.start)?;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Some((
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        ))
    }

    /// Draws all problems, for a terminal if `color`.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let problems = self
            .problems
            .iter()
            .map(|problem| self.draw(&renderer, problem));
        let mut text: Vec<String> = problems.collect();
        let number = match self.len() {
            1 => "1 error".to_owned(),
            n => format!("{n} errors"),
        };
        let summary = Level::ERROR.primary_title(format!("{number} in {}", self.file));
        text.push(renderer.render(&[annotate_snippets::Group::with_title(summary)]));
        text.join("\n\n")
    }

    fn draw(&self, renderer: &Renderer, problem: &Problem) -> String {
        let title = Level::ERROR.primary_title(&problem.title);
        let help = (!problem.help.is_empty()).then(|| Level::HELP.message(&problem.help));
        let group = match &problem.span {
            None => annotate_snippets::Group::with_title(title),
            Some(span) => {
                let primary = AnnotationKind::Primary
                    .span(self.clamp(span))
                    .label(&problem.label);
                let related = problem.related.as_ref().map(|(span, label)| {
                    AnnotationKind::Context.span(self.clamp(span)).label(label)
                });
                let snippet = Snippet::source(&self.text)
                    .path(&self.file)
                    .annotation(primary);
                title.element(snippet.annotations(related))
            }
        };
        renderer.render(&[group.elements(help)])
    }

    fn clamp(&self, span: &Range<usize>) -> Range<usize> {
        let end = span.end.min(self.text.len());
        span.start.min(end)..end
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// The text with the values of secrets starred out, and everything else where it was: what is drawn
/// ends up in logs and bug reports.
fn without_secrets(text: &str) -> String {
    let text = ["hash_seed", "webhook_secret"]
        .iter()
        .fold(text.to_owned(), |text, key| starred(&text, key));
    without_hex(&text)
}

fn starred(text: &str, key: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(key) {
        let (before, after) = rest.split_at(at + key.len());
        out.push_str(before);
        rest = after;
        let value = rest.trim_start_matches(['"', '\'', ' ', '\t']);
        let Some(value) = value.strip_prefix('=') else {
            continue;
        };
        let (equals, value) = rest.split_at(rest.len() - value.len());
        out.push_str(equals);
        let secret = value.find(['\n', ',', '}', '#']).unwrap_or(value.len());
        for c in value[..secret].chars() {
            match c {
                '"' | '\'' | ' ' | '\t' | '\r' => out.push(c),
                _ => out.extend(std::iter::repeat_n('*', c.len_utf8())),
            }
        }
        rest = &value[secret..];
    }
    out + rest
}

/// Stars out what looks like a seed, under whatever key it was typed.
fn without_hex(text: &str) -> String {
    const LIKE_A_SEED: usize = 24;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_hexdigit())
            .unwrap_or(rest.len());
        match &rest[..end] {
            run if run.len() >= LIKE_A_SEED => out.extend(std::iter::repeat_n('*', run.len())),
            run => out.push_str(run),
        }
        let other = rest[end..].find(|c: char| c.is_ascii_hexdigit());
        let next = other.map_or(rest.len(), |at| end + at);
        out.push_str(&rest[end..next]);
        rest = &rest[next..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_starred_and_nothing_moves() {
        let text =
            "[node]\nhash_seed_file = \"seed\"\nhash_seed = \"00ff\" # mine\nnode.hash_seed='é1'";
        let starred =
            "[node]\nhash_seed_file = \"seed\"\nhash_seed = \"****\" # mine\nnode.hash_seed='***'";
        assert_eq!(without_secrets(text), starred);
        assert_eq!(text.len(), starred.len());
        let text = "hash_sed = \"000102030405060708090a0b0c0d0e0f\"\nport = 443";
        let starred = format!("hash_sed = \"{}\"\nport = 443", "*".repeat(32));
        assert_eq!(without_secrets(text), starred);
    }

    #[test]
    fn positions_count_characters_from_one() {
        let problem = |span| Problem::new(span, "t", "l", "h");
        let errors = ConfigErrors::new("f", "a\né = 1", vec![problem(2..4), problem(7..8)]);
        let positions: Vec<_> = errors
            .problems()
            .iter()
            .map(|p| errors.position(p))
            .collect();
        assert_eq!(positions, [Some((2, 1)), Some((2, 5))]);
    }

    #[test]
    fn colors_only_when_asked_for() {
        let errors = ConfigErrors::new("f.toml", "a = 1", vec![Problem::new(0..1, "t", "l", "h")]);
        assert!(!errors.to_string().contains('\x1b') && errors.render(true).contains('\x1b'));
        assert!(errors.to_string().contains("f.toml:1:1"), "{errors}");
    }
}

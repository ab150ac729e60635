//! Problems of a file, and how they are printed with the lines that they are in.

use std::{cell::RefCell, fmt, ops::Range};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::secrets;

/// One problem of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, with the key.
    pub title: String,
    /// What is wrong at the place itself; printed below it.
    pub label: String,
    /// What is expected.
    pub help: String,
    /// Where, in bytes of the file; `None` when the file can't be read at all.
    pub span: Option<Range<usize>>,
    /// A related place and its label, such as the first of two duplicates.
    pub related: Option<(Range<usize>, String)>,
    /// A key is missing. Not reported when a part of the file is not valid TOML: it may be there.
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

/// Collects problems in the order in which they are found.
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

/// Where the lines of a text begin, for a lookup in logarithmic time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        let newlines = text.match_indices('\n');
        Self(
            std::iter::once(0)
                .chain(newlines.map(|(at, _)| at + 1))
                .collect(),
        )
    }

    /// The line of a byte, from 0.
    pub(super) fn number(&self, at: usize) -> usize {
        self.0
            .partition_point(|start| *start <= at)
            .saturating_sub(1)
    }

    /// Where the line of a byte begins.
    fn start(&self, at: usize) -> usize {
        self.0[self.number(at)]
    }
}

/// All problems of a file, in the order of the file; at least one.
///
/// `Display` prints them without colours, and never the value of `hash_seed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    file: String,
    text: String,
    lines: Lines,
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
        for problem in &mut problems {
            // They may quote the text.
            for words in [&mut problem.title, &mut problem.label, &mut problem.help] {
                *words = secrets::star(words);
            }
        }
        let text = secrets::star(text);
        Self {
            file: file.to_owned(),
            lines: Lines::of(&text),
            text,
            problems,
        }
    }

    /// The error of a file that is not UTF-8.
    #[must_use]
    pub fn not_utf8(file: &str, bytes: &[u8]) -> Self {
        let valid = bytes
            .utf8_chunks()
            .next()
            .map_or(0, |chunk| chunk.valid().len());
        let text = String::from_utf8_lossy(bytes);
        let span = valid..valid + char::REPLACEMENT_CHARACTER.len_utf8();
        let title = "the file is not UTF-8 text";
        let help = "save it as UTF-8 (plain ASCII is UTF-8)";
        let problem = Problem::new(span, title, "not a UTF-8 character", help);
        Self::new(file, &text, vec![problem])
    }

    /// The error of a file that can't be read.
    #[must_use]
    pub fn unreadable(file: &str, error: &std::io::Error) -> Self {
        let title = format!("can't read {file}: {error}");
        let help = "give the path of a configuration file";
        let problem = Problem {
            span: None,
            ..Problem::new(0..0, title, String::new(), help)
        };
        Self {
            file: file.to_owned(),
            text: String::new(),
            lines: Lines::of(""),
            problems: vec![problem],
        }
    }

    /// The number of problems.
    #[expect(clippy::len_without_is_empty, reason = "there is always at least one")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.problems.len()
    }

    /// The name of the file, as it was given.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The problems.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Line and column of a problem, both from 1; columns count characters.
    #[must_use]
    pub fn position(&self, problem: &Problem) -> Option<(usize, usize)> {
        let at = problem.span.as_ref()?.start;
        let before = self.text.get(self.lines.start(at)..at)?;
        Some((self.lines.number(at) + 1, before.chars().count() + 1))
    }

    /// Prints all problems, with colours if `color`.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        self.render_first(color, usize::MAX)
    }

    /// Prints at most this many problems, and the number of all.
    #[must_use]
    pub fn render_first(&self, color: bool, most: usize) -> String {
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let problems = self
            .problems
            .iter()
            .take(most)
            .map(|problem| self.draw(&renderer, problem));
        let mut text: Vec<String> = problems.collect();
        let number = match self.len() {
            1 => "1 error".to_owned(),
            n => format!("{n} errors"),
        };
        let cut = match self.len() > most {
            true => format!("; showing the first {most}, `evenkeel check --all` shows all"),
            false => String::new(),
        };
        let summary = Level::ERROR.primary_title(format!("{number} in {}{cut}", self.file));
        text.push(renderer.render(&[annotate_snippets::Group::with_title(summary)]));
        text.join("\n\n")
    }

    fn draw(&self, renderer: &Renderer, problem: &Problem) -> String {
        let title = Level::ERROR.primary_title(&problem.title);
        let help = (!problem.help.is_empty()).then(|| Level::HELP.message(&problem.help));
        let group = match &problem.span {
            None => annotate_snippets::Group::with_title(title),
            Some(span) => {
                let span = self.clamp(span);
                let related = problem.related.as_ref();
                let related = related.map(|(span, label)| (self.clamp(span), label));
                let source = self.lines_around(&span, related.as_ref().map(|(span, _)| span));
                let inside =
                    |span: &Range<usize>| span.start - source.start..span.end - source.start;
                let primary = AnnotationKind::Primary
                    .span(inside(&span))
                    .label(&problem.label);
                let related = related
                    .map(|(span, label)| AnnotationKind::Context.span(inside(&span)).label(label));
                let snippet = Snippet::source(&self.text[source.clone()])
                    .line_start(self.lines.number(source.start) + 1)
                    .path(&self.file)
                    .annotation(primary);
                title.element(snippet.annotations(related))
            }
        };
        renderer.render(&[group.elements(help)])
    }

    /// The lines from the first to the last of these places. The renderer takes time in proportion to
    /// the text that it gets.
    fn lines_around(&self, one: &Range<usize>, other: Option<&Range<usize>>) -> Range<usize> {
        let other = other.unwrap_or(one);
        let (first, last) = (one.start.min(other.start), one.end.max(other.end));
        let mut start = self.lines.start(first);
        if start == self.text.len() && start > 0 {
            // Nothing comes after the last newline: the line before shows where that is.
            start = self.lines.start(start - 1);
        }
        let rest = &self.text.as_bytes()[last..];
        let newline = rest.iter().position(|byte| *byte == b'\n');
        start..last + newline.map_or(rest.len(), |at| at + 1)
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_is_drawn_is_where_it_is_in_the_file() {
        let text = "a = 1\n\nb = 2\nc = 3\n";
        let drawn = |problem| ConfigErrors::new("f", text, vec![problem]).to_string();
        let one = drawn(Problem::new(11..12, "t", "l", "h"));
        assert!(
            one.contains("f:3:5") && one.contains("\n3 | b = 2\n  |     ^ l"),
            "{one}"
        );
        let two = drawn(Problem::new(17..18, "t", "l", "h").related(4..5, "first"));
        assert!(
            two.contains("f:4:5") && two.contains("\n1 | a = 1\n  |     - first"),
            "{two}"
        );
        assert!(two.contains("\n4 | c = 3\n  |     ^ l"), "{two}");
        let end = drawn(Problem::new(19..19, "t", "l", "h"));
        assert!(end.contains("f:4:7"), "{end}");
        let dos = ConfigErrors::new(
            "f",
            "a = 1\r\nb = 2\r\n",
            vec![Problem::new(4..5, "t", "l", "h")],
        );
        assert!(dos.to_string().contains("1 | a = 1\n"), "{dos}");
    }

    #[test]
    fn the_first_ones_are_drawn_and_all_are_counted() {
        let problems = (0..5).map(|at| Problem::new(at..at + 1, format!("t{at}"), "l", "h"));
        let errors = ConfigErrors::new("f", "abcde", problems.collect());
        let drawn = errors.render_first(false, 2);
        assert!(drawn.contains("t1") && !drawn.contains("t2"), "{drawn}");
        assert!(
            drawn.contains("5 errors in f; showing the first 2"),
            "{drawn}"
        );
        assert!(errors.to_string().contains("t4") && !errors.to_string().contains("first"));
    }

    #[test]
    fn colors_only_when_asked_for() {
        let errors = ConfigErrors::new("f.toml", "a = 1", vec![Problem::new(0..1, "t", "l", "h")]);
        assert!(!errors.to_string().contains('\x1b') && errors.render(true).contains('\x1b'));
        assert!(errors.to_string().contains("f.toml:1:1"), "{errors}");
    }
}

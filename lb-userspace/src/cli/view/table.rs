//! Tables with aligned columns.
//!
//! If a table is wider than the terminal, a column (the first by default) is shortened in the middle
//! of its text, since names tend to differ at their ends.

use super::{View, paint::Tone};

/// Minimum width of a shortened column.
const MIN_WIDTH: usize = 8;

const GAP: &str = "  ";

/// Alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Side {
    Left,
    Right,
}

#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(in crate::cli) fn toned(tone: Tone, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }

    pub(in crate::cli) fn into_parts(self) -> (String, Tone) {
        (self.text, self.tone)
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(Tone::Plain, text)
    }
}

#[derive(Debug, Default)]
pub(in crate::cli) struct Table {
    indent: &'static str,
    columns: Vec<(Side, &'static str)>,
    rows: Vec<Vec<Cell>>,
    /// Text below rows, with the number of rows above it.
    notes: Vec<(usize, String)>,
    /// Columns that may be shortened, in this order.
    shrinking: Vec<usize>,
}

impl Table {
    pub(in crate::cli) fn new(columns: &[(Side, &'static str)]) -> Self {
        Self {
            indent: "",
            columns: columns.into(),
            rows: Vec::new(),
            notes: Vec::new(),
            shrinking: vec![0],
        }
    }

    /// Conditions with their names and texts, and whether they are met.
    pub(in crate::cli) fn of_checks<'a>(
        checks: impl Iterator<Item = (bool, &'a str, &'a str)>,
    ) -> Self {
        let mut table = Self::new(&[(Side::Left, ""); 3]).shrinking(&[2]);
        for (is_met, name, text) in checks {
            let mark = match is_met {
                true => Cell::toned(Tone::Good, "ok"),
                false => Cell::toned(Tone::Bad, "no"),
            };
            table.row([mark, name.into(), text.into()]);
        }
        table
    }

    /// Shortens these columns instead of the first.
    pub(in crate::cli) fn shrinking(self, columns: &[usize]) -> Self {
        Self {
            shrinking: columns.into(),
            ..self
        }
    }

    pub(in crate::cli) fn indented(self, indent: &'static str) -> Self {
        Self { indent, ..self }
    }

    /// Adds a row with one cell per column.
    pub(in crate::cli) fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        let cells = cells.into();
        debug_assert_eq!(cells.len(), self.columns.len(), "{cells:?}");
        self.rows.push(cells);
    }

    /// Adds text below the last row.
    pub(in crate::cli) fn note(&mut self, text: impl Into<String>) {
        self.notes.push((self.rows.len(), text.into()));
    }

    /// Returns the table as lines, each with a line break at its end.
    pub(in crate::cli) fn draw(&self, view: View) -> String {
        let widths = self.widths(view);
        let titles: Vec<Cell> = self
            .columns
            .iter()
            .map(|(_, title)| Cell::toned(Tone::Faint, *title))
            .collect();
        let untitled = self.columns.iter().all(|(_, title)| title.is_empty());
        let mut text = String::new();
        if !untitled {
            text += &self.line(&titles, &widths, view);
        }
        for (number, row) in self.rows.iter().enumerate() {
            text += &self.line(row, &widths, view);
            for (_, note) in self.notes.iter().filter(|(above, _)| *above == number + 1) {
                let indent = format!("{}     ", self.indent);
                text += &view.paint.apply(Tone::Faint, &view.wrap(&indent, note));
                text.push('\n');
            }
        }
        text
    }

    fn widths(&self, view: View) -> Vec<usize> {
        let width = |column: usize, title: &str| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| length(&cell.text))
                .fold(length(title), usize::max)
        };
        let columns = self.columns.iter().enumerate();
        let mut widths: Vec<usize> = columns.map(|(n, (_, title))| width(n, title)).collect();
        let all = widths.iter().sum::<usize>()
            + GAP.len() * widths.len().saturating_sub(1)
            + self.indent.len();
        let mut over = view.width.map_or(0, |columns| all.saturating_sub(columns));
        for &column in &self.shrinking {
            let Some(width) = widths.get_mut(column) else {
                continue;
            };
            let shorter = width.saturating_sub(over).max(MIN_WIDTH.min(*width));
            over = over.saturating_sub(*width - shorter);
            *width = shorter;
        }
        widths
    }

    fn line(&self, row: &[Cell], widths: &[usize], view: View) -> String {
        let cells = row.iter().zip(widths).zip(&self.columns);
        let cells: Vec<(String, String, &Side)> = cells
            .map(|((cell, &width), (side, _))| {
                let text = shorten(&cell.text, width);
                let pad = " ".repeat(width.saturating_sub(length(&text)));
                (view.paint.apply(cell.tone, &text), pad, side)
            })
            .collect();
        let mut line = String::from(self.indent);
        for (number, (text, pad, side)) in cells.iter().enumerate() {
            line.push_str(if number == 0 { "" } else { GAP });
            match side {
                Side::Left => line.extend([text.as_str(), pad.as_str()]),
                Side::Right => line.extend([pad.as_str(), text.as_str()]),
            }
        }
        line.truncate(line.trim_end().len());
        line + "\n"
    }
}

/// Columns that a text takes. All characters shown here are one column wide.
fn length(text: &str) -> usize {
    text.chars().count()
}

/// Replaces the middle of the text by an ellipsis if it is longer than `width`.
pub(in crate::cli) fn shorten(text: &str, width: usize) -> String {
    let length = length(text);
    if length <= width {
        return text.into();
    }
    let kept = width.saturating_sub(1);
    let tail = kept.div_ceil(2);
    let head = text.chars().take(kept - tail);
    head.chain(['…'])
        .chain(text.chars().skip(length - tail))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::paint::Paint, *};

    fn table() -> Table {
        let mut table = Table::new(&[(Side::Left, "name"), (Side::Right, "n"), (Side::Left, "x")]);
        table.row(["a-name-that-is-long-1".into(), "7".into(), Cell::default()]);
        table.row(["b".into(), "1234".into(), Cell::toned(Tone::Bad, "✗")]);
        table
    }

    #[test]
    fn aligns_columns_without_trailing_spaces() {
        let view = View {
            paint: Paint::PLAIN,
            width: None,
        };
        assert_eq!(
            table().draw(view),
            "name                      n  x\n\
             a-name-that-is-long-1     7\n\
             b                      1234  ✗\n"
        );
    }

    #[test]
    fn shortens_columns_on_a_narrow_terminal() {
        let view = View {
            paint: Paint::PLAIN,
            width: Some(20),
        };
        assert_eq!(
            table().draw(view),
            "name            n  x\n\
             a-nam…ong-1     7\n\
             b            1234  ✗\n"
        );
        let mut last_first = Table::new(&[(Side::Left, "a"), (Side::Left, "b"), (Side::Left, "c")])
            .shrinking(&[2, 1]);
        last_first.row(["1234", "a-name-that-is-long", "more-of-that"].map(Cell::from));
        assert_eq!(
            last_first.draw(View {
                paint: Paint::PLAIN,
                width: Some(26)
            }),
            "a     b           c\n1234  a-na…-long  mor…that\n"
        );
        assert_eq!(shorten("abcdef", 1), "…");
        assert_eq!(shorten("abcdef", 6), "abcdef");
    }

    #[test]
    fn colours_do_not_change_the_layout() {
        let view = |paint| View { paint, width: None };
        let colored = table().draw(view(Paint::COLORED));
        let mut plain = String::new();
        let mut rest = colored.as_str();
        while let Some((before, after)) = rest.split_once('\x1b') {
            plain.push_str(before);
            rest = after.split_once('m').unwrap().1;
        }
        assert_ne!(colored, plain);
        let trimmed: Vec<&str> = plain.lines().map(str::trim_end).collect();
        assert_eq!(
            trimmed.join("\n"),
            table().draw(view(Paint::PLAIN)).trim_end()
        );
    }
}

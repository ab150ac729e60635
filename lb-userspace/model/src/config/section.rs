//! Reading one table of the file, key by key.
//!
//! A section knows which keys it was asked for, so that those which nobody asked for can be
//! reported, with the key that was probably meant.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    problem::{Problem, Problems},
    value::{Parsed, Wrong},
};

/// A value that was typed, with its place; `None` when it was not, or was wrong and is reported.
pub(super) type Typed<T> = Option<Spanned<T>>;

/// A table of the file.
pub(super) struct Section<'t, 'i> {
    table: &'t DeTable<'i>,
    /// What it is called in messages, such as `vip.health`; empty for the file.
    name: &'static str,
    /// Where it begins.
    pub(super) at: Range<usize>,
    /// Keys that it may have.
    known: Vec<&'static str>,
    problems: &'t Problems,
}

impl<'t, 'i> Section<'t, 'i> {
    pub(super) fn new(
        name: &'static str,
        at: Range<usize>,
        table: &'t DeTable<'i>,
        problems: &'t Problems,
    ) -> Self {
        Self {
            table,
            name,
            at,
            known: Vec::new(),
            problems,
        }
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }

    fn look_up(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.known.push(key);
        self.table.get(key)
    }

    fn report(&self, key: &str, span: Range<usize>, Wrong { label, help }: Wrong) {
        let title = format!("`{}` is not valid", self.path(key));
        self.problems.add(Problem::new(span, title, label, help));
    }

    fn parse<T>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'i>>,
        parse: &impl Fn(&DeValue<'_>) -> Parsed<T>,
    ) -> Typed<T> {
        match parse(value.get_ref()) {
            Ok(parsed) => Some(Spanned::new(value.span(), parsed)),
            Err(wrong) => {
                self.report(key, value.span(), wrong);
                None
            }
        }
    }

    /// A value that may be there.
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&DeValue<'_>) -> Parsed<T>,
    ) -> Typed<T> {
        let value = self.look_up(key)?;
        self.parse(key, value, &parse)
    }

    /// A value that must be there; `help` says what for.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        help: &str,
        parse: impl Fn(&DeValue<'_>) -> Parsed<T>,
    ) -> Typed<T> {
        if !self.table.contains_key(key) {
            self.known.push(key);
            self.missing(key, help);
            return None;
        }
        self.value(key, parse)
    }

    /// Reports that a key is not there.
    pub(super) fn missing(&self, key: &str, help: &str) {
        let title = format!("`{}` is missing", self.path(key));
        let problem = Problem::new(
            self.at.clone(),
            title,
            format!("`{key}` belongs here"),
            help,
        );
        self.problems.add(Problem {
            is_missing: true,
            ..problem
        });
    }

    /// A list of values; the wrong ones are reported one by one and left out.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&DeValue<'_>) -> Parsed<T>,
    ) -> Typed<Vec<Spanned<T>>> {
        let value = self.look_up(key)?;
        let Some(array) = value.get_ref().as_array() else {
            let label = format!("this is not a list but one {}", value.get_ref().type_str());
            let help = "a list is needed, even of one: `[…]`".to_owned();
            self.report(key, value.span(), Wrong { label, help });
            return None;
        };
        let parsed: Vec<_> = array
            .iter()
            .filter_map(|item| self.parse(key, item, &parse))
            .collect();
        // A list of nothing but mistakes is not an empty one.
        let is_known = array.is_empty() || !parsed.is_empty();
        is_known.then(|| Spanned::new(value.span(), parsed))
    }

    /// A table inside this one.
    pub(super) fn table(&mut self, key: &'static str, name: &'static str) -> Option<Self> {
        let value = self.look_up(key)?;
        let inner = self.inner(name, value);
        if inner.is_none() {
            let help = format!("a table is needed: `[{name}]`");
            self.wrong_table(key, value, help);
        }
        inner
    }

    /// Tables of the same name: `[[name]]`.
    pub(super) fn tables(&mut self, key: &'static str, name: &'static str) -> Vec<Self> {
        let Some(value) = self.look_up(key) else {
            return Vec::new();
        };
        let help = || format!("tables in double brackets are needed: `[[{name}]]`");
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_table(key, value, help());
            return Vec::new();
        };
        if array.is_empty() {
            let label = "this is a list of nothing".to_owned();
            let help = format!("leave the key out, or write `[[{name}]]`");
            self.report(key, value.span(), Wrong { label, help });
        }
        let tables = array.iter().filter_map(|item| {
            let inner = self.inner(name, item);
            if inner.is_none() {
                self.wrong_table(key, item, help());
            }
            inner
        });
        tables.collect()
    }

    fn wrong_table(&self, key: &str, value: &Spanned<DeValue<'i>>, help: String) {
        let label = format!("this is one {}", value.get_ref().type_str());
        self.report(key, value.span(), Wrong { label, help });
    }

    fn inner(&self, name: &'static str, value: &'t Spanned<DeValue<'i>>) -> Option<Self> {
        let table = value.get_ref().as_table()?;
        Some(Self::new(name, value.span(), table, self.problems))
    }

    /// Whether a key was typed, rightly or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) -> Range<usize> {
        for key in self.table.keys() {
            let typed: &str = key.get_ref();
            if self.known.contains(&typed) {
                continue;
            }
            let title = format!("`{}` is not a key that Evenkeel knows", self.path(typed));
            let list = self.known.join("`, `");
            let nearest = self.known.iter().min_by_key(|known| distance(known, typed));
            let help = match nearest {
                Some(nearest) if distance(nearest, typed) <= 1 + typed.len() / 4 => {
                    format!("did you mean `{nearest}`?")
                }
                _ if self.name.is_empty() => format!("a file can have `{list}`"),
                _ => format!("`{}` can have `{list}`", self.name),
            };
            self.problems
                .add(Problem::new(key.span(), title, "unknown key", help));
        }
        self.at
    }
}

/// Edits (insert, delete, replace) that make one word of another.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distances() {
        assert_eq!(distance("weight", "weight"), 0);
        assert_eq!(distance("weight", "wieght"), 2);
        assert_eq!(distance("port", "ports"), 1);
        assert_eq!(distance("", "abc"), 3);
    }
}

//! Reads one table of the file, key by key, and remembers which keys it knows: `finish` reports the
//! others, with the key that was probably meant.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    keys::Table,
    kind::Kind,
    problem::{Problem, Problems},
    value::{Wrong, type_of},
};

/// A value with its place; `None` when the key is absent, or its value is wrong and reported.
pub(super) type Typed<T> = Option<Spanned<T>>;

pub(super) struct Reader<'t, 'i> {
    table: &'t DeTable<'i>,
    /// The path of the table, such as `vip.health`; empty for the file.
    name: &'static str,
    /// Where the table begins.
    pub(super) at: Range<usize>,
    known: Vec<&'static str>,
    problems: &'t Problems,
}

impl<'t, 'i> Reader<'t, 'i> {
    /// Reads a whole document.
    pub(super) fn new(document: &'t DeTable<'i>, problems: &'t Problems) -> Self {
        Self::below("", 0..0, document, problems)
    }

    fn below(
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
        kind: &impl Kind<Value = T>,
    ) -> Typed<T> {
        match kind.parse(value.get_ref()) {
            Ok(parsed) => Some(Spanned::new(value.span(), parsed)),
            Err(wrong) => {
                self.report(key, value.span(), wrong);
                None
            }
        }
    }

    pub(super) fn value<T>(&mut self, key: &'static str, kind: &impl Kind<Value = T>) -> Typed<T> {
        let value = self.look_up(key)?;
        self.parse(key, value, kind)
    }

    /// Reads a value, and reports it if it is absent.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        help: &str,
        kind: &impl Kind<Value = T>,
    ) -> Typed<T> {
        if !self.table.contains_key(key) {
            self.known.push(key);
            self.missing(key, help);
            return None;
        }
        self.value(key, kind)
    }

    /// Reports that a key is absent.
    pub(super) fn missing(&self, key: &str, help: &str) {
        let title = format!("`{}` is missing", self.path(key));
        let problem = Problem::new(
            self.at.clone(),
            title,
            format!("`{key}` must be set here"),
            help,
        );
        self.problems.add(Problem {
            is_missing: true,
            ..problem
        });
    }

    /// Reads a list; wrong items are reported one by one and left out.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        kind: &impl Kind<Value = T>,
    ) -> Typed<Vec<Spanned<T>>> {
        let value = self.look_up(key)?;
        let Some(array) = value.get_ref().as_array() else {
            let label = format!("this is {}", type_of(value.get_ref()));
            let help = "expected a list, even of one item: `[…]`".to_owned();
            self.report(key, value.span(), Wrong { label, help });
            return None;
        };
        let parsed: Vec<_> = array
            .iter()
            .filter_map(|item| self.parse(key, item, kind))
            .collect();
        // A list whose items are all wrong is not an empty one.
        let is_known = array.is_empty() || !parsed.is_empty();
        is_known.then(|| Spanned::new(value.span(), parsed))
    }

    /// Reads a list, and reports it if it is absent.
    pub(super) fn required_list<T>(
        &mut self,
        key: &'static str,
        help: &str,
        kind: &impl Kind<Value = T>,
    ) -> Typed<Vec<Spanned<T>>> {
        if !self.has(key) {
            self.missing(key, help);
        }
        self.list(key, kind)
    }

    pub(super) fn table(&mut self, key: &'static str, name: &'static str) -> Option<Self> {
        let value = self.look_up(key)?;
        let inner = self.inner(name, value);
        if inner.is_none() {
            let help = format!("expected a table: `[{name}]`");
            self.wrong_table(key, value, help);
        }
        inner
    }

    /// Reads an array of tables: `[[name]]`.
    pub(super) fn tables(&mut self, key: &'static str, name: &'static str) -> Vec<Self> {
        let Some(value) = self.look_up(key) else {
            return Vec::new();
        };
        let help = || format!("expected tables in double brackets: `[[{name}]]`");
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_table(key, value, help());
            return Vec::new();
        };
        if array.is_empty() {
            let label = "this list is empty".to_owned();
            let help = format!("remove the key, or add a table `[[{name}]]`");
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
        let label = format!("this is {}", type_of(value.get_ref()));
        self.report(key, value.span(), Wrong { label, help });
    }

    fn inner(&self, name: &'static str, value: &'t Spanned<DeValue<'i>>) -> Option<Self> {
        let table = value.get_ref().as_table()?;
        Some(Self::below(name, value.span(), table, self.problems))
    }

    /// Reads a table inside this one, and reports keys that it does not have.
    pub(super) fn read<T: Table>(&mut self, key: &'static str) -> Option<T> {
        self.table(key, T::PATH).map(Reader::read_table)
    }

    pub(super) fn read_table<T: Table>(mut self) -> T {
        let table = T::read(&mut self);
        self.finish();
        table
    }

    /// The known keys that are in the table, right or wrong.
    pub(super) fn present(&self) -> Vec<&'static str> {
        let keys = self.known.iter().copied();
        keys.filter(|key| self.table.contains_key(*key)).collect()
    }

    /// Whether a key is in the table, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Reports the keys that nothing has read.
    pub(super) fn finish(self) {
        for key in self.table.keys() {
            let typed: &str = key.get_ref();
            if self.known.contains(&typed) {
                continue;
            }
            let title = format!("unknown key `{}`", self.path(typed));
            let list = self.known.join("`, `");
            let nearest = self.known.iter().min_by_key(|known| distance(known, typed));
            let help = match nearest {
                Some(nearest) if distance(nearest, typed) <= 1 + typed.len() / 4 => {
                    format!("did you mean `{nearest}`?")
                }
                _ if self.name.is_empty() => format!("the keys of a configuration are `{list}`"),
                _ => format!("the keys of `{}` are `{list}`", self.name),
            };
            self.problems
                .add(Problem::new(key.span(), title, "unknown key", help));
        }
    }
}

/// The Levenshtein distance of two words.
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

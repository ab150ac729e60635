//! Finds the VIPs and backends of a document, written as tables or as inline tables.

use toml_edit::{Array, ArrayOfTables, InlineTable, Item, Table, TableLike, Value};

use super::{EditError, rows};

pub(super) enum Field {
    Value(Value),
    Table(Vec<(&'static str, Value)>),
    Tables(Vec<Vec<(&'static str, Value)>>),
}

/// The VIPs, or the backends of a VIP.
pub(super) enum Collection<'a> {
    /// `[[vip]]`
    Tables(&'a mut ArrayOfTables),
    /// `vip = [{ … }]`
    Row(&'a mut Array),
}

/// An entry of a collection, or the document.
pub(super) enum Entry<'a> {
    Table(&'a mut Table),
    Row(&'a mut InlineTable),
}

impl<'a> Entry<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&Item> {
        match self {
            Self::Table(table) => table.get(key),
            Self::Row(row) => row.get_key_value(key).map(|(_, item)| item),
        }
    }

    /// The collection of a key, created if absent. An inline table can only contain inline tables.
    pub(super) fn into_collection(self, key: &str) -> Result<Collection<'a>, EditError> {
        let (table, empty): (&mut dyn TableLike, _) = match self {
            Self::Table(table) => (table, Item::ArrayOfTables(ArrayOfTables::new())),
            Self::Row(row) => (row, Item::Value(Array::new().into())),
        };
        let item = table.entry(key).or_insert(Item::None);
        if item.is_none() {
            *item = empty;
        }
        let kind = item.type_name();
        match item {
            Item::ArrayOfTables(tables) => Ok(Collection::Tables(tables)),
            Item::Value(Value::Array(array)) => Ok(Collection::Row(array)),
            _ => Err(EditError::Odd {
                what: format!("`{key}` is not a list of tables but a {kind}"),
            }),
        }
    }

    /// Removes a key, unless it has a comment. Returns whether it is absent now.
    pub(super) fn remove(&mut self, key: &str) -> bool {
        let table: &mut dyn TableLike = match self {
            Self::Table(table) => *table,
            Self::Row(row) => *row,
        };
        let Some((name, item)) = table.get_key_value(key) else {
            return true;
        };
        let decors = [Some(name.leaf_decor()), item.as_value().map(Value::decor)];
        let has_comment = decors.into_iter().flatten().any(|decor| {
            let mut texts = [decor.prefix(), decor.suffix()].into_iter();
            texts.any(|text| rows::raw(text).contains('#'))
        });
        if has_comment {
            return false;
        }
        let removed = table.remove(key);
        if let (Self::Row(row), Some(removed)) = (self, removed)
            && let Some((_, last)) = row.iter_mut().last()
            && let Some(removed) = removed.as_value()
        {
            rows::hand_back(removed, last);
        }
        true
    }

    /// Sets a key; the spacing and comment of an existing value stay.
    pub(super) fn set(self, key: &str, mut value: Value) {
        let item = match self {
            Self::Table(table) => table.entry(key).or_insert(Item::None),
            Self::Row(row) => {
                if let Some(old) = row.get_mut(key) {
                    *value.decor_mut() = old.decor().clone();
                    *old = value;
                    return;
                }
                // The space before the closing brace belongs to the last value.
                if let Some((_, last)) = row.iter_mut().last() {
                    rows::hand_over(last, &mut value);
                }
                row.insert(key, value);
                return;
            }
        };
        if let Some(old) = item.as_value() {
            *value.decor_mut() = old.decor().clone();
        }
        *item = Item::Value(value);
    }
}

/// Can't happen: an entry was found before and is gone.
pub(super) fn moved() -> EditError {
    EditError::Odd {
        what: "an entry moved".to_owned(),
    }
}

impl<'a> Collection<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Tables(tables) => tables.len(),
            Self::Row(array) => array.len(),
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        let name = |entry: &dyn TableLike| Some(entry.get("name")?.as_str()?.to_owned());
        let names: Vec<Option<String>> = match self {
            Self::Tables(tables) => tables.iter().map(|table| name(table)).collect(),
            Self::Row(array) => {
                let tables = array.iter().map(Value::as_inline_table);
                tables.map(|table| name(table?)).collect()
            }
        };
        names.into_iter().map(Option::unwrap_or_default).collect()
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.names().iter().position(|has| has == name)
    }

    pub(super) fn into_entry(self, at: usize) -> Option<Entry<'a>> {
        match self {
            Self::Tables(tables) => tables.get_mut(at).map(Entry::Table),
            Self::Row(array) => array.get_mut(at)?.as_inline_table_mut().map(Entry::Row),
        }
    }

    /// Adds an entry at the end. `position` is that of a table in the text; `None`: behind the others.
    pub(super) fn add(&mut self, fields: Vec<(&'static str, Field)>, position: Option<isize>) {
        match self {
            Self::Tables(tables) => {
                let mut table = table(fields);
                table.set_position(position);
                tables.push(table);
            }
            Self::Row(array) => rows::push(array, Value::InlineTable(row(fields))),
        }
    }
}

fn table(fields: Vec<(&'static str, Field)>) -> Table {
    let mut table = Table::new();
    for (key, field) in fields {
        let values = |fields: Vec<(&'static str, Value)>| {
            let fields = fields.into_iter();
            fields
                .map(|(key, value)| (key, Field::Value(value)))
                .collect()
        };
        let item = match field {
            Field::Value(value) => Item::Value(value),
            Field::Table(fields) => Item::Table(self::table(values(fields))),
            Field::Tables(all) => {
                let all = all.into_iter().map(|fields| self::table(values(fields)));
                Item::ArrayOfTables(all.collect())
            }
        };
        table.insert(key, item);
    }
    table
}

fn row(fields: Vec<(&'static str, Field)>) -> InlineTable {
    let values = |fields: Vec<(&'static str, Value)>| {
        Value::InlineTable(fields.into_iter().collect::<InlineTable>())
    };
    let fields = fields.into_iter().map(|(key, field)| match field {
        Field::Value(value) => (key, value),
        Field::Table(fields) => (key, values(fields)),
        Field::Tables(all) => {
            let all: Array = all.into_iter().map(values).collect();
            (key, Value::Array(all))
        }
    });
    fields.collect()
}

/// The content of a document, independent of its style.
pub(super) fn meaning(item: &Item) -> serde_json::Value {
    if let Some(table) = item.as_table_like() {
        let keys = table.iter().filter(|(_, item)| is_written(item));
        return keys
            .map(|(key, item)| (key.to_owned(), meaning(item)))
            .collect();
    }
    match item {
        Item::ArrayOfTables(tables) => {
            let tables = tables
                .iter()
                .map(|table| meaning(&Item::Table(table.clone())));
            tables.collect()
        }
        Item::Value(Value::Array(array)) => {
            let values = array
                .iter()
                .map(|value| meaning(&Item::Value(value.clone())));
            values.collect()
        }
        Item::Value(Value::String(text)) => text.value().as_str().into(),
        Item::Value(value) => {
            let bare = value.clone().decorated("", "");
            format!("{} {bare}", value.type_name()).into()
        }
        Item::None | Item::Table(_) => serde_json::Value::Null,
    }
}

/// Whether an item is part of the text: an empty array of tables is not.
fn is_written(item: &Item) -> bool {
    match item {
        Item::None => false,
        Item::ArrayOfTables(tables) => !tables.is_empty(),
        Item::Value(_) | Item::Table(_) => true,
    }
}

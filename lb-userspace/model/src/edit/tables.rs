//! Arrays of tables: `[[vip]]`, `[[vip.backend]]`.

use toml_edit::{DocumentMut, Item, RawString, Table, Value};

use super::rows;

/// Position of a new VIP: at the end, where no other table follows that would become a part of it.
pub(super) const AT_THE_END: Option<isize> = Some(isize::MAX);

/// Removes the entry at a path of keys and indexes, with the comment directly above it.
pub(super) fn remove(document: &mut DocumentMut, path: &[(&str, usize)]) {
    let Some(((key, at), parents)) = path.split_last() else {
        return;
    };
    let mut item = Some(document.as_item_mut());
    for (key, at) in parents {
        item = item
            .and_then(|item| item.get_mut(*key))
            .and_then(|item| item.get_mut(*at));
    }
    let Some(parent) = item else { return };
    match parent.get_mut(*key) {
        Some(Item::Value(Value::Array(array))) if *at < array.len() => {
            rows::remove(array, *at);
            // So that the parser reports that there are no backends.
            if array.is_empty()
                && let Some(table) = parent.as_table_like_mut()
            {
                table.remove(key);
            }
        }
        Some(Item::ArrayOfTables(tables)) if *at < tables.len() => {
            let removed = tables.remove(*at);
            keep_comments(document, &removed);
        }
        _ => {}
    }
}

/// Moves comments above a blank line to the table that follows.
fn keep_comments(document: &mut DocumentMut, removed: &Table) {
    let above = removed.decor().prefix().and_then(RawString::as_str);
    let above = above.unwrap_or_default();
    let kept = above.rfind("\n\n").map_or("", |blank| &above[..=blank]);
    if kept.trim().is_empty() {
        return;
    }
    let position = removed.position();
    let next = position.and_then(|position| next_position(document.as_table(), position));
    if let Some(table) = next.and_then(|next| at_position(document.as_table_mut(), next)) {
        let own = table.decor().prefix().and_then(RawString::as_str);
        let text = format!("{kept}{}", own.unwrap_or("\n"));
        table.decor_mut().set_prefix(text);
    } else {
        let own = document.trailing().as_str().unwrap_or_default();
        let text = format!("{kept}{own}");
        document.set_trailing(text);
    }
}

/// The direct subtables of a table.
fn below(table: &Table) -> impl Iterator<Item = &Table> {
    fn tables(item: &Item) -> Box<dyn Iterator<Item = &Table> + '_> {
        match item {
            Item::Table(table) => Box::new(std::iter::once(table)),
            Item::ArrayOfTables(tables) => Box::new(tables.iter()),
            Item::Value(_) | Item::None => Box::new(std::iter::empty()),
        }
    }
    table.iter().flat_map(|(_, item)| tables(item))
}

/// The position of the first table in the text after this one.
fn next_position(table: &Table, after: isize) -> Option<isize> {
    let own = table
        .position()
        .filter(|position| *position > after && !table.is_implicit());
    below(table)
        .filter_map(|table| next_position(table, after))
        .chain(own)
        .min()
}

fn at_position(table: &mut Table, position: isize) -> Option<&mut Table> {
    if table.position() == Some(position) && !table.is_implicit() {
        return Some(table);
    }
    table.iter_mut().find_map(|(_, item)| match item {
        Item::Table(table) => at_position(table, position),
        Item::ArrayOfTables(tables) => tables
            .iter_mut()
            .find_map(|table| at_position(table, position)),
        Item::Value(_) | Item::None => None,
    })
}

//! The reference of the configuration, generated from its tables: the key tables of
//! `docs/configuration.md` and the JSON Schema `docs/evenkeel.schema.json`.

use serde_json::{Map, Value, json};

use super::{
    keys::{Absent, Key, Table},
    model::{
        TypedAlerts, TypedAnnounce, TypedAnnouncePeer, TypedApi, TypedBackend, TypedBound,
        TypedChangeSettings, TypedFleet, TypedGuard, TypedHealth, TypedLimit, TypedMetrics,
        TypedNode, TypedOverride, TypedScaling, TypedSkew, TypedSourceLimit, TypedSources,
        TypedVip, TypedVipAnnounce,
    },
};

/// A table of the file, with those below it.
struct Node {
    path: &'static str,
    is_array: bool,
    /// Whether the table must be there.
    is_required: bool,
    keys: fn() -> Vec<Key>,
    tables: &'static [Self],
}

const fn table<T: Table>() -> Node {
    Node {
        path: T::PATH,
        is_array: false,
        is_required: false,
        keys: T::keys,
        tables: &[],
    }
}

const fn array<T: Table>(tables: &'static [Node]) -> Node {
    Node {
        is_array: true,
        is_required: true,
        tables,
        ..table::<T>()
    }
}

const TABLES: &[Node] = &[
    table::<TypedNode>(),
    table::<TypedApi>(),
    table::<TypedChangeSettings>(),
    table::<TypedMetrics>(),
    table::<TypedAlerts>(),
    Node {
        // Only with `via = "bgp"`.
        tables: &[Node {
            is_required: false,
            ..array::<TypedAnnouncePeer>(&[])
        }],
        ..table::<TypedAnnounce>()
    },
    table::<TypedFleet>(),
    table::<TypedSources>(),
    array::<TypedVip>(&[
        table::<TypedHealth>(),
        table::<TypedGuard>(),
        Node {
            tables: &[table::<TypedSourceLimit>()],
            ..table::<TypedLimit>()
        },
        table::<TypedBound>(),
        table::<TypedScaling>(),
        table::<TypedSkew>(),
        table::<TypedVipAnnounce>(),
        // Not with `backends_from`.
        Node {
            is_required: false,
            ..array::<TypedBackend>(&[])
        },
        Node {
            is_required: false,
            ..array::<TypedOverride>(&[])
        },
    ]),
];

impl Node {
    fn heading(&self) -> String {
        match self.is_array {
            true => format!("`[[{}]]`", self.path),
            false => format!("`[{}]`", self.path),
        }
    }

    fn with_those_below(&self) -> Vec<&Self> {
        let below = self.tables.iter().flat_map(Self::with_those_below);
        std::iter::once(self).chain(below).collect()
    }

    fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }

    fn schema(&self) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for key in (self.keys)() {
            if matches!(key.absent, Absent::Error) {
                required.push(key.name);
            }
            properties.insert(key.name.to_owned(), key.schema());
        }
        for table in self.tables {
            properties.insert(table.name().to_owned(), table.schema());
            if table.is_required {
                required.push(table.name());
            }
        }
        let mut schema = json!({
            "type": "object",
            "additionalProperties": false,
            "required": required,
            "properties": properties,
        });
        if self.path == TypedNode::PATH {
            let one = |key: &str| json!({ "required": [key] });
            schema["oneOf"] = json!([one("hash_seed"), one("hash_seed_file")]);
        }
        match self.is_array {
            true => json!({ "type": "array", "minItems": 1, "items": schema }),
            false => schema,
        }
    }
}

impl Key {
    fn schema(&self) -> Value {
        let mut schema = match self.is_list {
            true => json!({ "type": "array", "items": self.reference.schema }),
            false => self.reference.schema.clone(),
        };
        schema["description"] = self.text.trim().into();
        if let Absent::Default(default) = &self.absent {
            schema["default"] = default.clone();
        }
        schema
    }

    /// The row of `docs/configuration.md`.
    fn row(&self) -> String {
        let default = match &self.absent {
            Absent::Error => "–".to_owned(),
            Absent::Default(value) => format!("`{value}`"),
            Absent::Described(text) => (*text).to_owned(),
        };
        let list = if self.is_list { "list of " } else { "" };
        let only = match self.only {
            [] => String::new(),
            kinds => format!("; only for `{}`", kinds.join("`, `")),
        };
        let values = format!("{list}{}{only}", self.reference.values);
        let (text, effect) = (self.text.trim(), self.effect.text());
        format!(
            "| `{}` | {default} | {values} | {effect} | {text} |",
            self.name
        )
    }
}

/// The JSON Schema (draft 2020-12) of the configuration file.
///
/// It knows types, words and bounds. Whether values fit together, only
/// [`parse_with`](super::parse_with) checks.
#[must_use]
pub fn schema() -> Value {
    let tables = TABLES
        .iter()
        .map(|table| (table.name().to_owned(), table.schema()));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Evenkeel configuration",
        "type": "object",
        "additionalProperties": false,
        "required": [TypedNode::PATH],
        "properties": tables.collect::<Map<_, _>>(),
    })
}

const TABLE_HEAD: &str =
    "| Key | Default | Values | Change | Description |\n| --- | --- | --- | --- | --- |\n";

/// The page `docs/configuration.md` with the tables of its keys made anew. In the page, each
/// section of a table has the table's header as its heading.
#[must_use]
pub fn with_key_tables(page: &str) -> String {
    let mut sections = page.split("\n## ");
    let first = sections.next().unwrap_or_default().to_owned();
    sections.fold(first, |page, section| {
        let mut nodes = TABLES.iter().flat_map(Node::with_those_below);
        let node = nodes.find(|node| section.starts_with(&node.heading()));
        let section = node.map_or_else(|| section.to_owned(), |node| with_table(section, node));
        format!("{page}\n## {section}")
    })
}

/// A section with its key table replaced; a new table goes below the first paragraph.
fn with_table(section: &str, node: &Node) -> String {
    let rows: Vec<_> = (node.keys)().iter().map(Key::row).collect();
    let table = format!("{TABLE_HEAD}{}", rows.join("\n"));
    let blocks = section.trim_end().split("\n\n");
    let is_table = |block: &&str| block.starts_with(TABLE_HEAD);
    let mut others: Vec<&str> = blocks.clone().filter(|block| !is_table(block)).collect();
    let at = blocks.clone().position(|block| is_table(&block));
    others.insert(at.unwrap_or(others.len().min(2)), &table);
    others.join("\n\n") + "\n"
}

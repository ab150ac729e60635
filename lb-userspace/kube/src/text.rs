//! The `[[vip]]` tables of a configuration: those that are ours are written, the others stay as they are.

use std::{collections::HashMap, net::IpAddr};

use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, TableLike, Value};

use crate::service::{Forward, Health};

/// A VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// Its name.
    pub name: String,
    /// The address that clients connect to.
    pub address: IpAddr,
    /// The port that clients connect to.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// How packets reach the backends.
    pub forward: Forward,
    /// Whether a backend is chosen by the client's address alone.
    pub by_source: bool,
    /// How backends are checked.
    pub health: Health,
}

/// The source of a VIP's backends. Pods and nodes are different sources, so that a VIP changes with its backends.
#[must_use]
pub fn source_name(vip: &str, forward: Forward) -> String {
    format!("{vip}.{}", forward.name())
}

impl Vip {
    /// The source of its backends.
    #[must_use]
    pub fn source(&self) -> String {
        source_name(&self.name, self.forward)
    }

    /// Sets the keys that are ours; returns whether that changes one. An operator may have added others, such as
    /// guards and overrides.
    fn write(&self, table: &mut Table) -> bool {
        let (kind, path, port) = match &self.health {
            Health::None => (None, None, None),
            Health::Tcp => (Some("tcp"), None, None),
            Health::Http(path, port) => (Some("http"), Some(path.as_str()), *port),
        };
        let address = self.address.to_string();
        let source = format!("api:{}", self.source());
        let mut is_changed = false;
        for (key, value) in [
            ("name", Some(self.name.as_str().into())),
            ("address", Some(address.into())),
            ("port", Some(i64::from(self.port).into())),
            ("protocol", Some(self.protocol.into())),
            ("forward", Some(self.forward.name().into())),
            ("affinity", self.by_source.then(|| "source".into())),
            ("backends_from", Some(source.into())),
        ] {
            is_changed |= put(table, key, value);
        }
        let Some(kind) = kind else {
            return table.remove("health").is_some() || is_changed;
        };
        let health = table.entry("health").or_insert(Item::Table(Table::new()));
        if let Some(health) = health.as_table_like_mut() {
            for (key, value) in [
                ("kind", Some(kind.into())),
                ("path", path.map(Value::from)),
                ("port", port.map(|port| i64::from(port).into())),
                // Kubernetes answers on the addresses of the node, not on the VIP.
                ("via", port.map(|_| "direct".into())),
            ] {
                is_changed |= put(health, key, value);
            }
        }
        is_changed
    }

    fn is_written(&self, table: &Table) -> bool {
        !self.write(&mut table.clone())
    }
}

/// Sets a key, or removes it; returns whether that changes it. One that has the value stays as it is written.
fn put(table: &mut dyn TableLike, key: &str, value: Option<Value>) -> bool {
    let Some(value) = value else {
        return table.remove(key).is_some();
    };
    let known = table.get(key).and_then(Item::as_value);
    let is_same = known.is_some_and(|known| match (known, &value) {
        (Value::String(known), Value::String(value)) => known.value() == value.value(),
        (Value::Integer(known), Value::Integer(value)) => known.value() == value.value(),
        _ => false,
    });
    if !is_same {
        table.insert(key, Item::Value(value));
    }
    !is_same
}

/// A configuration's VIPs.
#[derive(Clone, Debug)]
pub struct Tables {
    document: DocumentMut,
}

impl Tables {
    /// Reads a configuration, or a part of one that has VIPs.
    ///
    /// # Errors
    ///
    /// That the text is no TOML, and where.
    pub fn read(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(document) => Ok(Self { document }),
            Err(error) => Err(format!("cannot read the configuration: {error}")),
        }
    }

    fn tables(&self) -> impl Iterator<Item = &Table> {
        let tables = self.document.get("vip").and_then(Item::as_array_of_tables);
        tables.into_iter().flat_map(ArrayOfTables::iter)
    }

    /// What is needed to look VIPs up quickly.
    #[must_use]
    pub fn index(&self) -> Index<'_> {
        let mut index = Index::default();
        for table in self.tables() {
            let Some(name) = name(table) else { continue };
            index.by_name.insert(name, table);
            if let (Some(address), Some((prefix, _))) = (address(table), name.rsplit_once('.')) {
                let of_service = index.by_prefix.entry(prefix).or_default();
                of_service.push((name, address));
            }
        }
        index
    }

    /// Names and addresses of all VIPs.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        self.tables()
            .filter_map(|table| Some((name(table)?, address(table)?)))
    }

    /// Adds a VIP, or changes it.
    pub fn set(&mut self, vip: &Vip) {
        let item = self.document.entry("vip");
        let item = item.or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
        let Some(tables) = item.as_array_of_tables_mut() else {
            // `vip = []`
            *item = Item::ArrayOfTables(ArrayOfTables::new());
            return self.set(vip);
        };
        let place = (tables.iter()).position(|table| name(table) == Some(&vip.name));
        if let Some(table) = place.and_then(|place| tables.get_mut(place)) {
            vip.write(table);
            return;
        }
        let mut table = Table::new();
        vip.write(&mut table);
        tables.push(table);
    }

    /// Removes a VIP.
    pub fn remove(&mut self, vip: &str) {
        if let Some(tables) = (self.document.get_mut("vip")).and_then(Item::as_array_of_tables_mut)
        {
            tables.retain(|table| name(table) != Some(vip));
        }
    }

    /// The configuration.
    #[must_use]
    pub fn text(&self) -> String {
        self.document.to_string()
    }
}

/// VIPs by name, and by what their names have before the last dot: those of a Service.
#[derive(Default)]
pub struct Index<'a> {
    by_name: HashMap<&'a str, &'a Table>,
    by_prefix: HashMap<&'a str, Vec<(&'a str, IpAddr)>>,
}

impl<'a> Index<'a> {
    /// Whether a VIP is there, as it is.
    #[must_use]
    pub fn has(&self, vip: &Vip) -> bool {
        let table = self.by_name.get(vip.name.as_str());
        table.is_some_and(|table| vip.is_written(table))
    }

    /// Whether a VIP with this name is there.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Names and addresses of the VIPs with this prefix.
    #[must_use]
    pub fn of(&self, prefix: &str) -> &[(&'a str, IpAddr)] {
        self.by_prefix.get(prefix).map_or(&[], Vec::as_slice)
    }
}

fn address(table: &Table) -> Option<IpAddr> {
    table.get("address")?.as_str()?.parse().ok()
}

fn name(table: &Table) -> Option<&str> {
    table.get("name")?.as_str()
}

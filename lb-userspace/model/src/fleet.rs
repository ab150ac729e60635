//! A node's configuration in two parts: what the fleet decides (the `[[vip]]` tables, with everything
//! below them) and what the node decides (all other tables).
//!
//! The text of the fleet is kept byte by byte, so that a digest of it is the same on all nodes:
//! [`compose`] puts a line between the parts, and [`fleet_part`] returns what stands below that line.

use toml_edit::{DocumentMut, Item, TomlError};

use crate::secrets;

#[cfg(test)]
mod tests;

/// The key of the tables that the fleet decides.
const VIP: &str = "vip";

/// The line above the text of the fleet, as the file has it.
const SEAM: &str =
    "# The tables below come from the fleet: change them with `evenkeel fleet apply`.";

/// Why a text can't be divided into its parts or put together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FleetTextError {
    /// A text is not TOML.
    #[error("invalid TOML: {message}")]
    NotToml {
        /// The parser's message, with the place.
        message: String,
    },
    /// The text of the fleet has other tables.
    #[error(
        "`{key}` is decided by each node, not by the fleet: remove it, only `[[vip]]` tables are allowed"
    )]
    Foreign {
        /// The key or table.
        key: String,
    },
    /// VIPs are not `[[vip]]` tables.
    #[error("`vip` must be written as `[[vip]]` tables, not as a value")]
    NotTables,
    /// There is nothing for the fleet.
    #[error("the text has no [[vip]] table: a fleet has at least one VIP")]
    NoVips,
    /// All nodes and etcd would have a secret, which is masked everywhere else.
    #[error(
        "the text has a secret in line {line}: remove it, also from comments, because etcd and all nodes \
         would store it (24 hexadecimal digits in a row count as a secret)"
    )]
    Secret {
        /// Number of its line; the first is 1.
        line: usize,
    },
}

impl From<TomlError> for FleetTextError {
    fn from(error: TomlError) -> Self {
        // It quotes the line.
        let message = secrets::star(&error.to_string());
        Self::NotToml { message }
    }
}

/// Checks that a text has nothing but `[[vip]]` tables. Whether these are valid, only the node that
/// parses the composed text knows.
///
/// # Errors
///
/// [`FleetTextError`]
pub fn check(fleet: &str) -> Result<(), FleetTextError> {
    let document: DocumentMut = fleet.parse()?;
    for (key, item) in document.iter() {
        if key != VIP {
            let key = key.to_owned();
            return Err(FleetTextError::Foreign { key });
        }
        if !item.is_array_of_tables() {
            return Err(FleetTextError::NotTables);
        }
    }
    Ok(())
}

/// The configuration of a node: the tables of `local` without its VIPs, and below them the text of the
/// fleet. `fleet_part` of it is `fleet`, byte by byte.
///
/// # Errors
///
/// [`FleetTextError`]
pub fn compose(local: &str, fleet: &str) -> Result<String, FleetTextError> {
    check(fleet)?;
    let mut text = local_part(local)?;
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(format!("{text}{SEAM}\n{fleet}"))
}

/// The VIPs of a configuration, as text.
///
/// # Errors
///
/// The text is not TOML.
pub fn fleet_part(text: &str) -> Result<String, FleetTextError> {
    if let Some((_, fleet)) = divided(text) {
        return Ok(fleet.to_owned());
    }
    let mut document: DocumentMut = text.parse()?;
    let others: Vec<String> = other_keys(&document);
    if others.is_empty() && check(text).is_ok() {
        return Ok(text.to_owned());
    }
    for key in others {
        document.remove(&key);
    }
    if document.get(VIP).is_some_and(Item::is_value)
        && let Some(item) = document.remove(VIP)
        && let Ok(tables) = item.into_array_of_tables()
    {
        // With a key of its own: that of a value has the spaces around `=`.
        document.insert(VIP, Item::ArrayOfTables(tables));
    }
    Ok(document
        .to_string()
        .trim_start_matches(['\r', '\n'])
        .to_owned())
}

/// The configuration without its VIPs.
///
/// # Errors
///
/// The text is not TOML.
pub fn local_part(text: &str) -> Result<String, FleetTextError> {
    if let Some((local, _)) = divided(text) {
        return Ok(local.to_owned());
    }
    let mut document: DocumentMut = text.parse()?;
    if document.get(VIP).is_none() {
        return Ok(text.to_owned());
    }
    document.remove(VIP);
    Ok(document.to_string())
}

/// The VIPs of a configuration, for all nodes of a fleet: [`fleet_part`], if that has VIPs and no secret.
///
/// # Errors
///
/// [`FleetTextError`]
pub fn shared_part(text: &str) -> Result<String, FleetTextError> {
    let part = fleet_part(text)?;
    if !part.parse::<DocumentMut>()?.contains_key(VIP) {
        return Err(FleetTextError::NoVips);
    }
    let masked = secrets::mask(&part);
    if masked != part {
        let mut pairs = part.lines().zip(masked.lines());
        let (secret, _) = pairs.find(|(a, b)| a != b).unwrap_or_default();
        let line = text.lines().position(|line| line == secret).unwrap_or(0) + 1;
        return Err(FleetTextError::Secret { line });
    }
    Ok(part)
}

fn other_keys(document: &DocumentMut) -> Vec<String> {
    let keys = document.iter().map(|(key, _)| key.to_owned());
    keys.filter(|key| key != VIP).collect()
}

/// What stands above and below the first [`SEAM`], if the VIPs are below it and all others above: the
/// text may have been edited since it was composed.
fn divided(text: &str) -> Option<(&str, &str)> {
    let mut start = 0;
    let below = text.split_inclusive('\n').find_map(|line| {
        let end = start + line.len();
        let found = (line.trim_end_matches(['\r', '\n']) == SEAM).then_some(start..end);
        start = end;
        found
    })?;
    let (local, fleet) = (&text[..below.start], &text[below.end..]);
    let is_local = local
        .parse::<DocumentMut>()
        .is_ok_and(|document| !document.contains_key(VIP));
    (is_local && check(fleet).is_ok()).then_some((local, fleet))
}

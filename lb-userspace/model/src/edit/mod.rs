//! Edits the text of a configuration: adds, removes, drains and reweights backends and VIPs.
//!
//! The text is the source of the configuration, so a command such as `backend drain` edits it like a
//! person, and the result is parsed, planned, checked by the guards and stored as a revision.
//! Comments, order, spacing and line ends (Windows' too) stay. Backends may be tables
//! (`[[vip.backend]]`) or inline tables (`backend = [{ … }]`).
//!
//! When an entry is removed, the comments directly above and behind it are removed too; a comment
//! above a blank line stays.

mod lines;
mod overrides;
mod places;
mod rows;
mod tables;
#[cfg(test)]
mod tests;

use toml_edit::{DocumentMut, Item, Value};

use crate::config::distance;
pub use lb_api::{BackendSpec, Edit, VipSpec, WantedState};
use places::{Collection, Entry, Field};

/// Why an edit failed. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The text is not TOML.
    #[error("can't edit the running configuration, it is not valid TOML: {message}")]
    NotToml {
        /// The parser's message.
        message: String,
    },
    /// There is no such VIP.
    #[error("there is no VIP \"{vip}\"{hint}")]
    NoVip {
        /// The name.
        vip: String,
        /// The existing names, or the one that was probably meant.
        hint: String,
    },
    /// The VIP has no such backend.
    #[error("VIP \"{vip}\" has no backend \"{backend}\"{hint}")]
    NoBackend {
        /// Name of the VIP.
        vip: String,
        /// The name.
        backend: String,
        /// The existing names, or the one that was probably meant.
        hint: String,
    },
    /// No VIP has such a backend.
    #[error("no VIP has a backend \"{backend}\"{hint}")]
    NoBackendAnywhere {
        /// The name.
        backend: String,
        /// The existing names, or the one that was probably meant.
        hint: String,
    },
    /// The VIP exists.
    #[error("VIP \"{vip}\" already exists; remove it first, or use another name")]
    VipExists {
        /// The name.
        vip: String,
    },
    /// The backend exists.
    #[error(
        "VIP \"{vip}\" already has a backend \"{backend}\"; change its weight or state, or use \
         another name"
    )]
    BackendExists {
        /// Name of the VIP.
        vip: String,
        /// The name.
        backend: String,
    },
    /// The backends of the VIP come from a source.
    #[error(
        "the backends of VIP \"{vip}\" come from {source_name}: change what it names, or replace `backends_from` \
         in the configuration"
    )]
    Sourced {
        /// Name of the VIP.
        vip: String,
        /// Its source.
        source_name: String,
    },
    /// The layout of the text does not allow the edit.
    #[error("can't edit the configuration: {what}; edit the file and apply it instead")]
    Odd {
        /// The reason.
        what: String,
    },
}

/// Applies edits in order, all or none. The result is not checked: parse it.
///
/// # Errors
///
/// [`EditError`]
pub fn apply(text: &str, edits: &[Edit]) -> Result<String, EditError> {
    let plain = lines::with_newlines(text);
    let mut document: DocumentMut = plain.parse().map_err(|error: toml_edit::TomlError| {
        let message = error.message().to_owned();
        EditError::NotToml { message }
    })?;
    for edit in edits {
        make(&mut document, edit)?;
    }
    let edited = document.to_string();
    check(&document, &edited)?;
    Ok(lines::with_line_ends_of(text, &plain, &edited))
}

/// Checks that the written text reads back as the edited document: in TOML the order of tables matters.
fn check(meant: &DocumentMut, written: &str) -> Result<(), EditError> {
    let read = written.parse::<DocumentMut>();
    if read.is_ok_and(|read| places::meaning(read.as_item()) == places::meaning(meant.as_item())) {
        return Ok(());
    }
    let what = "the order of its tables does not allow this edit";
    Err(EditError::Odd {
        what: what.to_owned(),
    })
}

fn make(document: &mut DocumentMut, edit: &Edit) -> Result<(), EditError> {
    match edit {
        Edit::AddVip { vip } => add_vip(document, vip),
        Edit::RemoveVip { vip } => {
            let at = vips(document)?
                .find(vip)
                .ok_or_else(|| no_vip(document, vip))?;
            tables::remove(document, &[(VIP, at)]);
            Ok(())
        }
        Edit::AddBackend { vip, backend } => {
            overrides::check_listed(document, vip)?;
            add_backend(document, vip, backend)
        }
        Edit::RemoveBackend { vip, backend } => {
            overrides::check_listed(document, vip)?;
            let (vip_at, at) = find_backend(document, vip, backend)?;
            tables::remove(document, &[(VIP, vip_at), (BACKEND, at)]);
            Ok(())
        }
        Edit::SetState {
            vip: Some(vip),
            backend,
            state,
        } => {
            if let Some(at) = overrides::sourced(document, vip)? {
                return overrides::set_state(document, at, backend, *state);
            }
            let at = find_backend(document, vip, backend)?;
            set_state(document, at, *state)
        }
        Edit::SetState {
            vip: None,
            backend,
            state,
        } => set_state_everywhere(document, backend, *state),
        Edit::SetWeight {
            vip,
            backend,
            weight,
        } => {
            let value = i64::from(*weight);
            if let Some(at) = overrides::sourced(document, vip)? {
                return overrides::set(document, at, backend, ("weight", value.into()));
            }
            let at = find_backend(document, vip, backend)?;
            backend_at(document, at)?.set("weight", value.into());
            Ok(())
        }
    }
}

const VIP: &str = "vip";
const BACKEND: &str = "backend";

fn vips(document: &mut DocumentMut) -> Result<Collection<'_>, EditError> {
    Entry::Table(document.as_table_mut()).into_collection(VIP)
}

/// The backends of the VIP at this index.
fn backends(document: &mut DocumentMut, vip: usize) -> Result<Collection<'_>, EditError> {
    let vip = vips(document)?.into_entry(vip).ok_or_else(places::moved)?;
    vip.into_collection(BACKEND)
}

fn find_backend(
    document: &mut DocumentMut,
    vip: &str,
    backend: &str,
) -> Result<(usize, usize), EditError> {
    let at = vips(document)?
        .find(vip)
        .ok_or_else(|| no_vip(document, vip))?;
    let backends = backends(document, at)?;
    match backends.find(backend) {
        Some(found) => Ok((at, found)),
        None => Err(EditError::NoBackend {
            vip: vip.to_owned(),
            backend: backend.to_owned(),
            hint: hint(backend, &backends.names()),
        }),
    }
}

fn backend_at(
    document: &mut DocumentMut,
    (vip, backend): (usize, usize),
) -> Result<Entry<'_>, EditError> {
    let entry = backends(document, vip)?.into_entry(backend);
    entry.ok_or_else(places::moved)
}

fn no_vip(document: &mut DocumentMut, vip: &str) -> EditError {
    let names = vips(document).map_or(Vec::new(), |vips| vips.names());
    EditError::NoVip {
        vip: vip.to_owned(),
        hint: hint(vip, &names),
    }
}

/// The end of a message about a name that does not exist: the name that was probably meant, or the
/// existing ones.
#[must_use]
pub fn hint(typed: &str, names: &[String]) -> String {
    const SHOWN: usize = 8;
    let nearest = names.iter().min_by_key(|name| distance(name, typed));
    match nearest {
        None => "; there are none".to_owned(),
        Some(name) if distance(name, typed) <= 1 + typed.len() / 4 => {
            format!("; did you mean \"{name}\"?")
        }
        Some(_) => {
            let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
            names.sort_unstable();
            names.dedup();
            let more = if names.len() > SHOWN { ", …" } else { "" };
            names.truncate(SHOWN);
            format!("; there are {}{more}", names.join(", "))
        }
    }
}

fn add_vip(document: &mut DocumentMut, spec: &VipSpec) -> Result<(), EditError> {
    let mut vips = vips(document)?;
    if vips.find(&spec.name).is_some() {
        return Err(EditError::VipExists {
            vip: spec.name.clone(),
        });
    }
    let VipSpec {
        name,
        address,
        port,
        protocol,
        forward,
        health,
        backends,
    } = spec;
    let mut fields: Vec<(&str, Field)> = vec![
        ("name", text(name)),
        ("address", text(&address.to_string())),
        ("port", number(*port)),
        ("protocol", text(protocol)),
        ("forward", text(forward)),
    ];
    if let Some(kind) = health {
        fields.push(("health", Field::Table(vec![("kind", kind.into())])));
    }
    let backends = backends.iter().map(backend_fields).collect();
    fields.push((BACKEND, Field::Tables(backends)));
    vips.add(fields, tables::AT_THE_END);
    Ok(())
}

fn add_backend(document: &mut DocumentMut, vip: &str, spec: &BackendSpec) -> Result<(), EditError> {
    let at = vips(document)?
        .find(vip)
        .ok_or_else(|| no_vip(document, vip))?;
    let mut backends = backends(document, at)?;
    if backends.find(&spec.name).is_some() {
        return Err(EditError::BackendExists {
            vip: vip.to_owned(),
            backend: spec.name.clone(),
        });
    }
    let fields = backend_fields(spec).into_iter();
    let fields = fields.map(|(key, value)| (key, Field::Value(value)));
    backends.add(fields.collect(), None);
    Ok(())
}

fn text(text: &str) -> Field {
    Field::Value(text.into())
}

fn number(number: impl Into<i64>) -> Field {
    Field::Value(number.into().into())
}

fn backend_fields(spec: &BackendSpec) -> Vec<(&'static str, Value)> {
    let BackendSpec {
        name,
        address,
        port,
        weight,
        capacity,
    } = spec;
    let mut fields = vec![
        ("name", name.into()),
        ("address", address.to_string().into()),
    ];
    let optional = [
        ("port", port.map(i64::from)),
        ("weight", weight.map(i64::from)),
        ("capacity", capacity.map(i64::from)),
    ];
    fields.extend(
        optional
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?.into()))),
    );
    fields
}

fn set_state(
    document: &mut DocumentMut,
    at: (usize, usize),
    state: WantedState,
) -> Result<(), EditError> {
    let mut backend = backend_at(document, at)?;
    let state = state.as_str();
    let has = backend.get("state").and_then(Item::as_str);
    let is_default = state == WantedState::Up.as_str();
    // The default is not written, so that undraining restores the text from before the drain.
    let is_done = has == Some(state) || is_default && backend.remove("state");
    if !is_done {
        backend.set("state", state.into());
    }
    Ok(())
}

fn set_state_everywhere(
    document: &mut DocumentMut,
    backend: &str,
    state: WantedState,
) -> Result<(), EditError> {
    let (mut found, mut names) = (Vec::new(), Vec::new());
    for vip in 0..vips(document)?.len() {
        let backends = backends(document, vip)?;
        found.extend(backends.find(backend).map(|at| (vip, at)));
        names.extend(backends.names());
    }
    if found.is_empty() {
        return Err(EditError::NoBackendAnywhere {
            backend: backend.to_owned(),
            hint: hint(backend, &names),
        });
    }
    found
        .into_iter()
        .try_for_each(|at| set_state(document, at, state))
}

//! Edits of VIPs whose backends come from a source: they are not in the text, but `[[vip.override]]` can
//! set their state and weight.

use toml_edit::{DocumentMut, Item, Value};

use super::{
    EditError, Field, VIP, WantedState, no_vip,
    places::{self, Collection, Entry},
    tables, vips,
};

const OVERRIDE: &str = "override";

fn vip(document: &mut DocumentMut, at: usize) -> Result<Entry<'_>, EditError> {
    vips(document)?.into_entry(at).ok_or_else(places::moved)
}

fn overrides(document: &mut DocumentMut, at: usize) -> Result<Collection<'_>, EditError> {
    vip(document, at)?.into_collection(OVERRIDE)
}

/// The index of a VIP, if its backends come from a source.
pub(super) fn sourced(document: &mut DocumentMut, name: &str) -> Result<Option<usize>, EditError> {
    let Some(at) = vips(document)?.find(name) else {
        return Err(no_vip(document, name));
    };
    let is_sourced = vip(document, at)?.get("backends_from").is_some();
    Ok(is_sourced.then_some(at))
}

/// Fails for a VIP whose backends come from a source.
pub(super) fn check_listed(document: &mut DocumentMut, name: &str) -> Result<(), EditError> {
    let Some(at) = sourced(document, name)? else {
        return Ok(());
    };
    let entry = vip(document, at)?;
    let source = entry.get("backends_from").and_then(Item::as_str);
    Err(EditError::Sourced {
        vip: name.to_owned(),
        source_name: source.unwrap_or("a source").to_owned(),
    })
}

/// Sets a key of the override of a backend, and adds that if there is none.
pub(super) fn set(
    document: &mut DocumentMut,
    at: usize,
    backend: &str,
    (key, value): (&'static str, Value),
) -> Result<(), EditError> {
    let mut all = overrides(document, at)?;
    match all.find(backend) {
        Some(found) => {
            let entry = all.into_entry(found).ok_or_else(places::moved)?;
            entry.set(key, value);
        }
        None => {
            let fields = vec![
                ("name", Field::Value(backend.into())),
                (key, Field::Value(value)),
            ];
            all.add(fields, None);
        }
    }
    Ok(())
}

/// Sets the state of a backend. To enable it removes the override: the source decides again.
pub(super) fn set_state(
    document: &mut DocumentMut,
    at: usize,
    backend: &str,
    state: WantedState,
) -> Result<(), EditError> {
    if state != WantedState::Up {
        return set(document, at, backend, ("state", state.as_str().into()));
    }
    // An empty list must not come into the text.
    if vip(document, at)?.get(OVERRIDE).is_none() {
        return Ok(());
    }
    let all = overrides(document, at)?;
    let Some(found) = all.find(backend) else {
        return Ok(());
    };
    let mut entry = all.into_entry(found).ok_or_else(places::moved)?;
    if !entry.remove("state") {
        // Its comment stays, with a value that means the same.
        entry.set("state", WantedState::Up.as_str().into());
    } else if entry.get("weight").is_none() {
        tables::remove(document, &[(VIP, at), (OVERRIDE, found)]);
    }
    Ok(())
}

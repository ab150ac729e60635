//! The metrics of sources of members, by VIP.

use super::{Snapshot, family::*, page::Page, render::flag};
use crate::node::SourceState;

/// Renders nothing for a node whose configuration lists all backends.
pub(super) fn families(page: &mut Page, snapshot: &Snapshot) {
    let state = &snapshot.state;
    let sources = state.sources.iter().flat_map(|source| {
        let vips = source.vips.iter();
        vips.map(move |vip| (source, source.source.to_string(), vip))
    });
    let rows: Vec<(&SourceState, String, &String)> = sources.collect();
    let mut family = |family, value: &dyn Fn(&SourceState) -> Option<f64>| {
        page.family(family, |s| {
            for (source, name, vip) in &rows {
                if let Some(value) = value(source) {
                    s.add(&[name, vip], value);
                }
            }
        });
    };
    family(SOURCE_UP, &|it| Some(flag(it.error.is_none())));
    family(SOURCE_MEMBERS, &|it| {
        let staying = it.members.iter().filter(|known| !known.is_leaving());
        Some(staying.count() as f64)
    });
    family(SOURCE_AGE, &|it| {
        let age = state.at.duration_since(it.answered_at?);
        Some(age.as_secs_f64().max(0.0))
    });
    family(SOURCE_FAILED, &|it| Some(it.failed as f64));
    family(SOURCE_REFUSED, &|it| Some(it.refused as f64));
}

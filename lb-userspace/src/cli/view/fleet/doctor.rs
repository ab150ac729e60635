//! What `fleet doctor` found.

use lb_api::FleetDoctor;

use crate::cli::view::{
    View,
    paint::Tone,
    table::{Cell, Side, Table},
};

/// Endpoints and checks.
pub(in crate::cli) fn doctor(view: View, found: &FleetDoctor) -> String {
    use Side::{Left, Right};
    let mut table = Table::new(&[
        (Left, "endpoint"),
        (Left, "state"),
        (Left, "version"),
        (Right, "answered in"),
        (Right, "database"),
    ]);
    for endpoint in &found.endpoints {
        let state = match (&endpoint.error, endpoint.has_quorum) {
            (Some(_), true) => Cell::toned(Tone::Bad, "alarm"),
            (Some(_), false) => Cell::toned(Tone::Bad, "no answer"),
            (None, true) => Cell::toned(Tone::Good, "ok"),
            (None, false) => Cell::toned(Tone::Bad, "no quorum"),
        };
        let latency = endpoint.latency_ms.map(|ms| format!("{ms:.1} ms"));
        let size = endpoint
            .db_bytes
            .map(|bytes| format!("{} KiB", bytes / 1024));
        table.row([
            endpoint.endpoint.as_str().into(),
            state,
            endpoint.version.as_deref().unwrap_or("–").into(),
            latency.as_deref().unwrap_or("–").into(),
            size.as_deref().unwrap_or("–").into(),
        ]);
        if let Some(error) = &endpoint.error {
            table.note(error.as_str());
        }
    }
    let checks = found.checks.iter();
    let checks = Table::of_checks(checks.map(|it| (it.ok, &*it.name, &*it.text)));
    format!("{}\n{}", table.draw(view), checks.draw(view))
}

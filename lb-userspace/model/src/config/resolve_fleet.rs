//! Checks whether the values of `[fleet]` fit together.

use super::{
    keys::Table as _,
    model::{Fleet, TypedFleet},
    problem::{Problem, Problems},
    resolve::Unique,
};

/// The fleet of the file; `None` when a required key is absent or wrong.
pub(super) fn resolve_fleet(typed: &TypedFleet, problems: &Problems) -> Option<Fleet> {
    if let Some(endpoints) = &typed.endpoints {
        let mut unique = Unique::new(problems);
        for endpoint in endpoints.get_ref() {
            let url = endpoint.get_ref();
            let title = format!("duplicate endpoint \"{url}\" in `fleet.endpoints`");
            unique.add(url, endpoint.span(), &title, "remove one of them");
        }
        if endpoints.get_ref().is_empty() && typed.has("endpoints") {
            let title = "`fleet.endpoints` is empty";
            let help = "the client URLs of etcd: `endpoints = [\"https://10.0.0.1:2379\"]`";
            problems.add(Problem::new(endpoints.span(), title, "no endpoints", help));
        }
    }
    if let Some(exchange) = &typed.exchange
        && (exchange.get_ref().ip().is_unspecified() || exchange.get_ref().port() == 0)
    {
        let title = format!(
            "other nodes can't reach \"{}\" in `fleet.exchange`",
            exchange.get_ref()
        );
        let help = "an address of this node, and a port: `exchange = \"10.0.0.1:7946\"`";
        problems.add(Problem::new(
            exchange.span(),
            title,
            "not one address",
            help,
        ));
    }
    typed.resolve()
}

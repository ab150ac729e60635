//! Conditions about sources of members.

use jiff::Timestamp;

use super::{Condition, Severity};
use crate::node::{NodeState, SourceState};

/// Sources that have failed for so long that their last answer may be wrong by now: one alert per VIP.
pub(super) fn failing(state: &NodeState) -> impl Iterator<Item = Condition> {
    let failing = state.sources.iter().filter(|source| source.is_failing);
    failing.flat_map(|source| {
        let vips = source.vips.iter();
        vips.map(|vip| condition(source, vip, state.at))
    })
}

fn condition(source: &SourceState, vip: &str, now: Timestamp) -> Condition {
    let name = &source.source;
    let why = source.error.as_deref().unwrap_or("no answer");
    let age = source
        .answered_at
        .map(|at| now.duration_since(at).as_secs());
    let since = match age {
        Some(seconds) => format!("no answer for {seconds} s"),
        None => "no answer yet".to_owned(),
    };
    let summary = format!("{vip}: source {name} has {since}: {why}");
    let staying = source.members.iter().filter(|known| !known.is_leaving());
    let cause = match staying.count() {
        0 => format!(
            "the VIP has no backends: make the source answer (`evenkeel source show {name}`), or replace \
             `backends_from`"
        ),
        count => format!(
            "the {count} backends of its last answer stay; backends that have come or gone since then are not \
             known. Check the name and the DNS servers: `evenkeel source show {name}`"
        ),
    };
    let key = format!("source_failing:{vip}");
    let condition = Condition::new(key, "source_failing", Severity::Warning, summary);
    condition.vip(vip).cause(cause)
}

#[cfg(test)]
mod tests {
    use lb_model::membership::Families;

    use super::*;

    #[test]
    fn each_vip_of_a_failing_source_has_an_alert() {
        let at = Timestamp::from_second(1_000).unwrap();
        let source = SourceState {
            source: "dns:web.example".parse().unwrap(),
            families: Families::V4,
            vips: vec!["a".to_owned(), "b".to_owned()],
            members: Vec::new(),
            answered_at: Timestamp::from_second(940).ok(),
            failures: 3,
            error: Some("web.example: no such name (NXDOMAIN)".to_owned()),
            is_failing: true,
            held: None,
            failed: 3,
            refused: 0,
        };
        let well = SourceState {
            is_failing: false,
            ..source.clone()
        };
        let state = NodeState {
            sources: vec![source, well],
            ..NodeState::empty(at)
        };
        let conditions: Vec<Condition> = failing(&state).collect();
        let keys: Vec<&str> = conditions.iter().map(|it| &*it.key).collect();
        assert_eq!(keys, ["source_failing:a", "source_failing:b"]);
        let expected = "a: source dns:web.example has no answer for 60 s: web.example: no such name (NXDOMAIN)";
        assert_eq!(conditions[0].summary, expected);
    }
}

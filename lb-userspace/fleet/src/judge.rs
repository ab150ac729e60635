//! The comparison of the changed nodes with the rest, in the same seconds.
//!
//! Events (resets, dropped packets) of two groups with `n1` and `n2` offered flows are compared by the
//! conditional test of two Poisson rates (J. Przyborowski and H. Wilenski, "Homogeneity of results in
//! testing samples from Poisson series", Biometrika 31, 1940): if the rate of the changed nodes is `r`
//! times that of the rest, the events of the changed nodes are binomial with `p = r·n1 / (r·n1 + n2)`.
//! We ask for more than [`RATIO`] times the rate, because nodes differ a little without any change, and
//! for an absolute excess, because a rare event means little.

use lb_api::{FleetVerdict, FleetVerdictKind};

use crate::records::Seen;

/// Offered flows that each side must have for a comparison.
const ENOUGH: u64 = 100;

/// A rate of up to this many times that of the rest is no finding.
const RATIO: f64 = 1.5;

/// Probability of a finding by chance, per comparison.
const CHANCE: f64 = 1e-6;

/// Events above those of the rest, per offered flow, that are a finding at least.
const EXCESS: f64 = 0.005;

/// A sum over nodes.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    resets: u64,
    drops: u64,
    offered: u64,
}

impl Sum {
    fn of(nodes: &[Seen]) -> Self {
        let mut sum = Self::default();
        for seen in nodes {
            sum.resets += seen.resets;
            sum.drops += seen.drops;
            // A node that drops everything has no new flows.
            sum.offered += seen.new_flows + seen.drops;
        }
        sum
    }
}

/// Judges a wave.
///
/// `wave` are the nodes of the wave, `before` those of the waves before, `rest` the unchanged ones. The
/// last wave is compared with the nodes before it.
pub(crate) fn judge(wave: &[Seen], before: &[Seen], rest: &[Seen]) -> FleetVerdict {
    let verdict = |kind, detail: String| FleetVerdict { kind, detail };
    if wave.is_empty() {
        let detail = "no counters of the wave: its controllers were restarted";
        return verdict(FleetVerdictKind::Unseen, detail.to_owned());
    }
    // In the last wave, there are no unchanged nodes.
    let (before, rest) = match rest.is_empty() {
        true => (&[][..], before),
        false => (before, rest),
    };
    if rest.is_empty() {
        let detail = "no other nodes to compare with; the trial of each node passed".to_owned();
        return verdict(FleetVerdictKind::Alone, detail);
    }
    let down = |nodes: &[Seen]| nodes.iter().map(|seen| seen.more_down).collect::<Vec<_>>();
    let worst_rest = down(rest).into_iter().max().unwrap_or(0).max(0);
    if let Some(least) = down(wave).into_iter().min()
        && least > worst_rest
    {
        let detail = format!(
            "{least} more backends are down on the changed nodes, {worst_rest} on the rest"
        );
        return verdict(FleetVerdictKind::Failed, detail);
    }
    let changed: Vec<Seen> = wave.iter().chain(before).copied().collect();
    let (changed, rest) = (Sum::of(&changed), Sum::of(rest));
    let flows = format!("{} new flows, rest {}", changed.offered, rest.offered);
    if changed.offered < ENOUGH || rest.offered < ENOUGH {
        let detail = format!("too little traffic to compare: {flows}");
        return verdict(FleetVerdictKind::Unseen, detail);
    }
    for (name, events, others) in [
        ("resets", changed.resets, rest.resets),
        ("dropped packets", changed.drops, rest.drops),
    ] {
        if is_worse(events, changed.offered, others, rest.offered) {
            let rate = |events, of| 100.0 * count(events) / count(of);
            let detail = format!(
                "{name}: {:.1} per 100 new flows on the changed nodes, {:.1} on the rest ({flows})",
                rate(events, changed.offered),
                rate(others, rest.offered)
            );
            return verdict(FleetVerdictKind::Failed, detail);
        }
    }
    let detail = format!(
        "{flows}; resets {} and {}, dropped packets {} and {}",
        changed.resets, rest.resets, changed.drops, rest.drops
    );
    verdict(FleetVerdictKind::Passed, detail)
}

fn is_worse(events: u64, offered: u64, others: u64, others_offered: u64) -> bool {
    let (n1, n2) = (count(offered), count(others_offered));
    let excess = count(events) / n1 - count(others) / n2;
    let p = RATIO * n1 / (RATIO * n1 + n2);
    excess > EXCESS && binomial_tail_is_below(events, events + others, p, CHANCE)
}

/// Whether `P(X >= k)` is below `limit` for `X` binomial with `n` and `p`.
///
/// By the bound of Chernoff and Hoeffding, `P(X >= k) <= exp(-n·KL(k/n ‖ p))`: a little stricter than the
/// exact tail, and without sums over millions of events.
fn binomial_tail_is_below(k: u64, n: u64, p: f64, limit: f64) -> bool {
    if n == 0 {
        return false;
    }
    let share = count(k) / count(n);
    if share <= p {
        return false;
    }
    let term = |a: f64, b: f64| if a > 0.0 { a * (a / b).ln() } else { 0.0 };
    let divergence = term(share, p) + term(1.0 - share, 1.0 - p);
    -count(n) * divergence < limit.ln()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a few minutes are far below 2^53"
)]
fn count(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(new_flows: u64, resets: u64, drops: u64) -> Seen {
        Seen {
            new_flows,
            resets,
            drops,
            more_down: 0,
        }
    }

    fn kind(wave: &[Seen], rest: &[Seen]) -> FleetVerdictKind {
        judge(wave, &[], rest).kind
    }

    #[test]
    fn a_canary_is_compared_with_the_rest() {
        use FleetVerdictKind::{Alone, Failed, Passed, Unseen};
        let rest = [seen(10_000, 50, 0), seen(9_000, 40, 2)];
        for (canary, expected) in [
            (seen(10_000, 55, 0), Passed),
            // Significant, but less than 0.5 per 100 more.
            (seen(10_000, 90, 0), Passed),
            (seen(10_000, 300, 0), Failed),
            (seen(10_000, 50, 400), Failed),
            // A node that drops all: no new flows.
            (seen(0, 0, 5_000), Failed),
            (seen(20, 20, 0), Unseen),
            // Few flows, few events: no proof.
            (seen(150, 4, 0), Passed),
        ] {
            assert_eq!(kind(&[canary], &rest), expected, "{canary:?}");
        }
        assert_eq!(kind(&[seen(10_000, 0, 0)], &[]), Alone);
        assert_eq!(kind(&[seen(10_000, 0, 0)], &[seen(5, 0, 0)]), Unseen);
    }

    #[test]
    fn backends_that_are_down_on_all_nodes_are_not_the_change() {
        let down = |more_down| Seen {
            more_down,
            ..seen(1_000, 0, 0)
        };
        assert_eq!(kind(&[down(1)], &[down(0)]), FleetVerdictKind::Failed);
        assert_eq!(kind(&[down(1)], &[down(1)]), FleetVerdictKind::Passed);
        assert_eq!(
            kind(&[down(1), down(0)], &[down(0)]),
            FleetVerdictKind::Passed
        );
        // Backends that came up on the rest are no reason either.
        assert_eq!(kind(&[down(0)], &[down(-2)]), FleetVerdictKind::Passed);
    }
}

//! Flows for which nodes choose different members.
//!
//! Each node tells some flows that it has just forwarded, with their members; another node looks up which
//! member it would choose. A difference counts once it was found twice, [`AGAIN_AFTER`] apart: a change
//! reaches the nodes of a fleet one after the other.
//!
//! Pure: the caller passes the time, and looks up.

use std::{collections::BTreeMap, time::Duration};

/// Time from the first look at a flow to the second.
pub const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// How long a difference is reported after it was last found.
const REPORTED_FOR: Duration = Duration::from_secs(10);

/// Flows remembered for each node.
const MOST: usize = 64;

#[derive(Clone, Debug)]
struct Doubt<M> {
    there: M,
    since: Duration,
    /// When it was found again, and the member here.
    confirmed: Option<(Duration, M)>,
}

/// A flow that two nodes would send to different members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference<M> {
    /// The node that forwarded it.
    pub node: String,
    /// The flow.
    pub flow: String,
    /// Its member there.
    pub there: M,
    /// The member that this node would choose.
    pub here: M,
}

/// What is known of such flows. `M` identifies a member.
#[derive(Clone, Debug)]
pub struct Differences<M> {
    doubts: BTreeMap<String, BTreeMap<String, Doubt<M>>>,
}

impl<M> Default for Differences<M> {
    fn default() -> Self {
        Self {
            doubts: BTreeMap::new(),
        }
    }
}

impl<M: Clone + PartialEq> Differences<M> {
    /// Notes that a node has sent a flow to a member. `here`: what this node would choose; none if it can't
    /// tell.
    pub fn note(&mut self, node: &str, flow: &str, there: M, here: Option<M>, now: Duration) {
        let doubts = self.doubts.entry(node.to_owned()).or_default();
        match here {
            Some(here) if here != there => {
                let known = doubts.get(flow).map(|doubt| doubt.since);
                if known.is_none() && doubts.len() >= MOST {
                    return;
                }
                let since = known.unwrap_or(now);
                let is_again = now.saturating_sub(since) >= AGAIN_AFTER;
                let doubt = Doubt {
                    there,
                    since,
                    confirmed: is_again.then_some((now, here)),
                };
                doubts.insert(flow.to_owned(), doubt);
            }
            _ => {
                doubts.remove(flow);
            }
        }
    }

    /// Looks again at flows that were not told again in the meantime, and returns what differs. `look`: the
    /// member that this node would choose for a flow of a node; none if it can't tell.
    pub fn judge(
        &mut self,
        now: Duration,
        mut look: impl FnMut(&str, &str) -> Option<M>,
    ) -> Vec<Difference<M>> {
        let mut found = Vec::new();
        for (node, doubts) in &mut self.doubts {
            doubts.retain(|flow, doubt| {
                let is_due = now.saturating_sub(doubt.since) >= AGAIN_AFTER;
                if doubt.confirmed.is_none() && is_due {
                    let here = look(node, flow).filter(|here| *here != doubt.there);
                    doubt.confirmed = here.map(|here| (now, here));
                    if doubt.confirmed.is_none() {
                        return false;
                    }
                }
                let Some((at, here)) = &doubt.confirmed else {
                    return true;
                };
                found.push(Difference {
                    node: node.clone(),
                    flow: flow.clone(),
                    there: doubt.there.clone(),
                    here: here.clone(),
                });
                now.saturating_sub(*at) < REPORTED_FOR
            });
        }
        self.doubts.retain(|_, doubts| !doubts.is_empty());
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn flows(found: &[Difference<u8>]) -> Vec<(&str, u8, u8)> {
        let found = found.iter();
        found
            .map(|it| (it.flow.as_str(), it.there, it.here))
            .collect()
    }

    #[test]
    fn a_difference_counts_when_it_is_found_twice() {
        let mut differences = Differences::default();
        let never = |_: &str, _: &str| -> Option<u8> { panic!("too early") };
        differences.note("b", "same", 1, Some(1), at(0));
        differences.note("b", "unknown", 1, None, at(0));
        differences.note("b", "short", 1, Some(2), at(0));
        differences.note("b", "brief", 1, Some(2), at(0));
        differences.note("b", "long", 1, Some(2), at(0));
        assert_eq!(flows(&differences.judge(at(1), never)), []);
        differences.note("b", "long", 1, Some(3), at(2));
        // The change has arrived for one of those that were told once.
        let look = |_: &str, flow: &str| Some(if flow == "brief" { 1 } else { 2 });
        let found = differences.judge(at(2), look);
        assert_eq!(flows(&found), [("long", 1, 3), ("short", 1, 2)]);
        assert_eq!(found[0].node, "b");
        differences.note("b", "long", 1, Some(1), at(3));
        assert_eq!(flows(&differences.judge(at(3), never)), [("short", 1, 2)]);
        assert_eq!(flows(&differences.judge(at(12), never)).len(), 1);
        assert_eq!(flows(&differences.judge(at(13), never)), []);
    }

    #[test]
    fn few_flows_are_remembered() {
        let mut differences = Differences::default();
        for flow in 0..1000 {
            differences.note("b", &flow.to_string(), 1, Some(2), at(0));
        }
        assert_eq!(differences.judge(at(2), |_, _| Some(2)).len(), MOST);
    }
}

//! How routers spread the new flows of a VIP over the nodes of a fleet.
//!
//! Routers with ECMP are expected to give each node that announces a VIP the same share. Their hash is not
//! known, so only gross deviations count: of k nodes, one that gets more than four fair shares (of few nodes:
//! more than halfway between a fair share and everything), or less than a quarter of a fair share. With the least number of flows (100 for each node), a
//! fair hash of independent flows is beyond these limits with a probability below 10⁻¹¹ per node (binomial
//! distribution; the nearest limit is 6.8 standard deviations away).

/// New flows for each node that a window must have.
const LEAST_PER_NODE: u64 = 100;
/// A node gets too many above so many fair shares.
const MOST_OF_FAIR: f64 = 4.0;
/// A node gets too few below this part of a fair share.
const LEAST_OF_FAIR: f64 = 0.25;

/// A node that gets far more or far less than its share.
#[derive(Clone, Debug, PartialEq)]
pub struct UnevenNode {
    /// Name of the node.
    pub node: String,
    /// Its share of the new flows, 0 to 1.
    pub share: f64,
    /// A fair share.
    pub fair: f64,
}

/// The nodes that get too many flows, or else those that get too few. `flows`: new flows in a window of all
/// nodes that should get the same share.
#[must_use]
pub fn uneven(flows: &[(&str, u64)]) -> Vec<UnevenNode> {
    let total: u64 = flows.iter().map(|(_, flows)| flows).sum();
    let nodes = flows.len();
    if nodes < 2 || total < LEAST_PER_NODE * nodes as u64 {
        return Vec::new();
    }
    let fair = 1.0 / nodes as f64;
    let most = f64::midpoint(1.0, fair).min(MOST_OF_FAIR * fair);
    let shares = flows.iter().map(|(node, flows)| UnevenNode {
        node: (*node).to_owned(),
        share: *flows as f64 / total as f64,
        fair,
    });
    let uneven: Vec<UnevenNode> = shares
        .filter(|it| it.share > most || it.share < fair * LEAST_OF_FAIR)
        .collect();
    // The others have too few because one has too many.
    let over: Vec<UnevenNode> = uneven
        .iter()
        .filter(|it| it.share > fair)
        .cloned()
        .collect();
    if over.is_empty() { uneven } else { over }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(flows: &[u64]) -> String {
        let nodes = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
        let flows: Vec<(&str, u64)> = nodes.into_iter().zip(flows.iter().copied()).collect();
        uneven(&flows).into_iter().map(|it| it.node).collect()
    }

    #[test]
    fn gross_deviations_are_named() {
        assert_eq!(names(&[100, 101, 99]), "");
        assert_eq!(names(&[150, 80, 70]), "");
        assert_eq!(names(&[290, 5, 5]), "a", "all to one");
        assert_eq!(names(&[150, 150, 0]), "c", "not a next hop");
        assert_eq!(names(&[300, 300, 0, 0]), "cd");
        assert_eq!(names(&[160, 40]), "a");
        let mut many = [160; 12];
        assert_eq!(names(&many), "");
        many[1] = 1000;
        assert_eq!(names(&many), "b", "a third of all");
        assert_eq!(names(&[140, 60]), "");
    }

    #[test]
    fn few_flows_and_single_nodes_say_nothing() {
        assert_eq!(names(&[199, 0]), "");
        assert_eq!(names(&[200, 0]), "a");
        assert_eq!(names(&[10_000]), "");
        assert_eq!(names(&[]), "");
    }
}

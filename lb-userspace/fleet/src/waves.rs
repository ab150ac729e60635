//! The waves of a rollout: which nodes are changed together.

/// Shares of the nodes that are changed after each step, in percent, following the canary.
const STEPS: [usize; 3] = [10, 50, 100];

/// A node and its rack.
pub(crate) type Placed = (String, Option<String>);

/// The waves: one node first, then up to 10, 50 and 100 % of the nodes, never two racks in one wave.
/// Nodes without a rack count as one rack.
///
/// Without a wanted canary, the revision selects one, so that it is not always the same.
pub(crate) fn plan(nodes: &[Placed], canary: Option<&str>, revision: u64) -> Vec<Vec<String>> {
    let mut rest = nodes.to_vec();
    rest.sort();
    let Some(canary) = rest.iter().position(|(id, _)| Some(&**id) == canary).or({
        let count = u64::try_from(rest.len()).unwrap_or(u64::MAX);
        revision
            .checked_rem(count)
            .and_then(|index| usize::try_from(index).ok())
    }) else {
        return Vec::new();
    };
    let (canary, rack) = rest.remove(canary);
    // The racks follow each other, that of the canary first: a rack is in as few waves as possible.
    rest.sort_by(|(id, a), (other, b)| (*a != rack, a, id).cmp(&(*b != rack, b, other)));
    let mut waves = vec![vec![canary]];
    let mut done = 1;
    for step in STEPS {
        let wanted = (nodes.len() * step).div_ceil(100).max(done);
        let mut last_rack = None;
        for (id, rack) in rest.drain(..wanted - done) {
            if last_rack.as_ref() != Some(&rack) {
                waves.push(Vec::new());
                last_rack = Some(rack);
            }
            waves.last_mut().expect("one was pushed").push(id);
        }
        done = wanted;
    }
    waves
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn placed(racks: &[&str]) -> Vec<Placed> {
        let racks = racks.iter().enumerate();
        racks
            .map(|(i, rack)| (format!("n{i:02}"), Some((*rack).to_owned())))
            .collect()
    }

    #[test]
    fn twenty_nodes_of_one_rack() {
        let waves = plan(&placed(&["r"; 20]), Some("n07"), 3);
        let sizes: Vec<usize> = waves.iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 1, 8, 10]);
        assert_eq!(waves[0], ["n07"]);
    }

    #[test]
    fn a_step_that_spans_racks_becomes_several_waves() {
        let waves = plan(&placed(&["a", "b", "a", "b", "a"]), Some("n01"), 1);
        let expected: [&[&str]; 4] = [&["n01"], &["n03"], &["n00"], &["n02", "n04"]];
        assert_eq!(waves, expected);
    }

    #[test]
    fn the_canary_changes_with_the_revision() {
        let nodes = placed(&["r"; 3]);
        let canaries: BTreeSet<String> = (1..=3)
            .map(|n| plan(&nodes, None, n)[0][0].clone())
            .collect();
        assert_eq!(canaries.len(), 3);
        assert!(plan(&[], None, 1).is_empty());
    }

    proptest! {
        #[test]
        fn every_node_is_in_one_wave_and_no_wave_has_two_racks(
            racks in proptest::collection::vec(proptest::option::of(0..4u8), 1..40),
            revision in 1..100u64,
        ) {
            let nodes: Vec<Placed> = racks
                .iter()
                .enumerate()
                .map(|(i, rack)| (format!("n{i:02}"), rack.map(|rack| rack.to_string())))
                .collect();
            let waves = plan(&nodes, None, revision);
            prop_assert_eq!(waves[0].len(), 1);
            let mut all: Vec<&String> = waves.iter().flatten().collect();
            all.sort();
            prop_assert_eq!(all, nodes.iter().map(|(id, _)| id).collect::<Vec<_>>());
            for wave in &waves {
                let rack = |id| nodes.iter().find(|(node, _)| node == id).map(|(_, rack)| rack);
                prop_assert_eq!(wave.iter().map(rack).collect::<BTreeSet<_>>().len(), 1);
            }
        }
    }
}

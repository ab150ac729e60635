//! How many new flows each backend of a VIP got in the last hour.
//!
//! A [`FlowHistory`] consists of steps of ten seconds. Steps with the same backends and shares are kept
//! together, so that a step takes eight bytes and four per backend, and one without new flows takes none.

use std::{collections::VecDeque, sync::Arc};

use crate::ring::Identity;

/// Length of a step in seconds.
pub const STEP_S: f64 = 10.0;
/// Steps kept: those of an hour.
pub const STEPS: u32 = 360;

/// A backend during some steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepMember {
    /// Which backend it is.
    pub identity: Identity,
    /// Its intended share.
    pub share: f64,
}

/// Consecutive steps with the same backends and shares.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    members: Arc<[StepMember]>,
    /// Number and length in seconds.
    steps: VecDeque<(u32, f32)>,
    /// New flows of all steps, each in the order of `members`.
    new_flows: VecDeque<u32>,
}

impl Segment {
    /// The backends.
    #[must_use]
    pub fn members(&self) -> &[StepMember] {
        &self.members
    }

    /// Calls `each` with the seconds and the new flows of each step, the oldest first; the new flows are
    /// in the order of the backends.
    pub fn for_each(&self, mut each: impl FnMut(f64, &[u32])) {
        let length = self.members.len();
        let mut new_flows = Vec::with_capacity(length);
        for (place, (_, seconds)) in self.steps.iter().enumerate() {
            let range = place * length..(place + 1) * length;
            new_flows.clear();
            new_flows.extend(self.new_flows.range(range));
            each((*seconds).into(), &new_flows);
        }
    }
}

/// New flows of the backends of a VIP.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowHistory {
    /// Number of steps that have ended.
    ended: u32,
    segments: VecDeque<Segment>,
}

impl FlowHistory {
    /// Adds the newest step; `new_flows` are those of `members`, in their order.
    pub fn push(&mut self, seconds: f64, members: &Arc<[StepMember]>, new_flows: &[u32]) {
        self.pass();
        if self
            .segments
            .back()
            .is_none_or(|last| last.members != *members)
        {
            self.segments.push_back(Segment {
                members: Arc::clone(members),
                steps: VecDeque::new(),
                new_flows: VecDeque::new(),
            });
        }
        if let Some(last) = self.segments.back_mut() {
            last.steps.push_back((self.ended, seconds as f32));
            last.new_flows.extend(new_flows);
        }
    }

    /// Adds a step without new flows, or one in which shares changed, so that it says nothing.
    pub fn pass(&mut self) {
        self.ended = self.ended.saturating_add(1);
        let oldest = self.ended.saturating_sub(STEPS - 1);
        while let Some(first) = self.segments.front_mut() {
            while first.steps.front().is_some_and(|step| step.0 < oldest) {
                first.steps.pop_front();
                first.new_flows.drain(..first.members.len());
            }
            if !first.steps.is_empty() {
                break;
            }
            self.segments.pop_front();
        }
    }

    /// Whole minutes seen.
    #[must_use]
    pub fn minutes(&self) -> u32 {
        self.ended.min(STEPS) / 6
    }

    /// What is kept, the oldest first.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(shares: &[f64]) -> Arc<[StepMember]> {
        let member = |(host, share): (u8, &f64)| StepMember {
            identity: Identity {
                address: [10, 0, 0, host].into(),
                port: 80,
            },
            share: *share,
        };
        (1..).zip(shares).map(member).collect()
    }

    fn steps(history: &FlowHistory) -> Vec<(usize, Vec<u32>)> {
        let mut steps = Vec::new();
        for segment in history.segments() {
            let length = segment.members().len();
            segment.for_each(|_, new_flows| steps.push((length, new_flows.to_vec())));
        }
        steps
    }

    #[test]
    fn steps_with_the_same_shares_are_kept_together() {
        let (two, three) = (members(&[0.5, 0.5]), members(&[0.25, 0.25, 0.5]));
        let mut history = FlowHistory::default();
        history.push(10.0, &two, &[1, 2]);
        history.pass();
        // Equal, but not the same.
        history.push(10.0, &members(&[0.5, 0.5]), &[3, 4]);
        history.push(10.0, &three, &[5, 6, 7]);
        history.push(10.0, &two, &[8, 9]);
        let expected = [
            (2, vec![1, 2]),
            (2, vec![3, 4]),
            (3, vec![5, 6, 7]),
            (2, vec![8, 9]),
        ];
        assert_eq!(steps(&history), expected);
        assert_eq!(history.segments.len(), 3);
        assert_eq!(history.minutes(), 0);
        history.pass();
        assert_eq!(history.minutes(), 1);
    }

    #[test]
    fn an_hour_is_kept() {
        let (one, two) = (members(&[1.0]), members(&[0.5, 0.5]));
        let mut history = FlowHistory::default();
        history.push(10.0, &one, &[7]);
        history.push(10.0, &two, &[0, 1]);
        for number in 2..STEPS {
            history.push(10.0, &two, &[number, 1]);
        }
        assert_eq!(steps(&history)[0], (1, vec![7]));
        history.pass();
        assert_eq!(steps(&history)[0], (2, vec![0, 1]));
        assert_eq!(steps(&history).len(), STEPS as usize - 1);
        for _ in 0..STEPS - 2 {
            history.pass();
        }
        assert_eq!(steps(&history), [(2, vec![STEPS - 1, 1])]);
        history.pass();
        assert_eq!(steps(&history), []);
        assert!(history.segments.is_empty());
        assert_eq!(history.minutes(), 60);
    }
}

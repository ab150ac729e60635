//! Tests of the whole detector: findings, causes, and what it ignores.

mod bake;
mod bounded;
mod causes;
mod counting;
mod properties;
mod windows;

use std::sync::Arc;

use super::{
    Change, Detector, Facts, Finding, Kind, Member, Observation, Phase, Samples, Thresholds,
};

const TCP: Facts = Facts {
    tcp: true,
    independent: true,
};
const UDP: Facts = Facts {
    tcp: false,
    independent: true,
};
const SOURCE: Facts = Facts {
    tcp: true,
    independent: false,
};

/// A VIP with simulated counts, second by second.
struct Vip {
    detector: Detector,
    members: Vec<Member>,
    now_s: f64,
    in_transition: bool,
    change: Option<Change>,
    samples: Option<Samples>,
    bounded: bool,
    seed: u64,
    packets_per_flow: Vec<f64>,
    bytes_per_flow: Vec<f64>,
}

impl Vip {
    /// A VIP with equal shares; members are named `b0`, `b1` and so on.
    fn new(facts: Facts, members: usize) -> Self {
        Self::weighted(facts, &vec![1.0; members])
    }

    fn weighted(facts: Facts, weights: &[f64]) -> Self {
        let member = |number: usize| Member {
            name: Arc::from(format!("b{number}")),
            table_share: 0.0,
            intended_share: 0.0,
            capacity: None,
            phase: Phase::Serving,
            new_flows: 1000,
            ring_flows: None,
            packets: 9000,
            bytes: 900_000,
        };
        let mut vip = Self {
            detector: Detector::new(Thresholds::default(), facts),
            members: (0..weights.len()).map(member).collect(),
            now_s: 1000.0,
            in_transition: false,
            change: None,
            samples: None,
            bounded: false,
            seed: 1,
            packets_per_flow: vec![6.0; weights.len()],
            bytes_per_flow: vec![800.0; weights.len()],
        };
        vip.share(weights);
        vip
    }

    /// Sets table and intended shares from weights.
    fn share(&mut self, weights: &[f64]) {
        let sum: f64 = weights.iter().sum();
        for (member, weight) in self.members.iter_mut().zip(weights) {
            member.table_share = weight / sum;
            member.intended_share = weight / sum;
        }
    }

    fn shares(&self) -> Vec<f64> {
        self.members.iter().map(|m| m.table_share).collect()
    }

    /// Uniform from 0 to 1.
    fn random(&mut self) -> f64 {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((self.seed >> 33) as f64) / f64::from(1u32 << 31)
    }

    /// A Poisson count with this mean (normal approximation for large means).
    fn poisson(&mut self, mean: f64) -> u64 {
        if mean < 30.0 {
            let least = (-mean).exp();
            let (mut product, mut count) = (self.random(), 0);
            while product > least {
                product *= self.random();
                count += 1;
            }
            return count;
        }
        let normal: f64 = (0..12).map(|_| self.random()).sum::<f64>() - 6.0;
        (mean + mean.sqrt() * normal).round().max(0.0) as u64
    }

    /// Simulates a second with these mean flows per member.
    fn second(&mut self, flows: &[f64]) -> &[Finding] {
        for (member, &mean) in flows.iter().enumerate() {
            let count = self.poisson(mean);
            let packets = self.packets_per_flow[member];
            let bytes = self.bytes_per_flow[member];
            let member = &mut self.members[member];
            member.new_flows += count;
            member.packets += (count as f64 * packets) as u64;
            member.bytes += (count as f64 * bytes) as u64;
        }
        self.observe()
    }

    /// Observes the current totals, a second later.
    fn observe(&mut self) -> &[Finding] {
        self.now_s += 1.0;
        self.detector.observe(&Observation {
            at_s: self.now_s,
            members: &self.members,
            ring_size: 65_537,
            in_transition: self.in_transition,
            change: self.change.as_ref(),
            samples: self.samples.as_ref(),
            bounded: self.bounded,
        })
    }

    /// Simulates seconds in which each member gets `times` its share of `rate` flows.
    fn run(&mut self, seconds: u32, rate: f64, times: &[f64]) -> &[Finding] {
        for _ in 0..seconds {
            let shares = self.shares();
            let flows: Vec<f64> = shares
                .iter()
                .zip(times)
                .map(|(s, t)| rate * s * t)
                .collect();
            self.second(&flows);
        }
        self.detector.findings()
    }

    /// Simulates seconds without a fault; panics on a finding.
    fn run_faultless(&mut self, seconds: u32, rate: f64) {
        let times = vec![1.0; self.members.len()];
        for _ in 0..seconds {
            let found = self.run(1, rate, &times);
            assert!(found.is_empty(), "{found:?}");
        }
    }

    /// Runs until there is a finding of this kind.
    fn run_until(&mut self, kind: Kind, most: u32, rate: f64, times: &[f64]) -> (u32, Finding) {
        for second in 1..=most {
            let found = self.run(1, rate, times);
            if let Some(found) = found.iter().find(|finding| finding.kind == kind) {
                return (second, found.clone());
            }
        }
        panic!("no {kind} in {most} s: {:?}", self.detector.findings());
    }

    /// Applies a revision with these weights.
    fn revise(&mut self, number: u64, weights: &[f64]) {
        let before = self.shares();
        self.share(weights);
        let moved = self
            .members
            .iter()
            .zip(before)
            .map(|(member, before)| super::MovedMember {
                name: member.name.clone(),
                before,
                after: member.table_share,
            });
        self.change = Some(Change {
            revision: number,
            at_s: self.now_s,
            moved: moved.collect(),
        });
    }
}

fn names(finding: &Finding) -> Vec<&str> {
    finding.members.iter().map(|member| &*member.name).collect()
}

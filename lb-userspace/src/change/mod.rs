//! What a change would do, before it is done.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    api::types::{Guard, Plan, PlanVerdict, RevisionNumber},
    config::{BackendState, Config},
};

/// What is to be planned.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The running revision; 0 when there is none.
    pub base: RevisionNumber,
    /// What runs; none before the first configuration.
    pub running: Option<&'a Config>,
    /// What is wanted.
    pub candidate: &'a Config,
    /// What the controller knows of the VIPs, by name: that of the candidate, or for VIPs that go
    /// that of the running configuration. A VIP that is not in it is planned as if all its
    /// backends were healthy and nobody used it.
    pub facts: &'a BTreeMap<String, VipFacts>,
    /// Guards that may be broken.
    pub force: &'a [Guard],
}

/// What the controller knows of a VIP.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VipFacts {
    /// The table as it is; none if the VIP is new.
    pub before: Option<Side>,
    /// The table that the change would give; none if the VIP goes. Members whose health is not known
    /// yet are in it as if they were healthy: what they will get must pass the guards too.
    pub after: Option<Side>,
    /// Slots that another member gets.
    pub slots_moved: u32,
    /// Its traffic.
    pub load: Load,
}

/// One side of a change: a table and its members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Slots of the ring.
    pub ring_size: u32,
    /// The members of the configuration.
    pub members: Vec<SideMember>,
}

/// A member in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideMember {
    /// Name of the backend.
    pub backend: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port; 0 when the packet's port is kept.
    pub port: u16,
    /// The weight that the table was built with (less than the configured one during slow start).
    pub weight: u32,
    /// What the operator wants of it.
    pub state: BackendState,
    /// Whether it can have slots of this table.
    pub eligible: bool,
    /// Whether it is known to be healthy now, or not checked at all. Not so: a new backend whose
    /// checks have not succeeded yet, or one that gets traffic only because too few are healthy.
    pub proven: bool,
    /// Slots that it has.
    pub slots: u32,
}

/// The traffic of a VIP.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// New flows a second now.
    pub new_flows_per_s: f64,
    /// The highest number of new flows a second in the last hour.
    pub peak_new_flows_per_s: f64,
    /// Packets a second now.
    pub packets_per_s: f64,
}

/// Plans a change.
#[must_use]
pub fn plan(input: &Input<'_>) -> Plan {
    Plan {
        base: input.base,
        verdict: PlanVerdict::Nothing,
        vips: Vec::new(),
        other: Vec::new(),
    }
}

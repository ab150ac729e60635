//! Set-up of the tests: a lab with echo servers behind a balancer, and flows through it.

use std::collections::BTreeMap;
use std::time::Duration;

use lab::balancer::binary;
use lab::configuration::{Configuration, Forward, Vip};
use lab::node::Node;
use lab::service::{FAMILIES, Kind, Servers, address, vip, vip_name};
use lab::stats::damage;
use lab::topology::{Family, Lab, Layout, Plan};
use lab::traffic::flows::{FlowLoad, FlowPlan, FlowReport, Transport};

/// Limit of waits, long enough for a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Weights of the initial backends. The lab has one more backend.
pub(crate) const WEIGHTS: [u32; 3] = [100, 100, 50];

/// Returns whether the test can run here.
pub(crate) fn can_run(test: &str) -> bool {
    lab::skip::can_run(&format!("invariants {test}"), &["ip", "ethtool"])
}

pub(crate) fn build(layout: Layout) -> Lab {
    build_with_balancers(layout, 1)
}

pub(crate) fn build_with_balancers(layout: Layout, balancers: u8) -> Lab {
    Lab::build(Plan {
        balancers,
        backends: WEIGHTS.len() as u8 + 1,
        ..Plan::new(layout)
    })
    .unwrap()
}

/// A lab that serves echo in one forwarding mode and both families.
pub(crate) struct Site<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) servers: Servers,
    pub(crate) node: Node<'lab>,
}

/// Returns the initial configuration of a site.
pub(crate) fn configuration(lab: &Lab, balancer: usize, forward: Forward) -> Configuration {
    let mut configuration = Configuration::new(&lab.balancers[balancer]);
    for family in FAMILIES {
        let vip = vip(lab, forward, Kind::Echo, family, &WEIGHTS);
        configuration.vips.push(vip);
    }
    configuration
}

impl<'lab> Site<'lab> {
    pub(crate) fn start(lab: &'lab Lab, forward: Forward) -> Self {
        Self::start_with(lab, forward, |_| {})
    }

    pub(crate) fn start_with(
        lab: &'lab Lab,
        forward: Forward,
        change: impl FnOnce(&mut Configuration),
    ) -> Self {
        let mut configuration = configuration(lab, 0, forward);
        change(&mut configuration);
        Self::start_configured(lab, forward, Kind::Echo, configuration)
    }

    /// Starts a site with one kind of service over IPv4.
    pub(crate) fn start_kind(lab: &'lab Lab, forward: Forward, kind: Kind) -> Self {
        Self::start_kind_with(lab, forward, kind, |_| {})
    }

    pub(crate) fn start_kind_with(
        lab: &'lab Lab,
        forward: Forward,
        kind: Kind,
        change: impl FnOnce(&mut Vip),
    ) -> Self {
        let mut configuration = Configuration::new(&lab.balancers[0]);
        let mut vip = vip(lab, forward, kind, Family::V4, &WEIGHTS);
        change(&mut vip);
        configuration.vips.push(vip);
        Self::start_configured(lab, forward, kind, configuration)
    }

    fn start_configured(
        lab: &'lab Lab,
        forward: Forward,
        kind: Kind,
        configuration: Configuration,
    ) -> Self {
        let binary = binary().unwrap();
        let servers = Servers::start(lab, forward, &[kind], &binary).unwrap();
        let node = Node::start(&lab.balancers[0], &binary, configuration).unwrap();
        Self { lab, servers, node }
    }

    /// Opens flows and waits until all of them carry data.
    pub(crate) fn open(&self, family: Family, flows: usize) -> FlowLoad {
        let mut plan = FlowPlan::new(Transport::Tcp, address(self.lab, Kind::Echo, family), flows);
        // All flows together send a few thousand texts per second.
        plan.pause = Duration::from_millis(100);
        // Longer than a busy machine needs, so that only lost flows time out.
        plan.answer_limit = Duration::from_secs(15);
        let load = FlowLoad::start(&self.lab.clients[0], &plan).unwrap();
        load.wait_answers(1, LIMIT).unwrap();
        assert_intact("just opened", &load.snapshot());
        load
    }

    pub(crate) fn new_flows_of(&self, kind: Kind, family: Family) -> BTreeMap<String, u64> {
        let shares = self.node.shares(&vip_name(kind, family)).unwrap();
        shares
            .into_iter()
            .map(|share| (share.name, share.new_flows))
            .collect()
    }

    /// Checks that no packet was damaged and all servers run.
    pub(crate) fn check_health(&mut self) {
        self.servers.check_running().unwrap();
        assert_eq!(damage(self.lab).unwrap(), []);
    }
}

pub(crate) fn assert_intact(when: &str, report: &FlowReport) {
    assert_eq!(report.faults(), [].into(), "{when}");
}

/// Checks that every flow gets more replies, from the same backend.
pub(crate) fn assert_alive<'a>(when: &str, loads: impl IntoIterator<Item = &'a FlowLoad>) {
    for load in loads {
        let waited = load.wait_answers(2, LIMIT);
        waited.unwrap_or_else(|error| panic!("{when}: {error:#}"));
        assert_intact(when, &load.snapshot());
    }
}

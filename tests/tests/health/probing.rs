//! A node with a data path, and health checks from it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lab::{
    balancer::binary,
    configuration::{Configuration, Forward},
    node::Node,
    service::{FAMILIES, Kind, vip},
    topology::{Family, Lab},
};
use lb_common::address_of;
use lb_common::proto;
use lb_daemon::health::{Target, probe::Probe};
use lb_dataplane::{Pins, ProbePath, ProbePaths};
use lb_model::config::{self, HealthKind, HttpCheck, StatusSet};

/// Path of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Vip,
}

/// Returns whether the test can run here.
pub(crate) fn can_run(test: &str) -> bool {
    lab::skip::can_run(&format!("health {test}"), &["ip", "ethtool", "nginx"])
}

/// A balancer with a web VIP per family and the probe program on all interfaces.
pub(crate) struct Prober<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) node: Node<'lab>,
    pub(crate) paths: ProbePaths,
    /// Index of the member by VIP and address.
    members: BTreeMap<IpAddr, u32>,
}

impl<'lab> Prober<'lab> {
    pub(crate) fn start(lab: &'lab Lab, forward: Forward) -> Self {
        let mut configuration = Configuration::new(&lab.balancers[0]);
        let weights = vec![100; lab.backends.len()];
        for family in FAMILIES {
            let vip = vip(lab, forward, Kind::Web, family, &weights);
            configuration.vips.push(vip);
        }
        let node = Node::start(&lab.balancers[0], &binary().unwrap(), configuration).unwrap();
        let pins = Pins::at(node.balancer.bpffs());
        let mut paths = ProbePaths::load(&pins).unwrap();
        let host = &lab.balancers[0];
        host.ns.enter(|| {
            for port in &host.ports {
                paths.attach(&port.interface).unwrap();
            }
        });
        let mut prober = Self {
            lab,
            node,
            paths,
            members: BTreeMap::new(),
        };
        prober.set_paths(forward);
        prober
    }

    /// Uses another program from now on.
    pub(crate) fn use_instead(&mut self, paths: ProbePaths, forward: Forward) {
        self.paths = paths;
        self.set_paths(forward);
    }

    fn set_paths(&mut self, forward: Forward) {
        let view = self.node.view().unwrap();
        for family in FAMILIES {
            let address = self.lab.vip(family, 1);
            let port = Kind::Web.port();
            let vip = view.vip(address, port, proto::TCP).unwrap().unwrap();
            for (index, member) in view.members_of(vip) {
                let at =
                    |host: &&lab::host::Host| address_of(host.address(family)).0 == member.address;
                let host = self.lab.backends.iter().find(at).unwrap();
                let path = ProbePath {
                    vip: address,
                    encapsulated: forward == Forward::Ipip,
                };
                let index = u32::from(index);
                self.paths.set(index, Some(path)).unwrap();
                self.members.insert(host.address(family), index);
            }
        }
    }

    /// Probes a backend once. `port` 0: that of the VIP.
    pub(crate) fn probe(
        &self,
        backend: usize,
        family: Family,
        way: Way,
        kind: HealthKind,
        port: u16,
    ) -> Result<(), String> {
        let address = self.lab.backends[backend].address(family);
        let target = Target {
            vip: "web".to_owned(),
            backend: self.lab.backends[backend].name.clone(),
            address,
            port: Kind::Web.port(),
            vip_address: self.lab.vip(family, 1),
            vip_port: Kind::Web.port(),
            health: Arc::new(health(kind, port)),
            initial: false,
            source: None,
            member: (way == Way::Vip).then(|| self.members[&address]),
        };
        self.lab.balancers[0].ns.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let probe = Probe::new(&target, &Arc::default());
            let result = runtime.block_on(probe.run());
            result.map(|_| ()).map_err(|failure| failure.text)
        })
    }
}

/// Returns checks of a kind, with timeouts for a busy machine.
pub(crate) fn health(kind: HealthKind, port: u16) -> config::Health {
    config::Health {
        kind,
        port,
        interval: Duration::from_secs(3),
        fast_interval: Duration::from_secs(3),
        timeout: Duration::from_millis(1500),
        rise: 1,
        fall: 1,
        ..defaults()
    }
}

/// The defaults of `[vip.health]`.
fn defaults() -> config::Health {
    let text = "[node]\ninterfaces = [\"eth0\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n\
                [[vip]]\nname = \"web\"\naddress = \"192.0.2.1\"\nport = 80\nprotocol = \"tcp\"\n\
                forward = \"l2\"\nhealth.kind = \"tcp\"\n\
                [[vip.backend]]\nname = \"web-1\"\naddress = \"10.0.0.1\"\n";
    let config = config::parse("health.toml", text).unwrap();
    config.vips[0].health.clone().unwrap()
}

/// Returns a check for the page of nginx, which contains the backend's name.
pub(crate) fn page_of(backend: &str) -> HealthKind {
    HealthKind::Http(HttpCheck {
        path: "/".to_owned(),
        host: None,
        expect_status: StatusSet::new(vec![200..=200]),
        expect_body: Some(backend.to_owned()),
    })
}

//! A router: BIRD or FRR.

use anyhow::Result;
use lab::host::Host;
use lab::router::bird::Bird;
use lab::router::frr::{self, Frr};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    Bird,
    Frr,
}

/// Configuration of a router's sessions with two nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouterPlan {
    pub(crate) kind: Kind,
    pub(crate) password: Option<&'static str>,
    pub(crate) ttl_security: bool,
    /// BFD with 3 × 100 ms.
    pub(crate) bfd: bool,
    /// Sessions are over IPv6.
    pub(crate) over_v6: bool,
}

pub(crate) enum Router {
    Bird(Bird),
    Frr {
        frr: Frr,
        /// Address of the first node, as its session has it.
        first: String,
    },
}

impl Kind {
    pub(crate) fn tools(self) -> &'static [&'static str] {
        match self {
            Self::Bird => &["ip", "bird", "birdc"],
            Self::Frr => &["ip", "zebra", "bgpd", "bfdd", "vtysh"],
        }
    }
}

impl Router {
    pub(crate) fn start(host: &Host, plan: &RouterPlan) -> Result<Self> {
        Ok(match plan.kind {
            Kind::Bird => {
                let configuration = crate::bird::configuration(plan, host);
                Self::Bird(Bird::start(host, &configuration)?)
            }
            Kind::Frr => {
                let configuration = frr::Configuration {
                    zebra: "hostname router\n",
                    bfdd: crate::frr::BFDD,
                    bgpd: &crate::frr::configuration(plan),
                };
                Self::Frr {
                    frr: Frr::start(host, &configuration)?,
                    first: crate::frr::neighbor(plan, 0),
                }
            }
        })
    }

    /// Returns the router, which must be BIRD.
    pub(crate) fn bird(&self) -> &Bird {
        match self {
            Self::Bird(bird) => bird,
            Self::Frr { .. } => panic!("the router is FRR"),
        }
    }

    /// Kills the BGP daemon and starts it again.
    pub(crate) fn restart(&mut self, host: &Host) -> Result<()> {
        match self {
            Self::Bird(bird) => bird.restart(host),
            Self::Frr { frr, .. } => frr.restart(host),
        }
    }

    /// Requests all routes of the first node again.
    pub(crate) fn refresh(&self, host: &Host) -> Result<()> {
        match self {
            Self::Bird(bird) => bird.command(host, "reload in node0").map(drop),
            Self::Frr { frr, first } => frr.refresh(host, first),
        }
    }

    /// Returns how many updates of routes the first node has sent on this session: BIRD counts routes,
    /// FRR messages.
    pub(crate) fn updates(&self, host: &Host) -> Result<u64> {
        match self {
            Self::Bird(bird) => bird.updates(host, "node0"),
            Self::Frr { frr, first } => frr.updates(host, first),
        }
    }

    /// Returns what the router shows about a route.
    pub(crate) fn show(&self, host: &Host, prefix: &str) -> Result<String> {
        match self {
            Self::Bird(bird) => bird.command(host, &format!("show route {prefix} all")),
            Self::Frr { frr, .. } => frr.vtysh(host, &[&format!("show bgp ipv4 unicast {prefix}")]),
        }
    }

    pub(crate) fn log(&self) -> String {
        match self {
            Self::Bird(bird) => bird.log(),
            Self::Frr { frr, .. } => frr.log(),
        }
    }
}

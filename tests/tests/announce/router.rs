//! A router: BIRD or FRR.

use std::time::Duration;

use anyhow::Result;
use lab::host::Host;

use crate::{bird::Bird, frr::Frr};

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
    Frr(Frr),
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
            Kind::Bird => Self::Bird(Bird::start(host, &crate::bird::router(plan, host))?),
            Kind::Frr => Self::Frr(Frr::start(host, plan)?),
        })
    }

    /// Returns the router, which must be BIRD.
    pub(crate) fn bird(&self) -> &Bird {
        match self {
            Self::Bird(bird) => bird,
            Self::Frr(_) => panic!("the router is FRR"),
        }
    }

    /// Kills the BGP daemon and starts it again.
    pub(crate) fn restart(&mut self, host: &Host) -> Result<()> {
        match self {
            Self::Bird(bird) => bird.restart(host),
            Self::Frr(frr) => frr.restart(host),
        }
    }

    /// Requests all routes of the first node again.
    pub(crate) fn refresh(&self, host: &Host) -> Result<()> {
        match self {
            Self::Bird(bird) => bird.command(host, "reload in node0").map(drop),
            Self::Frr(frr) => frr.refresh(host),
        }
    }

    /// Returns how many updates of routes the first node has sent on this session: BIRD counts routes,
    /// FRR messages.
    pub(crate) fn updates(&self, host: &Host) -> Result<u64> {
        match self {
            Self::Bird(bird) => bird.updates(host),
            Self::Frr(frr) => frr.updates(host),
        }
    }

    /// Returns what the router shows about a route.
    pub(crate) fn show(&self, host: &Host, prefix: &str) -> Result<String> {
        match self {
            Self::Bird(bird) => bird.command(host, &format!("show route {prefix} all")),
            Self::Frr(frr) => frr.vtysh(host, &[&format!("show bgp ipv4 unicast {prefix}")]),
        }
    }

    pub(crate) fn log(&self) -> String {
        match self {
            Self::Bird(bird) => bird.log(),
            Self::Frr(frr) => frr.log(),
        }
    }
}

pub(crate) const START_LIMIT: Duration = Duration::from_secs(20);

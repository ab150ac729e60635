//! The balancers of the replay, and how each is configured.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use super::evenkeel::{Evenkeel, Protection};
use super::haproxy::{HaProxy, Method};
use super::nftables::NfTables;
use crate::link::ip;
use crate::topology::{Family, Lab};
use crate::traffic::steady::SOURCES;

/// A row of the report: a balancer and its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contestant {
    /// All settings are defaults, and the change is not forced.
    Evenkeel,
    /// The change is forced past the guards, without a bake.
    EvenkeelForced,
    /// The same, with the capacity of backends as a bound and a limit.
    EvenkeelCapacity,
    /// The same, with a bound by share as well.
    EvenkeelFactor,
    HaProxyLeastConn,
    HaProxyMaxConn,
    HaProxyHash,
    NfTables,
}

/// What happened to the wrong weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Active,
    Refused,
}

/// A running balancer.
pub trait Started: Debug {
    /// Gives the first backend a weight with two zeros too many, in the usual way of this balancer. Returns
    /// when the weight is active or refused.
    fn change_weight(&mut self) -> Result<Change>;

    /// Fails if the balancer has exited.
    fn check_running(&mut self) -> Result<()>;
}

impl Contestant {
    pub const ALL: [Self; 8] = [
        Self::Evenkeel,
        Self::EvenkeelForced,
        Self::EvenkeelCapacity,
        Self::EvenkeelFactor,
        Self::HaProxyLeastConn,
        Self::HaProxyMaxConn,
        Self::HaProxyHash,
        Self::NfTables,
    ];

    /// Returns its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Evenkeel => "evenkeel, defaults",
            Self::EvenkeelForced => "evenkeel, forced",
            Self::EvenkeelCapacity => "evenkeel, forced, capacity",
            Self::EvenkeelFactor => "evenkeel, forced, capacity, factor",
            Self::HaProxyLeastConn => "haproxy leastconn",
            Self::HaProxyMaxConn => "haproxy leastconn, maxconn",
            Self::HaProxyHash => "haproxy hash-balance-factor",
            Self::NfTables => "nftables",
        }
    }

    /// Starts the balancer on the lab's balancer host. `binary` is `evenkeel`.
    pub(super) fn start<'lab>(
        self,
        lab: &'lab Lab,
        vip: SocketAddr,
        binary: &Path,
    ) -> Result<Box<dyn Started + 'lab>> {
        let method = match self {
            Self::Evenkeel => return start_evenkeel(lab, vip, binary, Protection::None, false),
            Self::EvenkeelForced => {
                return start_evenkeel(lab, vip, binary, Protection::None, true);
            }
            Self::EvenkeelCapacity => {
                return start_evenkeel(lab, vip, binary, Protection::Capacity, true);
            }
            Self::EvenkeelFactor => {
                return start_evenkeel(lab, vip, binary, Protection::FactorAndCapacity, true);
            }
            Self::NfTables => {
                route_to_clients(lab)?;
                return Ok(Box::new(NfTables::start(lab, vip)?));
            }
            Self::HaProxyLeastConn => Method::LeastConn,
            Self::HaProxyMaxConn => Method::LeastConnMaxConn,
            Self::HaProxyHash => Method::BoundedHash,
        };
        route_to_clients(lab)?;
        Ok(Box::new(HaProxy::start(lab, vip, method)?))
    }
}

fn start_evenkeel<'lab>(
    lab: &'lab Lab,
    vip: SocketAddr,
    binary: &Path,
    protection: Protection,
    forces: bool,
) -> Result<Box<dyn Started + 'lab>> {
    Ok(Box::new(Evenkeel::start(
        lab, vip, binary, protection, forces,
    )?))
}

/// Gives the balancer host a route to the clients: without direct server return, it transmits the replies.
fn route_to_clients(lab: &Lab) -> Result<()> {
    let gateway = lab.clients[0].address(Family::V4);
    let route = format!("route add {SOURCES} via {gateway}");
    ip(&lab.balancers[0].ns, &[route])
}

//! The way of a packet, from the VIP lookup to the verdict.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use lb_common::{
    Address, family, is_host,
    reason::{Fate, Reason},
    ring::{MemberIndex, NO_MEMBER},
    vip::{Vip, VipKey, affinity, forward, target, track},
};

use super::{ExplainError, Flow, FlowError, Sources};
use crate::DataplaneError;
use lb_api::ExplainStep;
use lb_model::config::Protocol;

/// What the program answers the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Out by the interface that the packet came in by.
    Tx,
    /// Out by another interface.
    Redirect,
    /// To the host.
    Pass,
    /// Dropped.
    Drop,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tx => "tx",
            Self::Redirect => "redirect",
            Self::Pass => "pass",
            Self::Drop => "drop",
        })
    }
}

/// A packet as it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Interface.
    pub ifindex: u32,
    /// MAC address that the frame goes to.
    pub mac: [u8; 6],
    /// Source and destination of the outer header, if there is one.
    pub outer: Option<(IpAddr, IpAddr)>,
    /// Source and destination after rewriting (`nat`). The port of a session that is yet to begin is the
    /// one that would be taken now.
    pub rewritten: Option<(SocketAddr, SocketAddr)>,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// What was looked at, in order, and what was found.
    pub steps: Vec<ExplainStep>,
    /// The VIP that it is for.
    pub vip: Option<u16>,
    /// The slot of its ring.
    pub slot: Option<u32>,
    /// The member that was chosen; it may be unable to take the packet.
    pub member: Option<MemberIndex>,
    /// What the program answers the kernel.
    pub verdict: Verdict,
    /// The reason that is counted.
    pub reason: Reason,
    /// How it leaves, when it is sent to where it belongs.
    pub sent: Option<Sent>,
}

/// Goes the way that a packet would take, and changes nothing. `opens`: TCP with SYN and without ACK.
///
/// # Errors
///
/// A table can't be read, or UDP is to open a connection.
pub fn walk(flow: &Flow, opens: bool, sources: &Sources<'_>) -> Result<Walk, ExplainError> {
    if opens && flow.protocol != Protocol::Tcp {
        let flow = flow.to_string();
        return Err(FlowError::Syn { flow }.into());
    }
    let mut walker = Walker {
        flow,
        opens,
        sources,
        steps: Vec::new(),
        vip: None,
        slot: None,
        member: None,
    };
    walker.note("packet", walker.packet());
    let end = match walker.go() {
        Ok(end) => end,
        Err(Stop::Reason(reason)) => End::of(reason),
        Err(Stop::Failed(error)) => return Err(error.into()),
    };
    let text = end.reason.text();
    let verdict = format!("{}, counted as {}: {}", end.verdict, text.name, text.text);
    walker.note("verdict", verdict);
    Ok(Walk {
        steps: walker.steps,
        vip: walker.vip,
        slot: walker.slot,
        member: walker.member,
        verdict: end.verdict,
        reason: end.reason,
        sent: end.sent,
    })
}

/// Why a packet goes no further.
#[derive(Debug)]
pub(super) enum Stop {
    Reason(Reason),
    Failed(DataplaneError),
}

impl From<DataplaneError> for Stop {
    fn from(error: DataplaneError) -> Self {
        Self::Failed(error)
    }
}

pub(super) type Step<T> = Result<T, Stop>;

/// The end of a packet's way.
pub(super) struct End {
    pub(super) verdict: Verdict,
    pub(super) reason: Reason,
    pub(super) sent: Option<Sent>,
}

impl End {
    /// Of a packet that is not sent to where it belongs.
    pub(super) fn of(reason: Reason) -> Self {
        let verdict = match reason.text().fate {
            // Answered to its sender.
            Fate::Sent => Verdict::Tx,
            Fate::Passed => Verdict::Pass,
            Fate::Dropped => Verdict::Drop,
        };
        Self {
            verdict,
            reason,
            sent: None,
        }
    }
}

/// What a packet's destination is.
enum Service {
    Vip(u16),
    NatSource(u16),
    Foreign,
}

/// A packet on its way.
pub(super) struct Walker<'a> {
    pub(super) flow: &'a Flow,
    pub(super) opens: bool,
    pub(super) sources: &'a Sources<'a>,
    steps: Vec<ExplainStep>,
    pub(super) vip: Option<u16>,
    pub(super) slot: Option<u32>,
    pub(super) member: Option<MemberIndex>,
}

impl Walker<'_> {
    pub(super) fn note(&mut self, step: &str, finding: impl Into<String>) {
        self.steps.push(ExplainStep {
            step: step.to_owned(),
            finding: finding.into(),
        });
    }

    fn packet(&self) -> String {
        let kind = match (self.flow.protocol, self.opens) {
            (Protocol::Tcp, true) => "TCP, opens a connection (SYN)",
            (Protocol::Tcp, false) => "TCP, goes on with a connection (no SYN)",
            (Protocol::Udp, _) => "UDP",
        };
        format!("{kind}; taken to be small, well-formed, no fragment, with hops left")
    }

    fn go(&mut self) -> Step<End> {
        match self.service()? {
            Service::Vip(index) => self.serve(index),
            Service::NatSource(index) => self.answer(index),
            Service::Foreign => Err(self.foreign()?),
        }
    }

    /// The exact service first, then the address with any port.
    fn service(&mut self) -> Step<Service> {
        let (address, family) = self.flow.dest_address();
        let (port, protocol) = (self.flow.dest.port(), self.flow.protocol);
        let key = VipKey::new(&address, family, protocol.number(), port.to_be());
        let services = self.sources.tables.services;
        let exact = services.get(&key)?.filter(|&found| found != 0);
        let found = match exact {
            Some(found) => Some(found),
            None => services.get(&key.with_port(0))?,
        };
        let found = found.unwrap_or(0);
        let index = target::index(found);
        Ok(match target::kind(found) {
            target::VIP => {
                let vip = self.sources.tables.vips.read(index)?;
                let how = if port == 0 || exact.is_none() {
                    format!("any {protocol} port of {}", self.flow.dest.ip())
                } else {
                    format!("{protocol} port {port} of {}", self.flow.dest.ip())
                };
                let name = self.vip_label(index);
                self.note("vip", format!("{how} is {name} ({})", describe(&vip)));
                self.vip = Some(index);
                Service::Vip(index)
            }
            target::NAT_SOURCE => {
                let ip = self.flow.dest.ip();
                let text = format!("no VIP: {ip} is an address that `nat` sends from");
                self.note("vip", text);
                Service::NatSource(index)
            }
            _ => Service::Foreign,
        })
    }

    /// Why a packet for no service is passed.
    fn foreign(&mut self) -> Step<Stop> {
        let (address, family) = self.flow.dest_address();
        let key = VipKey::new(&address, family, 0, 0);
        let found = self.sources.tables.services.get(&key)?.unwrap_or(0);
        let (ip, port) = (self.flow.dest.ip(), self.flow.dest.port());
        let protocol = self.flow.protocol;
        if target::kind(found) == target::ADDRESS {
            let text = format!("{ip} is a VIP's address, but none has {protocol} port {port}");
            self.note("vip", text);
            Ok(Stop::Reason(Reason::NoService))
        } else {
            self.note("vip", format!("no VIP has the address {ip}"));
            Ok(Stop::Reason(Reason::NoVip))
        }
    }

    fn serve(&mut self, index: u16) -> Step<End> {
        let vip = self.sources.tables.vips.read(index)?;
        let (dest, family) = self.flow.dest_address();
        let source = self.flow.source_address();
        if !is_host(&source, family) || source == dest {
            let ip = self.flow.source.ip();
            self.note(
                "source",
                format!("{ip} is no single host, or the VIP itself"),
            );
            return Err(Stop::Reason(Reason::MartianSource));
        }
        if vip.forward == forward::NAT {
            return self.request(index, &vip);
        }
        let choice = self.choose(&vip)?;
        let route = self.route(choice.member)?;
        self.send(&vip, &route, choice.flow_hash)
    }

    pub(super) fn vip_label(&self, index: u16) -> String {
        match self.sources.names.vip(index) {
            Some(name) => format!("VIP {name}"),
            None => format!("VIP number {index}"),
        }
    }

    pub(super) fn member_label(&self, index: MemberIndex) -> String {
        match self.sources.names.member(index) {
            Some(name) => format!("{name} (member {index})"),
            None if index == NO_MEMBER => "nobody".to_owned(),
            None => format!("member {index}"),
        }
    }

    pub(super) fn interface_label(&self, ifindex: u32) -> String {
        match self.sources.names.interface(ifindex) {
            Some(name) => name,
            None => format!("interface {ifindex}"),
        }
    }
}

/// The settings of a VIP that matter to a packet.
fn describe(vip: &Vip) -> String {
    let forward = match vip.forward {
        forward::L2 => "l2",
        forward::IPIP => "ipip",
        forward::NAT => "nat",
        _ => "?",
    };
    let affinity = match vip.affinity {
        affinity::SOURCE => "source",
        _ => "flow",
    };
    let track = match vip.track {
        track::NEVER => "never",
        track::ALWAYS => "always",
        _ => "on-change",
    };
    format!("forward {forward}, affinity {affinity}, track {track}")
}

/// An address of the maps, as people write it.
pub(super) fn ip_of(address: &Address, address_family: u8) -> IpAddr {
    let [high, low] = *address;
    if address_family == family::V4 {
        return Ipv4Addr::from((high as u32).to_ne_bytes()).into();
    }
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&high.to_ne_bytes());
    octets[8..].copy_from_slice(&low.to_ne_bytes());
    Ipv6Addr::from(octets).into()
}

//! The walk of a packet through the program, from the VIP lookup to the verdict.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    is_host,
    reason::{Fate, Reason},
    ring::{MemberIndex, NO_MEMBER},
    vip::{Vip, VipKey, affinity, forward, target, track},
};

use super::{ExplainError, Flow, FlowError, Sources};
use crate::DataplaneError;
use lb_model::config::Protocol;

/// The program's return value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Transmitted on the interface that received it.
    Tx,
    /// Transmitted on another interface.
    Redirect,
    /// Passed to the host.
    Pass,
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

/// A packet as it is transmitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub ifindex: u32,
    /// Destination MAC address.
    pub mac: [u8; 6],
    /// Source and destination of the outer header, if there is one.
    pub outer: Option<(IpAddr, IpAddr)>,
    /// Source and destination after rewriting (`nat`). A new session's port is the one that would be
    /// taken now.
    pub rewritten: Option<(SocketAddr, SocketAddr)>,
}

/// One decision: the map or stage consulted, and what was found there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub step: &'static str,
    pub finding: String,
}

/// The outcome for a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    pub steps: Vec<Step>,
    pub vip: Option<u16>,
    pub slot: Option<u32>,
    /// The selected member; it may be unable to accept the packet.
    pub member: Option<MemberIndex>,
    pub verdict: Verdict,
    /// The reason counter that is incremented.
    pub reason: Reason,
    /// How it is transmitted, when it is forwarded.
    pub sent: Option<Sent>,
}

/// Walks through the program's decisions for a packet without changing anything. `opens`: TCP with
/// SYN and without ACK.
///
/// # Errors
///
/// A map can't be read, or `opens` is set for UDP.
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
    let end = match walker.verdict() {
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

/// Why a walk ends before the packet is forwarded.
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

pub(super) type Found<T> = Result<T, Stop>;

pub(super) struct End {
    pub(super) verdict: Verdict,
    pub(super) reason: Reason,
    pub(super) sent: Option<Sent>,
}

impl End {
    /// For a packet that is not forwarded.
    pub(super) fn of(reason: Reason) -> Self {
        let verdict = match reason.text().fate {
            // The program replies to the sender.
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

/// What a packet's destination belongs to.
enum Service {
    Vip(u16),
    NatSource(u16),
    Foreign,
}

pub(super) struct Walker<'a> {
    pub(super) flow: &'a Flow,
    pub(super) opens: bool,
    pub(super) sources: &'a Sources<'a>,
    steps: Vec<Step>,
    pub(super) vip: Option<u16>,
    pub(super) slot: Option<u32>,
    pub(super) member: Option<MemberIndex>,
}

impl Walker<'_> {
    pub(super) fn note(&mut self, step: &'static str, finding: impl Into<String>) {
        self.steps.push(Step {
            step,
            finding: finding.into(),
        });
    }

    fn packet(&self) -> String {
        let kind = match (self.flow.protocol, self.opens) {
            (Protocol::Tcp, true) => "TCP SYN, opens a connection",
            (Protocol::Tcp, false) => "TCP without SYN, part of a connection",
            (Protocol::Udp, _) => "UDP",
        };
        format!("{kind}; assumed small, well-formed and unfragmented, with enough TTL")
    }

    fn verdict(&mut self) -> Found<End> {
        match self.service()? {
            Service::Vip(index) => self.serve(index),
            Service::NatSource(index) => self.reply(index),
            Service::Foreign => Err(self.foreign()?),
        }
    }

    /// Looks up the exact service first, then the address with any port.
    fn service(&mut self) -> Found<Service> {
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
                let text = format!("none: {ip} is a source address of `nat`");
                self.note("vip", text);
                Service::NatSource(index)
            }
            _ => Service::Foreign,
        })
    }

    /// Why a packet that belongs to no service is passed.
    fn foreign(&mut self) -> Found<Stop> {
        let (address, family) = self.flow.dest_address();
        let key = VipKey::new(&address, family, 0, 0);
        let found = self.sources.tables.services.get(&key)?.unwrap_or(0);
        let (ip, port) = (self.flow.dest.ip(), self.flow.dest.port());
        let protocol = self.flow.protocol;
        if target::kind(found) == target::ADDRESS {
            let text = format!("{ip} is a VIP address, but no VIP has {protocol} port {port}");
            self.note("vip", text);
            Ok(Stop::Reason(Reason::NoService))
        } else {
            self.note("vip", format!("no VIP has the address {ip}"));
            Ok(Stop::Reason(Reason::NoVip))
        }
    }

    fn serve(&mut self, index: u16) -> Found<End> {
        let vip = self.sources.tables.vips.read(index)?;
        let (dest, family) = self.flow.dest_address();
        let source = self.flow.source_address();
        if !is_host(&source, family) || source == dest {
            let ip = self.flow.source.ip();
            self.note(
                "source",
                format!("{ip} is martian: not a unicast address, or the VIP itself"),
            );
            return Err(Stop::Reason(Reason::MartianSource));
        }
        self.limit_packet(index, &vip)?;
        if vip.mode() == forward::NAT {
            return self.request(index, &vip);
        }
        if self.opens {
            self.limit_flow(index, &vip)?;
        }
        let choice = self.choose(&vip)?;
        let route = self.route(choice.member)?;
        self.send(&vip, &route, choice.flow_hash)
    }

    pub(super) fn vip_label(&self, index: u16) -> String {
        match self.sources.names.vip(index) {
            Some(name) => format!("VIP {name}"),
            None => format!("VIP {index}"),
        }
    }

    pub(super) fn member_label(&self, index: MemberIndex) -> String {
        match self.sources.names.member(index) {
            Some(name) => format!("{name} (member {index})"),
            None if index == NO_MEMBER => "no backend".to_owned(),
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

/// The settings of a VIP that affect forwarding.
fn describe(vip: &Vip) -> String {
    let forward = match vip.mode() {
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

//! Forwarding: the member's state, its next hop, the outer header.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    family, ip_of,
    member::{Egress, MAX_EGRESS, Member, control},
    reason::Reason,
    ring::{MAX_MEMBERS, MemberIndex, NO_MEMBER},
    vip::{Vip, forward},
};

use super::walk::{End, Found, Sent, Stop, Verdict, Walker};

pub(super) struct Route {
    member: Member,
    mac: [u8; 6],
    egress: Egress,
}

impl Route {
    fn family(&self) -> u8 {
        control::family(self.member.control)
    }

    /// Length of the outer header in bytes.
    fn overhead(&self) -> u32 {
        if self.family() == family::V4 { 20 } else { 40 }
    }

    /// Source and destination of a flow's outer header.
    fn outer(&self, flow_hash: u64) -> (IpAddr, IpAddr) {
        let (member, family) = (&self.member, self.family());
        let mut source = member.source;
        let varied = flow_hash as u32 & member.vary_mask;
        if family == family::V4 {
            source[0] |= u64::from(varied);
        } else {
            source[1] |= u64::from(varied) << 32;
        }
        (ip_of(&source, family), ip_of(&member.address, family))
    }
}

impl Walker<'_> {
    /// The route to a member, if the member accepts packets and its next hop is known.
    pub(super) fn route(&mut self, member: MemberIndex) -> Found<Route> {
        if member == NO_MEMBER {
            self.note("member", "the VIP has no eligible backends");
            return Err(Stop::Reason(Reason::NoMember));
        }
        self.member = Some(member);
        if u32::from(member) >= MAX_MEMBERS {
            return Err(Stop::Reason(Reason::Internal));
        }
        let entry = self.sources.tables.members.read(member)?;
        let ip = ip_of(&entry.address, control::family(entry.control));
        let is_serving = control::state(entry.control) == control::SERVING;
        let state = self.sources.names.member_state(member);
        let state = state.unwrap_or_else(|| {
            let states = if is_serving {
                "up or draining"
            } else {
                "down or disabled"
            };
            states.to_owned()
        });
        let label = self.member_label(member);
        self.note("member", format!("{label} at {ip} is {state}"));
        if !is_serving {
            return Err(Stop::Reason(Reason::MemberDown));
        }
        self.next_hop(entry)
    }

    fn next_hop(&mut self, member: Member) -> Found<Route> {
        let [a, b, c, d, e, f, x, y] = member.next_hop.to_le_bytes();
        let (mac, index) = ([a, b, c, d, e, f], u16::from_le_bytes([x, y]));
        if u32::from(index) >= MAX_EGRESS {
            return Err(Stop::Reason(Reason::Internal));
        }
        let egress = self.sources.tables.egress.read(index)?;
        if egress.ifindex == 0 {
            let text = "unknown: no route, unresolved neighbour, or l2 through a gateway; \
                        `evenkeel status` shows which";
            self.note("next hop", text);
            return Err(Stop::Reason(Reason::NoNextHop));
        }
        let interface = self.interface_label(egress.ifindex);
        let text = format!("{} on {interface}, MTU {}", mac_text(mac), egress.mtu);
        self.note("next hop", text);
        Ok(Route {
            member,
            mac,
            egress,
        })
    }

    /// Forwards the packet unchanged (`l2`) or with an outer header (`ipip`).
    pub(super) fn send(&mut self, vip: &Vip, route: &Route, flow_hash: u64) -> Found<End> {
        if vip.mode() != forward::IPIP {
            self.check_size(route, 0)?;
            return self.finish(route, None, None);
        }
        self.check_size(route, route.overhead())?;
        let (source, dest) = route.outer(flow_hash);
        let (bytes, fits) = (route.overhead(), route.egress.mtu - route.overhead());
        let text = format!(
            "{bytes}-byte outer header, {source} > {dest}; largest inner packet {fits} bytes"
        );
        self.note("encapsulation", text);
        self.finish(route, Some((source, dest)), None)
    }

    /// Forwards a packet with rewritten addresses and ports (`nat`).
    pub(super) fn send_rewritten(
        &mut self,
        route: &Route,
        source: SocketAddr,
        dest: SocketAddr,
    ) -> Found<End> {
        self.check_size(route, 0)?;
        self.note("nat", format!("rewritten to {source} > {dest}"));
        self.finish(route, None, Some((source, dest)))
    }

    /// Checks the smallest packet of the flow against the MTU.
    fn check_size(&mut self, route: &Route, overhead: u32) -> Found<()> {
        if self.flow.length() + overhead <= route.egress.mtu {
            return Ok(());
        }
        let mtu = route.egress.mtu;
        self.note("encapsulation", format!("no packet fits the MTU of {mtu}"));
        Err(Stop::Reason(if self.flow.dest.is_ipv4() {
            Reason::FragmentationNeeded
        } else {
            Reason::PacketTooBig
        }))
    }

    fn finish(
        &mut self,
        route: &Route,
        outer: Option<(IpAddr, IpAddr)>,
        rewritten: Option<(SocketAddr, SocketAddr)>,
    ) -> Found<End> {
        Ok(End {
            verdict: self.transmit_on(route.egress.ifindex)?,
            reason: Reason::Forwarded,
            sent: Some(Sent {
                ifindex: route.egress.ifindex,
                mac: route.mac,
                outer,
                rewritten,
            }),
        })
    }

    /// The verdict that transmits a frame on an interface.
    pub(super) fn transmit_on(&mut self, ifindex: u32) -> Found<Verdict> {
        let Some(ingress) = self.sources.ingress.filter(|&ingress| ingress != ifindex) else {
            return Ok(Verdict::Tx);
        };
        let (from, to) = (self.interface_label(ingress), self.interface_label(ifindex));
        if !self.sources.tables.egress.admits(ifindex)? {
            let text = format!("can't redirect from {from} to {to}");
            self.note("egress", text);
            return Err(Stop::Reason(Reason::NoNextHop));
        }
        let text = format!("redirected to {to} if received on {from}");
        self.note("egress", text);
        Ok(Verdict::Redirect)
    }
}

pub(super) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

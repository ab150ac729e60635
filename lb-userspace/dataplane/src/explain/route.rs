//! Out: the member's state, its next hop, the outer header.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    family,
    member::{Egress, MAX_EGRESS, Member, control},
    reason::Reason,
    ring::{MAX_MEMBERS, MemberIndex, NO_MEMBER},
    vip::{Vip, forward},
};

use super::walk::{End, Sent, Step, Stop, Verdict, Walker, ip_of};

/// Where a member's packets go now.
pub(super) struct Route {
    member: Member,
    mac: [u8; 6],
    egress: Egress,
}

impl Route {
    fn family(&self) -> u8 {
        control::family(self.member.control)
    }

    /// Bytes that an outer header adds.
    fn overhead(&self) -> u32 {
        if self.family() == family::V4 { 20 } else { 40 }
    }

    /// Source and destination of the outer header of a flow.
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
    /// The way to a member, if it takes packets and its next hop is known.
    pub(super) fn route(&mut self, member: MemberIndex) -> Step<Route> {
        if member == NO_MEMBER {
            self.note("member", "the VIP has nobody to serve it");
            return Err(Stop::Reason(Reason::NoMember));
        }
        self.member = Some(member);
        if u32::from(member) >= MAX_MEMBERS {
            return Err(Stop::Reason(Reason::Internal));
        }
        let entry = self.sources.tables.members.read(member)?;
        let ip = ip_of(&entry.address, control::family(entry.control));
        let who = self.member_label(member);
        let said = self.sources.names.member_state(member);
        if control::state(entry.control) != control::SERVING {
            let state = said.unwrap_or_else(|| "down or disabled".to_owned());
            self.note("member", format!("{who} at {ip} takes no packets: {state}"));
            return Err(Stop::Reason(Reason::MemberDown));
        }
        let state = said.unwrap_or_else(|| "up or draining".to_owned());
        self.note("member", format!("{who} at {ip} takes packets: {state}"));
        self.next_hop(entry)
    }

    fn next_hop(&mut self, member: Member) -> Step<Route> {
        let [a, b, c, d, e, f, x, y] = member.next_hop.to_le_bytes();
        let (mac, index) = ([a, b, c, d, e, f], u16::from_le_bytes([x, y]));
        if u32::from(index) >= MAX_EGRESS {
            return Err(Stop::Reason(Reason::Internal));
        }
        let egress = self.sources.tables.egress.read(index)?;
        if egress.ifindex == 0 {
            let text = "not known: no route, no answer of the neighbour, or l2 through a gateway; `evenkeel status` says which";
            self.note("next hop", text);
            return Err(Stop::Reason(Reason::NoNextHop));
        }
        let through = self.interface_label(egress.ifindex);
        let text = format!("{} through {through}, MTU {}", mac_text(mac), egress.mtu);
        self.note("next hop", text);
        Ok(Route {
            member,
            mac,
            egress,
        })
    }

    /// Sends the packet as it is, or with an outer header (`l2`, `ipip`).
    pub(super) fn send(&mut self, vip: &Vip, route: &Route, flow_hash: u64) -> Step<End> {
        if vip.forward != forward::IPIP {
            self.check_size(route, 0)?;
            return self.finish(route, None, None);
        }
        self.check_size(route, route.overhead())?;
        let (source, dest) = route.outer(flow_hash);
        let (bytes, room) = (route.overhead(), route.egress.mtu - route.overhead());
        let text = format!(
            "{bytes} bytes of outer header, {source} > {dest}; packets of up to {room} bytes fit"
        );
        self.note("encapsulation", text);
        self.finish(route, Some((source, dest)), None)
    }

    /// Sends a packet with other addresses and ports (`nat`).
    pub(super) fn send_rewritten(
        &mut self,
        route: &Route,
        source: SocketAddr,
        dest: SocketAddr,
    ) -> Step<End> {
        self.check_size(route, 0)?;
        self.note("nat", format!("rewritten to {source} > {dest}"));
        self.finish(route, None, Some((source, dest)))
    }

    /// The packet is as small as it can be; even so it may not fit.
    fn check_size(&mut self, route: &Route, overhead: u32) -> Step<()> {
        if self.flow.length() + overhead <= route.egress.mtu {
            return Ok(());
        }
        let mtu = route.egress.mtu;
        self.note("encapsulation", format!("nothing fits the MTU of {mtu}"));
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
    ) -> Step<End> {
        Ok(End {
            verdict: self.leave_by(route.egress.ifindex)?,
            reason: Reason::Forwarded,
            sent: Some(Sent {
                ifindex: route.egress.ifindex,
                mac: route.mac,
                outer,
                rewritten,
            }),
        })
    }

    /// How a frame gets out of an interface.
    pub(super) fn leave_by(&mut self, ifindex: u32) -> Step<Verdict> {
        let Some(ingress) = self.sources.ingress.filter(|&ingress| ingress != ifindex) else {
            return Ok(Verdict::Tx);
        };
        let (from, to) = (self.interface_label(ingress), self.interface_label(ifindex));
        if !self.sources.tables.egress.admits(ifindex)? {
            let text = format!("frames can't be redirected from {from} to {to}");
            self.note("egress", text);
            return Err(Stop::Reason(Reason::NoNextHop));
        }
        let text = format!("redirected to {to}, if the packet comes in by {from}");
        self.note("egress", text);
        Ok(Verdict::Redirect)
    }
}

/// A MAC address, as people write it.
pub(super) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

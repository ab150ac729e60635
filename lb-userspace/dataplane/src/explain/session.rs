//! `nat`: sessions, found or yet to begin.

use std::net::SocketAddr;

use lb_common::{
    member::{Member, control},
    nat::{MAX_NAT_SOURCES, NatKey, PORT_TRIES, REPLY, state},
    reason::Reason,
    ring::NO_MEMBER,
    vip::Vip,
};

use super::{
    route::mac_text,
    walk::{End, Sent, Step, Stop, Walker, ip_of},
};
use crate::SessionEntry;
use lb_model::config::Protocol;

/// What a session makes of a client's packet.
struct Rewriting {
    member: u16,
    source: SocketAddr,
    dest: SocketAddr,
}

impl Walker<'_> {
    /// A client's packet for a VIP with `nat`.
    pub(super) fn request(&mut self, index: u16, vip: &Vip) -> Step<End> {
        let rewriting = match self.find_session(index)? {
            Some(found) => self.follow(&found),
            None => self.begin(vip)?,
        };
        let route = self.route(rewriting.member)?;
        self.send_rewritten(&route, rewriting.source, rewriting.dest)
    }

    /// Entries are found by this: `scope` is the VIP, or the NAT source with [`REPLY`].
    fn key(&self, scope: u16) -> NatKey {
        NatKey {
            address: self.flow.source_address(),
            source_be: self.flow.source.port().to_be(),
            dest_be: self.flow.dest.port().to_be(),
            scope,
            protocol: self.flow.protocol.number().into(),
        }
    }

    fn session_of(&self, key: &NatKey) -> Step<Option<SessionEntry>> {
        let tables = &self.sources.tables;
        Ok((tables.sessions).find(key, tables.members, tables.nat_sources)?)
    }

    /// The session that a client's packet belongs to.
    fn find_session(&mut self, vip: u16) -> Step<Option<SessionEntry>> {
        let Some(found) = self.session_of(&self.key(vip))? else {
            self.note("session", "the flow has none");
            return Ok(None);
        };
        let flow = &found.flow;
        let who = self.member_label(flow.member);
        let word = self.sources.tables.members.read(flow.member)?.control;
        let is_current = control::generation(word) as u8 == flow.generation as u8
            && control::state(word) != control::ABSENT;
        let gone = if !is_current {
            "whose member is gone"
        } else if !self.opens {
            return Ok(Some(found));
        } else if flow.state & (state::RST | state::FIN) != 0 {
            "which is closed"
        } else if self.was_reset(&found)? {
            "which the backend has reset"
        } else if !self.serves(flow.member)? {
            "whose member takes no packets"
        } else {
            return Ok(Some(found));
        };
        let text = format!("the flow has one with {who}, {gone}: another begins");
        self.note("session", text);
        Ok(None)
    }

    /// Whether the backend has reset the session.
    fn was_reset(&self, found: &SessionEntry) -> Step<bool> {
        let flow = &found.flow;
        let key = NatKey {
            address: flow.dest,
            source_be: flow.dest_be,
            dest_be: flow.nat_port_be,
            scope: flow.nat_source | REPLY,
            protocol: self.flow.protocol.number().into(),
        };
        let reply = self.session_of(&key)?;
        Ok(reply.is_some_and(|reply| reply.flow.state & state::RST != 0))
    }

    fn follow(&mut self, found: &SessionEntry) -> Rewriting {
        let flow = &found.flow;
        let who = self.member_label(flow.member);
        let age = if found.embryonic {
            "not answered and followed yet"
        } else {
            "established"
        };
        self.note("session", format!("the flow has one with {who}, {age}"));
        let (_, family) = self.flow.dest_address();
        Rewriting {
            member: flow.member,
            source: SocketAddr::new(ip_of(&flow.source, family), u16::from_be(flow.source_be)),
            dest: SocketAddr::new(ip_of(&flow.dest, family), u16::from_be(flow.dest_be)),
        }
    }

    /// The session that would begin with this packet.
    fn begin(&mut self, vip: &Vip) -> Step<Rewriting> {
        if self.flow.protocol == Protocol::Tcp && !self.opens {
            self.note("session", "only a SYN begins one");
            return Err(Stop::Reason(Reason::NatNoFlow));
        }
        let (slot, flow_hash) = self.find_slot(vip)?;
        let member = slot.current;
        if member == NO_MEMBER {
            return Err(Stop::Reason(Reason::NoMember));
        }
        self.member = Some(member);
        if !self.serves(member)? {
            let who = self.member_label(member);
            self.note(
                "member",
                format!("{who} takes no packets (down or disabled)"),
            );
            return Err(Stop::Reason(Reason::MemberDown));
        }
        let entry = self.sources.tables.members.read(member)?;
        let port_be = self.take_port(&entry, flow_hash)?;
        let (_, family) = self.flow.dest_address();
        let source = SocketAddr::new(ip_of(&entry.source, family), u16::from_be(port_be));
        let dest = SocketAddr::new(
            ip_of(&entry.address, family),
            u16::from_be(self.backend_port_be(&entry)),
        );
        self.note("session", format!("begins, with the free port {source}"));
        Ok(Rewriting {
            member,
            source,
            dest,
        })
    }

    fn backend_port_be(&self, member: &Member) -> u16 {
        match member.port_be {
            0 => self.flow.dest.port().to_be(),
            port_be => port_be,
        }
    }

    /// The first port, of those that the hash names, that no session to the same backend has.
    fn take_port(&mut self, member: &Member, flow_hash: u64) -> Step<u16> {
        if u32::from(member.nat_source) >= MAX_NAT_SOURCES {
            return Err(Stop::Reason(Reason::Internal));
        }
        let source = self.sources.tables.nat_sources;
        let source = source.read(member.nat_source.into())?;
        let ports = u32::from(source.ports);
        if ports == 0 {
            self.note("session", "the backend's NAT source has no ports");
            return Err(Stop::Reason(Reason::NatNoPort));
        }
        let stride = (flow_hash >> 48) as u32 | 1;
        for attempt in 0..PORT_TRIES {
            let offset = ((flow_hash as u32 >> 8) + attempt * stride) % ports;
            let port_be = (source.first_port + offset as u16).to_be();
            let key = NatKey {
                address: member.address,
                source_be: self.backend_port_be(member),
                dest_be: port_be,
                scope: member.nat_source | REPLY,
                protocol: self.flow.protocol.number().into(),
            };
            if self.session_of(&key)?.is_none() {
                return Ok(port_be);
            }
        }
        let text = format!("all {PORT_TRIES} ports that were tried are taken");
        self.note("session", text);
        Err(Stop::Reason(Reason::NatNoPort))
    }

    /// A packet to one of the node's NAT addresses: a backend's reply, or the host's own traffic.
    pub(super) fn answer(&mut self, source: u16) -> Step<End> {
        let key = self.key(source | REPLY);
        let Some(SessionEntry { flow, .. }) = self.session_of(&key)? else {
            self.note("session", "the packet belongs to none");
            return Err(Stop::Reason(Reason::NatNoSession));
        };
        (self.vip, self.member) = (Some(flow.vip), Some(flow.member));
        let who = self.member_label(flow.member);
        let vip = self.vip_label(flow.vip);
        self.note("session", format!("an answer of {who} of {vip}"));
        let (_, family) = self.flow.dest_address();
        let from = SocketAddr::new(ip_of(&flow.source, family), u16::from_be(flow.source_be));
        let to = SocketAddr::new(ip_of(&flow.dest, family), u16::from_be(flow.dest_be));
        self.note("nat", format!("rewritten to {from} > {to}"));
        let link: [u8; 12] = bytemuck::cast(flow.link);
        let mac = [link[0], link[1], link[2], link[3], link[4], link[5]];
        let through = self.interface_label(flow.ifindex);
        let text = format!(
            "{} through {through}, where the client's packets come from",
            mac_text(mac)
        );
        self.note("next hop", text);
        Ok(End {
            verdict: self.leave_by(flow.ifindex)?,
            reason: Reason::NatReply,
            sent: Some(Sent {
                ifindex: flow.ifindex,
                mac,
                outer: None,
                rewritten: Some((from, to)),
            }),
        })
    }
}

//! Sessions of `nat`, existing or about to be created.

use std::net::SocketAddr;

use lb_common::{
    address_of, ip_of,
    member::{Member, control},
    nat::{MAX_NAT_SOURCES, NatKey, PORT_TRIES, PortChoice, REPLY, state},
    reason::Reason,
    ring::NO_MEMBER,
    vip::Vip,
};

use super::{
    route::mac_text,
    walk::{End, Found, Sent, Stop, Walker},
};
use crate::SessionEntry;
use lb_model::config::Protocol;

/// How a session rewrites a client's packet.
struct Rewriting {
    member: u16,
    source: SocketAddr,
    dest: SocketAddr,
}

impl Walker<'_> {
    /// Handles a client's packet for a VIP that uses `nat`.
    pub(super) fn request(&mut self, index: u16, vip: &Vip) -> Found<End> {
        let rewriting = match self.find_session(index, vip)? {
            Some(found) => self.follow(&found),
            None => self.begin(vip)?,
        };
        let route = self.route(rewriting.member)?;
        self.send_rewritten(&route, rewriting.source, rewriting.dest)
    }

    /// Key of the packet's session: `scope` is the VIP, or the NAT source with [`REPLY`].
    fn key(&self, scope: u16) -> NatKey {
        NatKey {
            address: self.flow.source_address(),
            source_be: self.flow.source.port().to_be(),
            dest_be: self.flow.dest.port().to_be(),
            scope,
            protocol: self.flow.protocol.number().into(),
        }
    }

    fn session_of(&self, key: &NatKey, flow_hash: u64) -> Found<Option<SessionEntry>> {
        let tables = &self.sources.tables;
        Ok((tables.sessions).find(key, flow_hash, tables.members, tables.nat_sources)?)
    }

    /// The session that a client's packet belongs to.
    fn find_session(&mut self, index: u16, vip: &Vip) -> Found<Option<SessionEntry>> {
        let Some(found) = self.session_of(&self.key(index), self.flow.flow_hash(&vip.hash_key))?
        else {
            self.note("session", "none");
            return Ok(None);
        };
        let flow = &found.flow;
        let label = self.member_label(flow.member);
        let word = self.sources.tables.members.read(flow.member)?.control;
        let is_current = control::generation(word) as u8 == flow.generation as u8
            && control::state(word) != control::ABSENT;
        let gone = if !is_current {
            "the backend is gone"
        } else if !self.opens {
            return Ok(Some(found));
        } else if !self.serves(flow.member)? {
            "the backend is down or disabled"
        } else if !found.embryonic && self.is_over(&found)? && self.has_moved(vip, flow.member)? {
            "the connection is over, and the ring has another backend for the flow"
        } else {
            return Ok(Some(found));
        };
        let text = format!("session with {label} ignored: {gone}");
        self.note("session", text);
        Ok(None)
    }

    /// Whether both sides have closed the connection, or one has reset it.
    fn is_over(&self, found: &SessionEntry) -> Found<bool> {
        let flow = &found.flow;
        let key = NatKey {
            address: flow.dest,
            source_be: flow.dest_be,
            dest_be: flow.nat_port_be,
            scope: flow.nat_source | REPLY,
            protocol: self.flow.protocol.number().into(),
        };
        let reply = self.session_of(&key, 0)?;
        Ok(reply.is_some_and(|reply| state::is_over(reply.flow.state)))
    }

    fn follow(&mut self, found: &SessionEntry) -> Rewriting {
        let flow = &found.flow;
        let label = self.member_label(flow.member);
        let age = if found.embryonic {
            "not established yet"
        } else {
            "established"
        };
        self.note("session", format!("found, with {label}, {age}"));
        let (_, family) = self.flow.dest_address();
        Rewriting {
            member: flow.member,
            source: SocketAddr::new(ip_of(&flow.source, family), u16::from_be(flow.source_be)),
            dest: SocketAddr::new(ip_of(&flow.dest, family), u16::from_be(flow.dest_be)),
        }
    }

    /// The session that this packet would create.
    fn begin(&mut self, vip: &Vip) -> Found<Rewriting> {
        if self.flow.protocol == Protocol::Tcp && !self.opens {
            self.note("session", "none can be created: only a SYN creates one");
            return Err(Stop::Reason(Reason::NatNoFlow));
        }
        if let Some(index) = self.vip {
            self.limit_flow(index, vip)?;
        }
        let (slot, hashes) = self.find_slot(vip)?;
        let flow_hash = hashes.flow;
        let member = self.spill(vip, slot, hashes)?.unwrap_or(slot.current);
        if member == NO_MEMBER {
            return Err(Stop::Reason(Reason::NoMember));
        }
        self.member = Some(member);
        if !self.serves(member)? {
            let label = self.member_label(member);
            self.note("member", format!("{label} is down or disabled"));
            return Err(Stop::Reason(Reason::MemberDown));
        }
        let entry = self.sources.tables.members.read(member)?;
        let port_be = self.free_port(vip, &entry, flow_hash)?;
        let (_, family) = self.flow.dest_address();
        let nat_source = self
            .sources
            .tables
            .nat_sources
            .read(entry.nat_source.into())?;
        let source = SocketAddr::new(ip_of(&nat_source.address, family), u16::from_be(port_be));
        let dest = SocketAddr::new(
            ip_of(&entry.address, family),
            u16::from_be(self.backend_port_be(&entry)),
        );
        self.note("session", format!("new, from port {source}"));
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

    /// The first of the ports of the flow's choice that no session to the same backend uses. If none
    /// is free, one whose connection is over is reused.
    fn free_port(&mut self, vip: &Vip, member: &Member, flow_hash: u64) -> Found<u16> {
        if u32::from(member.nat_source) >= MAX_NAT_SOURCES {
            return Err(Stop::Reason(Reason::Internal));
        }
        let source = self.sources.tables.nat_sources;
        let source = source.read(member.nat_source.into())?;
        if source.ports == 0 {
            self.note("session", "the backend has no NAT source: no route to it");
            return Err(Stop::Reason(Reason::NoNextHop));
        }
        let mut reused = None;
        let (client, _) = address_of(self.flow.source.ip());
        let choice = PortChoice::new(&source, vip, &client, flow_hash);
        for attempt in 0..PORT_TRIES {
            let port_be = (source.first_port + choice.nth(attempt)).to_be();
            let key = NatKey {
                address: member.address,
                source_be: self.backend_port_be(member),
                dest_be: port_be,
                scope: member.nat_source | REPLY,
                protocol: self.flow.protocol.number().into(),
            };
            match self.session_of(&key, 0)? {
                None => return Ok(port_be),
                Some(old) if !old.embryonic && state::is_over(old.flow.state) => {
                    reused = reused.or(Some(port_be));
                }
                Some(_) => {}
            }
        }
        let text = match reused {
            Some(_) => "no tried port is free: one whose connection is over is used again",
            None => "all tried ports are in use",
        };
        self.note("session", text);
        reused.ok_or(Stop::Reason(Reason::NatNoPort))
    }

    /// Handles a packet to one of the node's NAT addresses: a backend's reply, or the host's own
    /// traffic.
    pub(super) fn reply(&mut self, source: u16) -> Found<End> {
        let key = self.key(source | REPLY);
        let Some(SessionEntry { flow, .. }) = self.session_of(&key, 0)? else {
            self.note("session", "none: not a reply to a session");
            return Err(Stop::Reason(Reason::NatNoSession));
        };
        (self.vip, self.member) = (Some(flow.vip), Some(flow.member));
        let label = self.member_label(flow.member);
        let vip = self.vip_label(flow.vip);
        self.note("session", format!("reply from {label} of {vip}"));
        let (_, family) = self.flow.dest_address();
        let from = SocketAddr::new(ip_of(&flow.source, family), u16::from_be(flow.source_be));
        let to = SocketAddr::new(ip_of(&flow.dest, family), u16::from_be(flow.dest_be));
        self.note("nat", format!("rewritten to {from} > {to}"));
        let link: [u8; 12] = bytemuck::cast(flow.link);
        let mac = [link[0], link[1], link[2], link[3], link[4], link[5]];
        let interface = self.interface_label(flow.ifindex);
        let text = format!(
            "{} on {interface}, where the client's packets arrive",
            mac_text(mac)
        );
        self.note("next hop", text);
        Ok(End {
            verdict: self.transmit_on(flow.ifindex)?,
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

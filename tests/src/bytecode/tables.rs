//! VIPs and members for packet tests: member N is the only member of VIP N.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use lb_common::{
    address_of,
    checksum::fold,
    family,
    hash::HashKey,
    member::{Egress, MAX_EGRESS, Member, NextHop, control},
    nat::NatSource,
    ring::{MAX_MEMBERS, MemberIndex, NO_MEMBER},
    station::{STATION_TABLE_SIZE, Station},
    vip::{MAX_VIPS, VIP_TABLE_SIZE, Vip, VipEntry, VipKey, affinity, forward, target, track},
};
use lb_dataplane::{Dataplane, RingName};
use lb_model::transition::RingState;

use crate::packet::{Frame, Ip, Mac, V4, V6};

/// VIPs of these tables and of tests.
pub const VIPS: u16 = 32;
/// Members of these tables and of tests.
pub const MEMBERS: u16 = 40;
/// Slots of the rings.
pub const RING_SIZE: u32 = 251;
/// MTU of the ingress interface of test frames.
pub const MTU: u32 = 1500;

/// Address of VIPs.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Address of the VIP for any port.
pub const ANY4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
/// Address of VIPs that can't serve.
pub const BROKEN4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 30);
/// Address of VIPs.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
/// The node's address for `nat`.
pub const NAT4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The node's address for `nat`.
pub const NAT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
/// Ports of the `nat` addresses.
pub const NAT_PORTS: std::ops::Range<u16> = 20_000..60_000;
/// Outer source: the low 16 bits vary.
pub const OUTER4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 0);
/// Outer source: the low 32 bits vary.
pub const OUTER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0);

/// Hash key of all VIPs.
pub const KEY: HashKey = HashKey {
    k0: 0x0123_4567_89ab_cdef,
    k1: 0xb492_b66f_be98_f273,
    k2: 0x9ae1_6a3b_2f90_404f,
    k3: 0xfedc_ba98_7654_3210,
};

/// A VIP and its member.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// Index of both.
    pub index: u16,
    pub address: IpAddr,
    /// 0: any port.
    pub port: u16,
    pub protocol: u8,
    pub forward: u8,
    pub backend_v6: bool,
    pub track: u8,
}

const TCP: u8 = 6;
const UDP: u8 = 17;

const fn service(index: u16, address: IpAddr, protocol: u8, port: u16, forward: u8) -> Service {
    Service {
        index,
        address,
        port,
        protocol,
        forward,
        backend_v6: matches!(address, IpAddr::V6(_)),
        track: track::ON_CHANGE,
    }
}

const fn crossed(service: Service) -> Service {
    Service {
        backend_v6: !service.backend_v6,
        ..service
    }
}

const fn tracked(service: Service, track: u8) -> Service {
    Service { track, ..service }
}

const A4: IpAddr = IpAddr::V4(VIP4);
const A6: IpAddr = IpAddr::V6(VIP6);
const N4: IpAddr = IpAddr::V4(ANY4);
const B4: IpAddr = IpAddr::V4(BROKEN4);

/// Services that can serve.
pub const SERVICES: [Service; 18] = [
    service(0, A4, TCP, 80, forward::L2),
    service(1, A4, TCP, 443, forward::IPIP),
    tracked(service(2, A4, UDP, 53, forward::L2), track::NEVER),
    tracked(service(3, A4, UDP, 443, forward::IPIP), track::ALWAYS),
    crossed(service(4, A4, TCP, 8080, forward::IPIP)),
    service(5, A4, TCP, 8443, forward::NAT),
    service(6, A4, UDP, 5353, forward::NAT),
    service(7, N4, TCP, 0, forward::L2),
    service(8, N4, TCP, 22, forward::IPIP),
    service(9, A6, TCP, 80, forward::L2),
    service(10, A6, TCP, 443, forward::IPIP),
    crossed(service(11, A6, TCP, 8080, forward::IPIP)),
    tracked(service(12, A6, UDP, 443, forward::IPIP), track::ALWAYS),
    service(13, A6, TCP, 8443, forward::NAT),
    service(14, A6, UDP, 5353, forward::NAT),
    tracked(service(15, A4, TCP, 81, forward::L2), track::ALWAYS),
    tracked(service(16, A6, UDP, 53, forward::L2), track::NEVER),
    service(17, A4, TCP, 84, forward::L2),
];

/// The service whose packets leave on another interface.
pub const ELSEWHERE: Service = SERVICES[17];

/// VIPs that can't serve: without a ring, without members, with a member that is down (also for `nat`), and
/// with a member without a next hop.
pub const NO_RING: Service = service(20, B4, TCP, 80, forward::L2);
/// See [`NO_RING`].
pub const EMPTY_RING: Service = service(21, B4, TCP, 81, forward::IPIP);
/// See [`NO_RING`].
pub const DOWN: Service = service(22, B4, TCP, 82, forward::L2);
/// See [`NO_RING`].
pub const NO_NEXT_HOP: Service = service(23, B4, TCP, 83, forward::IPIP);
/// See [`NO_RING`].
pub const NAT_DOWN: Service = service(24, B4, TCP, 84, forward::NAT);

impl Service {
    /// Returns the address of the backend.
    #[must_use]
    pub const fn backend(&self) -> IpAddr {
        if self.backend_v6 {
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, self.index + 1))
        } else {
            IpAddr::V4(Ipv4Addr::new(10, 0, 1, self.index as u8 + 1))
        }
    }

    /// Returns the port of the backend behind `nat`.
    #[must_use]
    pub const fn backend_port(&self) -> u16 {
        8000 + self.index
    }

    /// Returns the MAC address of the next hop.
    #[must_use]
    pub const fn mac(&self) -> Mac {
        [2, 0, 0, 0, 1, self.index as u8]
    }

    /// Returns a frame as the member receives it: with other MAC addresses and a decremented TTL.
    #[must_use]
    pub fn delivered(&self, frame: &Frame) -> Frame {
        let mut frame = frame.clone().link(self.mac(), frame.to);
        *frame.ip.ttl_mut() -= 1;
        frame
    }

    /// Returns a frame as the member receives it: encapsulated. `flow_hash` varies the outer source.
    #[must_use]
    pub fn encapsulated(&self, frame: &Frame, flow_hash: u64) -> Frame {
        let mut inner = self.delivered(frame);
        let mut outer: Ip = match self.backend() {
            IpAddr::V4(backend) => {
                let [.., a, b] = (flow_hash as u32).to_le_bytes();
                let [c, d, ..] = OUTER4.octets();
                let mut outer = V4::new(Ipv4Addr::from([c, d, a, b]), backend);
                outer.id = 0;
                outer.into()
            }
            IpAddr::V6(backend) => {
                let mut source = OUTER6.octets();
                source[12..].copy_from_slice(&(flow_hash as u32).to_le_bytes());
                let mut outer = V6::new(source.into(), backend);
                outer.flow_label = (flow_hash >> 12) as u32 & 0xf_ffff;
                outer.into()
            }
        };
        *outer.class_mut() = *inner.ip.class_mut();
        inner.inside(outer)
    }

    fn key(&self, protocol: u8, port: u16) -> VipKey {
        let (address, family) = address_of(self.address);
        VipKey::new(&address, family, protocol, port.to_be())
    }

    fn vip(&self) -> Vip {
        Vip {
            ring: 0,
            hash_key: KEY,
            forward: self.forward,
            affinity: affinity::FLOW,
            track: self.track,
            family: address_of(self.address).1,
            port_be: self.port.to_be(),
            protocol: self.protocol,
            _pad: [0; 9],
            sample_mask: 0,
        }
    }

    fn member(&self, state: u8, egress: u16) -> Member {
        let (backend, family) = address_of(self.backend());
        let v6 = family == family::V6;
        let (source, nat_source) = match (self.forward, v6) {
            (forward::NAT, _) => (address_of(self.address).0, u16::from(v6)),
            (_, false) => (address_of(OUTER4.into()).0, 0),
            (_, true) => (address_of(OUTER6.into()).0, 0),
        };
        let words = u64::from(source[0] as u32) + u64::from(backend[0] as u32) + 0x40;
        Member {
            control: control::pack(state, family, 1),
            next_hop: NextHop {
                mac: self.mac(),
                egress,
            }
            .pack(),
            source,
            address: backend,
            vary_mask: if v6 { u32::MAX } else { 0xffff_0000 },
            outer_sum: if v6 { 0 } else { fold(words).into() },
            port_be: if self.forward == forward::NAT {
                self.backend_port().to_be()
            } else {
                0
            },
            vip: self.index,
            nat_source,
            _pad: 0,
        }
    }
}

/// Fills the maps. The ingress interface is 1; `elsewhere` is another interface with its MAC address.
pub fn fill(dataplane: &mut Dataplane, elsewhere: Option<(u32, Mac)>) -> Result<()> {
    let here = dataplane.egress.assign(1, MTU, crate::packet::OWN)?;
    dataplane.stations.accept(1, crate::packet::OWN)?;
    for (index, source) in [IpAddr::V4(NAT4), IpAddr::V6(NAT6)].into_iter().enumerate() {
        let (address, family) = address_of(source);
        let value = NatSource {
            address,
            first_port: NAT_PORTS.start,
            ports: NAT_PORTS.len() as u16,
            draws: 0,
        };
        dataplane.nat_sources.write(index as u32, &value)?;
        let meaning = target::pack(target::NAT_SOURCE, index as u16);
        for protocol in [0, TCP, UDP] {
            dataplane.add_service(&VipKey::new(&address, family, protocol, 0), meaning)?;
        }
    }
    for service in SERVICES {
        let mut egress = here;
        if service.index == ELSEWHERE.index {
            let Some((ifindex, mac)) = elsewhere else {
                continue;
            };
            egress = dataplane.egress.assign(ifindex, MTU, mac)?;
        }
        add(dataplane, &service, control::SERVING, egress)
            .with_context(|| format!("{service:?}"))?;
    }
    for service in [NO_RING, EMPTY_RING, NO_NEXT_HOP] {
        add(dataplane, &service, control::SERVING, here)?;
    }
    add(dataplane, &DOWN, control::DOWN, here)?;
    add(dataplane, &NAT_DOWN, control::DOWN, here)?;
    dataplane.vips.swap_ring(NO_RING.index, None)?;
    set_ring(
        dataplane,
        EMPTY_RING.index,
        &[NO_MEMBER; RING_SIZE as usize],
    )?;
    dataplane.members.set_next_hop(NO_NEXT_HOP.index, None)?;
    Ok(())
}

/// The memory of the tables by symbol, with one service and its member, for interface 1.
#[must_use]
pub fn memory_of(service: &Service) -> Vec<(&'static str, Vec<u8>)> {
    fn with_one<T: bytemuck::Pod>(len: u32, index: u32, value: T) -> Vec<u8> {
        let mut table = vec![T::zeroed(); len as usize];
        table[index as usize] = value;
        bytemuck::cast_slice(&table).to_vec()
    }
    let entry = VipEntry {
        key: service.key(service.protocol, service.port),
        target: target::pack(target::VIP, service.index),
    };
    let vip = Vip {
        ring: Vip::pack_ring(0, RING_SIZE),
        sample_mask: u32::MAX.into(),
        ..service.vip()
    };
    let egress = Egress {
        ifindex: 1,
        mtu: MTU,
        _pad: 0,
        mac: crate::packet::OWN,
    };
    let (index, member) = (service.index.into(), service.member(control::SERVING, 1));
    let station = Station::new(crate::packet::OWN, 1);
    vec![
        (
            "VIP_TABLE",
            with_one(VIP_TABLE_SIZE, entry.key.home(), entry),
        ),
        ("VIPS", with_one(MAX_VIPS, index, vip)),
        ("MEMBERS", with_one(MAX_MEMBERS, index, member)),
        ("EGRESS", with_one(MAX_EGRESS, 1, egress)),
        ("MAIN_STATION", station.0.to_le_bytes().to_vec()),
        (
            "STATIONS",
            with_one(STATION_TABLE_SIZE, station.home(), station.0),
        ),
    ]
}

/// Adds a VIP and its member.
pub fn add(dataplane: &mut Dataplane, service: &Service, state: u8, egress: u16) -> Result<()> {
    let index = service.index;
    dataplane
        .members
        .write(index, &service.member(state, egress))?;
    dataplane.vips.write(index, &service.vip())?;
    set_ring(dataplane, index, &[index; RING_SIZE as usize])?;
    let vip = target::pack(target::VIP, index);
    dataplane.add_service(&service.key(service.protocol, service.port), vip)?;
    add_address(dataplane, &service.key(0, 0), service.protocol)
}

/// Adds the address of a VIP, or adds a protocol to it.
pub fn add_address(dataplane: &mut Dataplane, address: &VipKey, protocol: u8) -> Result<()> {
    let others = dataplane.services.get(address)?.unwrap_or(0);
    let bit = target::protocol_bit(protocol);
    let meaning = target::pack(target::ADDRESS, bit) | others;
    dataplane.add_service(address, meaning)?;
    Ok(())
}

/// Sets the ring of a VIP, without slots in transition.
pub fn set_ring(dataplane: &mut Dataplane, vip: u16, ring: &[MemberIndex]) -> Result<()> {
    set_state(dataplane, vip, &RingState::new_clean(ring))
}

/// Swaps a VIP's ring.
pub fn set_state(dataplane: &mut Dataplane, vip: u16, state: &RingState) -> Result<()> {
    let before = dataplane.vips.ring(vip)?;
    let image = dataplane.rings.stage(&state.to_image())?;
    let size = state.size();
    dataplane
        .vips
        .swap_ring(vip, Some(RingName { image, size }))?;
    if let Some(before) = before {
        dataplane.rings.retire(before.image);
    }
    Ok(())
}

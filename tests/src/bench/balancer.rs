//! The balancer of a workload: VIPs, members, rings and sessions, written directly to the tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use bytemuck::Zeroable as _;
use lb_common::{
    Address, address_of,
    bench::{Flow, Plan},
    checksum, family,
    hash::HashKey,
    limit::{Limit, Rate},
    member::{Member, NextHop, control},
    nat::{NatFlow, NatKey, NatSource, REPLY},
    proto,
    ring::MemberIndex,
    vip::{Vip, VipKey, forward, limited, target},
};
use lb_dataplane::{Dataplane, LoadOptions, RingName};
use lb_model::{
    config::Prefix,
    ring::{Identity, RingMember, RingSize, build},
    transition::RingState,
};

use super::packets::{self, PORT, Packets, VIP_V4, VIP_V6};

/// Members per VIP.
pub const MEMBERS: u16 = 16;

/// Ingress interface of test runs: the loopback interface. Frames that leave on the same interface are
/// transmitted (`XDP_TX`), not redirected.
const LOOPBACK: u32 = 1;

const GENERATION: u32 = 3;
/// One flow in 128 is sampled, as the share monitor does at ten million packets per second.
const SAMPLE_MASK: u32 = 127;
const FIRST_NAT_PORT: u16 = 1024;

/// Settings of the VIPs of a workload.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    pub forward: u8,
    pub track: u8,
    pub affinity: u8,
    /// Family of the members' addresses.
    pub member_family: u8,
    /// Whether all slots are in transition.
    pub in_transition: bool,
    /// Whether all flows are sampled, instead of one in [`SAMPLE_MASK`] + 1.
    pub sampled: bool,
    /// Which limits the VIPs have ([`limited`]): no packet is over one or of a denied source.
    pub limits: u8,
}

/// Loads a balancer with one VIP per destination of the packets.
pub fn load(options: &LoadOptions, service: &Service, packets: &Packets) -> Result<Dataplane> {
    let mut dataplane = Dataplane::load(options).context("load the balancer")?;
    let egress = dataplane
        .egress
        .assign(LOOPBACK, 1500, [2, 0, 0, 0, 0, 9])?;
    dataplane.stations.accept(LOOPBACK, packets::OWN_MAC)?;
    for number in 0..packets.dests {
        let vip = number as u16;
        write_members(&dataplane, service, vip, egress)?;
        write_vip(&mut dataplane, service, packets, vip)?;
    }
    if service.forward == forward::NAT {
        let source = NatSource {
            address: nat_address(packets.family),
            first_port: FIRST_NAT_PORT,
            ports: u16::MAX - FIRST_NAT_PORT,
            draws: 0,
        };
        dataplane.nat_sources.write(0, &source)?;
    }
    Ok(dataplane)
}

fn member_ip(member: u16, of: u8) -> IpAddr {
    let [high, low] = member.to_be_bytes();
    if of == family::V4 {
        IpAddr::V4(Ipv4Addr::new(10, 1, high, low))
    } else {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, member))
    }
}

fn nat_address(of: u8) -> Address {
    if of == family::V4 {
        address_of(IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1))).0
    } else {
        address_of(IpAddr::V6(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1))).0
    }
}

fn members_of(vip: u16) -> std::ops::Range<MemberIndex> {
    vip * MEMBERS..(vip + 1) * MEMBERS
}

fn write_members(dataplane: &Dataplane, service: &Service, vip: u16, egress: u16) -> Result<()> {
    for index in members_of(vip) {
        let of = service.member_family;
        let dest = address_of(member_ip(index, of)).0;
        let nat = service.forward == forward::NAT;
        let source = if nat {
            vip_address(vip, of)
        } else if of == family::V4 {
            address_of(IpAddr::V4(Ipv4Addr::new(10, 8, 0, 0))).0
        } else {
            address_of(IpAddr::V6(Ipv6Addr::new(0xfd00, 8, 0, 0, 0, 0, 0, 0))).0
        };
        let [_, _, _, _, high, low] = [2, 0, 0, 0, index.to_be_bytes()[0], index.to_be_bytes()[1]];
        let next_hop = NextHop {
            mac: [2, 0, 0, 1, high, low],
            egress,
        };
        let dont_fragment = u64::from(u32::from_ne_bytes([0, 0, 0x40, 0]));
        let sum = source[0] + dest[0] + dont_fragment;
        let member = Member {
            control: control::pack(control::SERVING, of, GENERATION),
            next_hop: next_hop.pack(),
            source,
            address: dest,
            vary_mask: u32::from_ne_bytes([0, 0, 0xff, 0xff]),
            outer_sum: checksum::fold(sum).into(),
            port_be: if nat { 8443_u16.to_be() } else { 0 },
            vip,
            nat_source: 0,
            _pad: 0,
        };
        dataplane.members.write(index, &member)?;
    }
    Ok(())
}

/// Writes limits that no packet exceeds, and a list of denied sources that each packet is looked up in: it
/// contains all, but is of another VIP.
fn write_limits(dataplane: &mut Dataplane, service: &Service, vip: u16) -> Result<()> {
    const OTHERS: u64 = 1;
    const OWN: u64 = 2;
    let all = Prefix::containing(Ipv4Addr::UNSPECIFIED.into(), 0);
    dataplane
        .limits
        .set_lists(&[(all, OTHERS)].into(), OTHERS)?;
    let rate = Rate::new(400_000_000, 1_000_000_000, 1);
    let flows = service.limits & limited::FLOWS != 0;
    let packets = service.limits & limited::PACKETS != 0;
    let limit = Limit {
        source_flows: if flows { rate } else { Rate::NONE },
        source_packets: if packets { rate } else { Rate::NONE },
        vip_flows: if flows { rate } else { Rate::NONE },
        vip_packets: if packets { rate } else { Rate::NONE },
        mask_v4: [u64::MAX; 2],
        mask_v6: [u64::MAX; 2],
        port_shift: 16,
        chunk: 64,
        deny: OWN,
        ..Limit::zeroed()
    };
    Ok(dataplane.limits.write(vip, &limit)?)
}

fn write_vip(
    dataplane: &mut Dataplane,
    service: &Service,
    packets: &Packets,
    vip: u16,
) -> Result<()> {
    let size = RingSize::new(RingSize::MAX).context("ring size")?;
    let members: Vec<RingMember> = members_of(vip)
        .map(|member| RingMember {
            identity: Identity {
                address: member_ip(member, service.member_family),
                port: 0,
            },
            weight: 1,
            member,
        })
        .collect();
    let slots = build(&members, size);
    let mut ring = RingState::new_clean(&slots);
    if service.in_transition {
        let first = vip * MEMBERS;
        let moved: Vec<MemberIndex> = slots
            .iter()
            .map(|member| first + (member - first + 1) % MEMBERS)
            .collect();
        ring.change(&moved, 1)?;
    }
    let image = dataplane.rings.stage(&ring.to_image())?;
    let name = RingName {
        image,
        size: size.get(),
    };
    let protocol = packets.payload.protocol();
    let value = Vip {
        ring: name.pack(),
        hash_key: HashKey {
            k0: 0x0123_4567_89ab_cdef ^ u64::from(vip),
            k1: 0x9ae1_6a3b_2f90_404f,
            k2: 0xc3a5_c85c_97cb_3127,
            k3: 0xb492_b66f_be98_f273,
        },
        forward: service.forward | service.limits,
        affinity: service.affinity,
        track: service.track,
        family: packets.family,
        port_be: PORT.to_be(),
        protocol,
        ..Vip::zeroed()
    };
    if service.limits != 0 {
        write_limits(dataplane, service, vip)?;
    }
    dataplane.vips.write(vip, &value)?;
    let mask = if service.sampled { 0 } else { SAMPLE_MASK };
    dataplane.vips.set_sample_mask(vip, mask)?;
    let dest = vip_address(vip, packets.family);
    let key = VipKey::new(&dest, packets.family, protocol, PORT.to_be());
    dataplane.add_service(&key, target::pack(target::VIP, vip))?;
    let key = VipKey::new(&dest, packets.family, 0, 0);
    dataplane.add_service(
        &key,
        target::pack(target::ADDRESS, target::protocol_bit(protocol)),
    )?;
    Ok(())
}

/// Inserts an established session for every flow of the packets.
pub fn establish(dataplane: &mut Dataplane, packets: &Packets) -> Result<()> {
    let plan = packets.plan();
    let now_s = dataplane.now_s()? as u32;
    for number in 0..packets.flows {
        let [request, reply] = session(&plan, packets.family, Flow(number), now_s);
        dataplane.sessions.insert(&request.0, &request.1)?;
        dataplane.sessions.insert(&reply.0, &reply.1)?;
    }
    Ok(())
}

fn vip_address(vip: u16, of: u8) -> Address {
    if of == family::V4 {
        lb_common::address_v4((VIP_V4 + u32::from(vip)).to_be())
    } else {
        lb_common::address_v6(VIP_V6)
    }
}

fn session(plan: &Plan, of: u8, flow: Flow, now_s: u32) -> [(NatKey, NatFlow); 2] {
    let (client, vip) = if of == family::V4 {
        let dest = lb_common::address_v4(flow.dest_v4(plan));
        (lb_common::address_v4(flow.source_v4()), dest)
    } else {
        let client = [plan.source[0], flow.source_v6(plan.source[1])];
        (client, plan.dest)
    };
    let (client_be, vip_be) = (flow.source_be(), PORT.to_be());
    let (member, nat_be) = (flow.0 as u16 % MEMBERS, ((flow.0 >> 4) as u16).to_be());
    let (node, backend) = (nat_address(of), address_of(member_ip(member, of)).0);
    let backend_be = 8443_u16.to_be();
    let common = NatFlow {
        member,
        generation: GENERATION,
        seen_s: now_s,
        nat_port_be: nat_be,
        ..NatFlow::zeroed()
    };
    let key = |address, source_be, dest_be, scope| NatKey {
        address,
        source_be,
        dest_be,
        scope,
        protocol: proto::TCP.into(),
    };
    let request = NatFlow {
        source: node,
        dest: backend,
        source_be: nat_be,
        dest_be: backend_be,
        ..common
    };
    let reply = NatFlow {
        source: vip,
        dest: client,
        source_be: vip_be,
        dest_be: client_be,
        ifindex: LOOPBACK,
        ..common
    };
    [
        (key(client, client_be, vip_be, 0), request),
        (key(backend, backend_be, nat_be, REPLY), reply),
    ]
}

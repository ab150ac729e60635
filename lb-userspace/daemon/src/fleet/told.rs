//! VIPs, members and rings as nodes tell them.

use std::net::IpAddr;

use lb_common::proto;
use lb_fleet::exchange::{Member, Ring, Service, address_bytes};
use lb_model::{config::Protocol, ring::Identity, transition::RingState};

use crate::reconciler::{ServiceId, SharedVip};

pub(super) fn ring_told(vip: &SharedVip) -> Ring {
    let (mut moving, mut settling) = (Vec::new(), Vec::new());
    for (slot, previous, is_moving) in vip.ring.past() {
        match is_moving {
            true => moving.push((slot, previous)),
            false => settling.push((slot, previous)),
        }
    }
    Ring {
        service: service_told(vip.service),
        slots: vip.ring.size(),
        affinity: vip.affinity.into(),
        moving: moving.into_iter().collect(),
        settling: settling.into_iter().collect(),
    }
}

pub(super) fn is_moving(ring: &RingState) -> bool {
    let counts = ring.counts();
    counts.in_transition + counts.settling > 0
}

pub(super) fn service_told(service: ServiceId) -> Service {
    Service {
        address: address_bytes(service.address),
        port: service.port.into(),
        protocol: service.protocol.number().into(),
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

pub(super) fn service_of(told: &Service) -> Option<ServiceId> {
    let protocol = match u8::try_from(told.protocol).ok()? {
        proto::TCP => Protocol::Tcp,
        proto::UDP => Protocol::Udp,
        _ => return None,
    };
    Some(ServiceId {
        address: address_of(&told.address)?,
        port: told.port.try_into().ok()?,
        protocol,
    })
}

pub(super) fn identity_of(told: &Member) -> Option<Identity> {
    Some(Identity {
        address: address_of(&told.address)?,
        port: told.port.try_into().ok()?,
    })
}

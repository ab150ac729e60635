//! State for the API.

use std::{net::IpAddr, time::Instant};

use lb_announce::{FamilyState, KernelStatus, PeerStatus};
use lb_api::{
    AddressState, AddressStatus, AnnounceCheck, AnnounceStatus, AnnounceVia, DrainState,
    KernelTableStatus,
};

use super::super::{
    Snapshot,
    judge::{Address, Check, Drain, Judge},
    via::ViaState,
};
use crate::node::Announcement;

/// Most routes of others that are listed.
const MOST_FOREIGN: usize = 1000;

pub(super) fn of(snapshot: &Snapshot) -> AnnounceStatus {
    let Snapshot { at, judge, .. } = snapshot;
    let (via, peers, kernel) = match &snapshot.via {
        ViaState::Bgp(peers) => {
            let has = |v4| judge.addresses.keys().any(|it| it.is_ipv4() == v4);
            let families = [has(true), has(false)];
            let peers = peers.iter().map(|it| peer(it, families, *at));
            (AnnounceVia::Bgp, peers.collect(), None)
        }
        ViaState::Kernel(status) => {
            let table = table(snapshot.table, status, judge);
            (AnnounceVia::Kernel, Vec::new(), Some(table))
        }
    };
    let addresses = judge.addresses.iter();
    AnnounceStatus {
        via,
        drain: match snapshot.drain {
            Drain::No => DrainState::No,
            drain if drain.is_over(*at) => DrainState::Drained,
            _ => DrainState::Draining,
        },
        drain_error: snapshot.drain_error.clone(),
        peers,
        kernel,
        checks: judge.node.iter().map(check).collect(),
        addresses: addresses
            .map(|(ip, known)| address(*ip, known, *at))
            .collect(),
    }
}

fn table(number: u32, status: &KernelStatus, judge: &Judge) -> KernelTableStatus {
    let others = status.foreign.iter();
    let others = others.filter(|(address, _)| !judge.addresses.contains_key(address));
    KernelTableStatus {
        table: number,
        routes: status.routes as u64,
        in_sync: status.in_sync,
        last_error: status.last_error.clone(),
        restored: status.restored,
        foreign: others
            .take(MOST_FOREIGN)
            .map(|(address, route)| format!("{address} {route}"))
            .collect(),
    }
}

/// `wanted`: whether there are addresses of IPv4, and of IPv6.
fn peer(status: &PeerStatus, wanted: [bool; 2], now: Instant) -> lb_api::PeerStatus {
    let families = [("IPv4", status.families.v4), ("IPv6", status.families.v6)];
    let missing = families
        .into_iter()
        .zip(wanted)
        .filter_map(|(family, is_wanted)| is_wanted.then_some(family))
        .filter(|(_, state)| {
            *state == FamilyState::NotSupportedByPeer || *state == FamilyState::NoNextHop
        })
        .map(|(family, state)| format!("{family} routes are not sent: {state}"));
    lb_api::PeerStatus {
        name: status.name.clone(),
        address: status.address,
        state: format!("{:?}", status.state),
        for_s: now.saturating_duration_since(status.since).as_secs_f64(),
        last_error: status.last_error.clone(),
        flaps: status.flaps,
        routes_sent: status.routes_sent as u64,
        acknowledged: status.acknowledged,
        bfd: status.bfd.map(|state| state.to_string()),
        problems: missing.chain(status.bfd_error.clone()).collect(),
    }
}

fn address(address: IpAddr, known: &Address, now: Instant) -> AddressStatus {
    AddressStatus {
        address,
        state: match known.announcement {
            Announcement::Withheld => AddressState::Withheld,
            Announcement::Worse => AddressState::Worse,
            Announcement::Announced => AddressState::Announced,
        },
        for_s: now.saturating_duration_since(known.since).as_secs_f64(),
        vips: known.vips.clone(),
        checks: known.checks.iter().map(check).collect(),
    }
}

fn check(check: &Check) -> AnnounceCheck {
    AnnounceCheck {
        name: check.name.to_owned(),
        is_met: check.is_met,
        text: check.text.clone(),
    }
}

//! Layout 5, and what layout 6 makes of it.
//!
//! Numbers and offsets of layout 5 are written out: the definitions of today no longer describe it.
//! Counters start again, as after `unload`: the accounts by name continue.

use super::Fate;
use crate::catalog::name;

/// Words of an element of `TABLES`.
const TABLES: usize = SIZE_OF_TABLES / 8;
const SIZE_OF_TABLES: usize = SOURCES + 64 * 24;
/// Offsets in it, in bytes.
const MEMBERS: usize = 8192 * 32;
const VIPS: usize = MEMBERS + 4096 * 64;
const SOURCES: usize = VIPS + 2 * 65_536;

/// Words of a bucket of each table of `nat` sessions: eight cells.
const REQUEST: usize = 4;
const REPLY: usize = 8;
const CELLS: usize = 8;

/// The word of a session with the state bits, and their place in it.
const STATE_WORD: usize = 3;
const STATE_SHIFT: u32 = 12;
const STATE: u64 = 0xf << STATE_SHIFT;

pub(super) fn fate(map: &str) -> Fate {
    match map {
        name::RINGS | name::DEVICES | name::TRACK => Fate::Kept,
        name::TABLES => Fate::Converted(TABLES, TABLES, tables),
        name::NAT_REQUESTS => Fate::Converted(CELLS * REQUEST, CELLS * REQUEST, requests),
        name::NAT_REPLIES => Fate::Converted(CELLS * REPLY, CELLS * REPLY, replies),
        _ => Fate::Emptied,
    }
}

/// The source of a `nat` member was the address of the node, and is the address of its VIP.
fn tables(old: &[u64], new: &mut [u64]) {
    new.copy_from_slice(old);
    const NAT: u64 = 3;
    for member in (MEMBERS / 8..VIPS / 8).step_by(8) {
        let vip = old[member + 7] >> 16 & 0xffff;
        let Some(forward) = old.get(VIPS / 8 + 8 * vip as usize + 5) else {
            continue;
        };
        let Some(address) = address_of(old, vip).filter(|_| forward & 0xff == NAT) else {
            continue;
        };
        new[member + 2..member + 4].copy_from_slice(&address);
    }
}

/// The address of a VIP, found by the entry of its service.
fn address_of(old: &[u64], vip: u64) -> Option<[u64; 2]> {
    let mut services = old[..MEMBERS / 8].chunks_exact(4);
    let found = services.find(|entry| {
        // A key that is in use, and a target that is a VIP.
        !matches!(entry[2], 0 | u64::MAX) && entry[3] & 0xff == 1 && entry[3] >> 16 & 0xffff == vip
    })?;
    Some([found[0], found[1]])
}

/// Only the reply has a state, besides the bit of UDP.
fn requests(old: &[u64], new: &mut [u64]) {
    const UDP: u64 = 8 << STATE_SHIFT;
    new.copy_from_slice(old);
    for cell in new.chunks_exact_mut(REQUEST) {
        cell[STATE_WORD] &= !(STATE ^ UDP);
    }
}

/// The bit of a packet in this direction is now that of the client's FIN, which was in the other
/// table: such a session stays until it has been idle for long. The VIP's address became the state of
/// the TCP connection, which is unknown.
fn replies(old: &[u64], new: &mut [u64]) {
    const SEEN: u64 = 1 << STATE_SHIFT;
    new.copy_from_slice(old);
    for cell in new.chunks_exact_mut(REPLY) {
        cell[STATE_WORD] &= !SEEN;
        cell[4..6].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{
        member::{Member, control},
        nat::{NatReply, ReplyBucket, RequestBucket},
        tables::Tables,
        vip::{VipEntry, VipKey, forward, target},
    };

    use super::*;

    #[test]
    fn elements_have_the_sizes_of_this_layout() {
        assert_eq!(size_of::<Tables>(), TABLES * 8);
        assert_eq!(size_of::<RequestBucket>(), CELLS * REQUEST * 8);
        assert_eq!(size_of::<ReplyBucket>(), CELLS * REPLY * 8);
        assert_eq!(size_of::<NatReply>(), REPLY * 8);
    }

    #[test]
    fn members_of_nat_get_the_address_of_their_vip() {
        let mut old = vec![0; TABLES];
        let mut vip: lb_common::vip::Vip = bytemuck::Zeroable::zeroed();
        let address = lb_common::address_v4(7);
        for (index, mode) in [(3_u16, forward::NAT), (4, forward::IPIP)] {
            vip.forward = mode;
            let entry = VipEntry {
                key: VipKey::new(&address, 4, 6, 80 + index),
                target: target::pack(target::VIP, index),
            };
            let mut member: Member = bytemuck::Zeroable::zeroed();
            member.control = control::pack(control::SERVING, 4, 1);
            member.source = [9, 9];
            member.vip = index;
            let at = usize::from(index);
            old[4 * at..][..4].copy_from_slice(bytemuck::cast_slice(&[entry]));
            old[VIPS / 8 + 8 * at..][..8].copy_from_slice(bytemuck::cast_slice(&[vip]));
            old[MEMBERS / 8 + 8 * at..][..8].copy_from_slice(bytemuck::cast_slice(&[member]));
        }
        let mut new = vec![0; TABLES];
        tables(&old, &mut new);
        let source = |index: usize| {
            let words = &new[MEMBERS / 8 + 8 * index..][..8];
            bytemuck::cast_slice::<u64, Member>(words)[0].source
        };
        assert_eq!(source(3), address);
        assert_eq!(source(4), [9, 9], "only those of nat");
    }
}
